"""Bundles and the caches of this host: gathered and restored (caches.py), and whole folders pushed and pulled.

It may not know torch, Triton, or the program it runs in.

Imports: errors, times, settings, _version, format, local, remote, store.
"""
