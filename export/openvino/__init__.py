"""OpenVINO: forms in a graph that it is known to compute wrongly, or to crash on, on some processor."""
