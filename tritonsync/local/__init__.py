"""The caches on this host: the only room that reads and writes them."""
