"""Sojourn: run unmodified programs in a virtual machine that trusts nothing, where they should run.

The names listed in ``__all__`` are the public interface; everything else may change. They are
loaded on first use, so that importing the package costs nothing.
"""

__version__ = "0.1.0"
