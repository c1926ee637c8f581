"""What a bucket holds: pure functions and frozen values.

Here is where names, kernels, bundles, manifests, packs and torch's pickled values are taken apart and put together, and
where a signature is checked. It may not do any I/O: bytes come in as arguments and go out as results.
Begin with `layout.py`, where the name of every object is made.

Imports: errors.
"""
