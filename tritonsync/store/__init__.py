"""Bundles in the bucket: loaded (reader.py), published (writer.py), listed (catalog.py) and checked (verify.py).

It composes the format and the bucket. It may not know the caches of this host.

Imports: errors, times, messages, settings, format, remote.
"""

from tritonsync.store.reader import Found, Loaded
from tritonsync.store.writer import Published, Store

__all__ = ["Found", "Loaded", "Published", "Store"]
