"""The store: bundles out of a bucket (`reader.py`) and into it (`store.py`)."""

from tritonsync.store.reader import Found, Loaded
from tritonsync.store.store import Published, Store

__all__ = ["Found", "Loaded", "Published", "Store"]
