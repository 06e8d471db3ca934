"""Calibration set, quantisers and the accuracy gate."""
