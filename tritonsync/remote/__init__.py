"""The bucket: the only room that imports fsspec."""
