"""TensorRT and TensorRT-RTX: graph checks, FP16, the builder's subprocess, its layer listing, and the CUDA runner."""
