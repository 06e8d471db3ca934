"""Latency and throughput of sessions, measured in interleaved rounds."""
