"""Files that are replaced as a whole and outlive a power failure."""

from __future__ import annotations

import os
from pathlib import Path


def replaced(new: Path, path: Path) -> None:
    """`new`, written and synchronised, takes the place of `path` beside it; the directory's entry is on disk when it returns,
    before which either of the two may be found. OSError: perhaps not. Blocks."""
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
