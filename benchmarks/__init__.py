"""Benchmarks: gatewayd beside its peers in the same run. `python -m benchmarks [CASE ...]` as root, or `make bench`."""

import sys
from pathlib import Path

# The laboratory that builds the scenes is the one the system tests use.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
