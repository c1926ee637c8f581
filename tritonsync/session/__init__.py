"""One object a process through which plugins use the bucket, and its parts; `session.py` is where to begin.

It may not import torch or Triton: what only they know is given to it (`context.Host`). Nothing is imported here:
`process.py` serves `import torch`, which the rest must not slow down.

Imports: errors, times, messages, redaction, settings, format, local, remote, store, sync, watch.
"""
