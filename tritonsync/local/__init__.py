"""The caches on this host: Triton's kernel folders, Inductor's values, autotune results, folders of other libraries.

The only disk I/O on them; a folder or file appears whole or not at all. It may not know the bucket.
Begin with `emit.py`, where a kernel folder is written and renamed into place.

Imports: errors, times, settings, format.
"""
