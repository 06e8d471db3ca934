"""From a trained network to an engine: ONNX, precision, and one target per inference engine."""
