"""Measures penstock, and its peers beside it: ``python -m benchmarks``. See README.md."""
