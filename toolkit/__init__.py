"""fptk: train a face-parsing network, quantise it to INT8, and prove on every engine that it kept its accuracy."""

__version__ = "0.1.0"
