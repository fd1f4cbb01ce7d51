"""Kernel routing: what must be in our table, what is, and the guard that keeps protected prefixes out of clear text."""
