"""The version of fptk."""

__version__ = "0.1.0"
