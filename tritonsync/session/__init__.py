"""One object a process through which plugins use the bucket, and its parts; `session.py` is where to begin.

Nothing is imported here: `once.py` and `forkgate.py` serve `import torch`, which the rest must not slow down.
"""
