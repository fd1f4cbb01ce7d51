"""Fixtures of the system tests, and `benchmarks`, whose load generator they use: it lies beside `tests` and is not installed.
At the end of the path, so that the installed gateway stays first."""

import sys
from pathlib import Path

from support.lab_fixtures import lab, pytest_exception_interact, scene

sys.path.append(str(Path(__file__).resolve().parents[2]))

__all__ = ["lab", "pytest_exception_interact", "scene"]
