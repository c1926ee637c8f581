"""Bundles and the caches of this host: gathered and restored (caches.py), and whole folders pushed and pulled.

How fast that is in a user's bucket is measured in speed.py. Why something was compiled, or is not served, is worked out
in why.py, against this host (here.py) and what the bucket holds (stored.py, nearest.py). The room may not know torch,
Triton, or the program that it runs in.

Imports: errors, times, settings, _version, format, local, remote, store.
"""
