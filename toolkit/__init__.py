"""fptk: train a face-parsing network, quantize it to INT8, and prove on every engine that it kept its accuracy."""

from fptk.core.version import __version__

__all__ = ["__version__"]
