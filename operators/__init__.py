"""Riffle's operators: the declaration of features and the engine that computes them."""
