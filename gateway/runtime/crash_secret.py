"""The secret behind the tokens of quick crash detection (RFC 6290 5.1), in the state directory, so that it outlives us.

Made at the first start. It is this gateway's alone: the other one of a pair must not have a copy (RFC 6290 9.2). Addresses that move
between the two have another one (`node/pair_settings.py`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

NAME = "crash-detection-secret"
OCTETS = 32


def crash_secret(directory: Path) -> bytes:
    """The secret. OSError with a sentence where there is none to be had; then there are no tokens."""
    path = directory / NAME
    try:
        return _read(path) or _make(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"no quick crash detection: {path}: {reason}") from error


def _read(path: Path) -> bytes:
    """Empty: there is none yet, or one that we were killed over while we wrote it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o077:
            raise OSError(None, "not a file that only we can read; remove it, and a new one is made")
        octets = file.read(OCTETS)
    return octets if len(octets) == OCTETS else b""


def _make(path: Path) -> bytes:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made, beside = os.urandom(OCTETS), path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(made)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
    return made
