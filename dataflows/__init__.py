"""The flows, what starts them, and the `riffle` command."""
