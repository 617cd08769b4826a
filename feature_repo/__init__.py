"""The feature sets that Riffle ships, and the Feast repository that follows from them."""
