"""TensorRT and TensorRT-RTX: rewrites and lint of the graph, FP16, the builder's process, layer report, sessions."""
