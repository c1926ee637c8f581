"""The bucket: six verbs over whatever fsspec can open, each bounded in time, with one kind of error for each cause.

The only room that imports fsspec and obstore. It may not know what an object means, nor the caches of this host.
Begin with `bucket.py`.

Imports: errors, times, redaction, settings, format.
"""
