"""The highest epoch of the pair that this gateway knows, kept over a restart: `epoch` in the state directory, a number in text."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.runtime.durable import replaced

NAME = "epoch"
_MOST = 2**64 - 1


def read(directory: Path) -> int:
    """0 where nothing was written. OSError, ValueError: what is there cannot be read."""
    try:
        text = (directory / NAME).read_text("ascii")
    except FileNotFoundError:
        return 0
    epoch = int(text)
    if not 0 <= epoch <= _MOST:
        raise ValueError(f"{epoch} is no epoch")
    return epoch


def write(directory: Path, epoch: int) -> None:
    """Replaces the file as a whole. OSError: it could not; the old one stays."""
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f".{NAME}.new"
    with new.open("w") as file:
        file.write(f"{epoch}\n")
        file.flush()
        os.fsync(file.fileno())
    replaced(new, directory / NAME)
