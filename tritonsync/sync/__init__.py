"""Bundles and the caches of this host: gathered, restored, and whole folders pushed and pulled."""
