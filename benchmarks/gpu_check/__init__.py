"""The steps of `benchmarks/gpu.py`, and what they share."""
