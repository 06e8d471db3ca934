"""The report: one HTML page about a training and its engines, whole in itself, for people."""
