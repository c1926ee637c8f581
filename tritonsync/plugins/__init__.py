"""The edges inside other programs: PyTorch, found by `autoload.py`, and Triton.

What they call never raises: it catches, says it once, and lets the program compile. A plugin uses the verbs of the
session and may not use its parts, or the bucket.

Imports: errors, times, messages, redaction, settings, format, local, bundler, session, sync, watch.
"""
