"""Riffle beside its peers: ``python -m benchmarks.run``, or ``make bench``."""
