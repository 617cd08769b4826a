"""Compiles every kernel once, into the cache that running processes read.

Run by set-up and by the image build: ``python -m operators.kernels.warm``. It computes a small set
that uses every step, over rows of every kind, in-order and not.
"""
