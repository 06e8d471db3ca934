"""Measures sessions: latency in interleaved rounds, memory, roofline, profile, and the processor matrix."""
