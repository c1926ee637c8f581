"""`tritonsync demo`: real kernels through a real bucket and back, without a GPU.

`run.py` is the demo, `kernels.py` the script that Triton compiles. The script runs in a child process, as a program of
a user would, and lies in a folder of its own because Python puts that folder first on the child's import path.
"""
