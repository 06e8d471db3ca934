"""Networks that are not fptk's: an ONNX file, described, wrapped into fptk's contract, and rewritten where proven."""
