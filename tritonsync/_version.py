"""The version, in a file of its own, so that a module which states it need not import the package.

Imports: nothing.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
