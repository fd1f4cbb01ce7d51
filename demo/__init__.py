"""The demo: one scene, one gateway, everything it promises shown in under a minute. Run as root: `python -m demo`."""

import sys
from pathlib import Path

# The laboratory that builds the scene is the one the system tests use.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
