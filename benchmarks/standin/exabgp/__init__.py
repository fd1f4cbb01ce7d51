"""In the place of the package `exabgp`, for benchmarks of our own part: see __main__.py."""
