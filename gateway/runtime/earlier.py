"""What the state directory tells of the process before this one; a file that cannot be read is told, and the start goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.routing.model import Prefix
from gateway.runtime import epoch_file, saved_guard
from gateway.runtime.crash_secret import crash_secret

Tell = Callable[[str, str, str], None]
"""Level, event, text."""


def secret(directory: Path, tell: Tell) -> bytes:
    """What quick crash detection derives its tokens from (RFC 6290); empty: none."""
    try:
        return crash_secret(directory)
    except OSError as error:
        tell("warning", "crash-secret-failed", str(error.strerror))
        return b""


def learned(directory: Path, tell: Tell) -> Mapping[str, tuple[Prefix, ...]]:
    """By instance, the prefixes that stay protected."""
    saved = saved_guard.read(directory)
    if saved.problem:
        tell("error", "saved-guard-unreadable", saved.problem)
    return saved.learned


def epoch(directory: Path, tell: Tell) -> int:
    """The highest one known."""
    try:
        return epoch_file.read(directory)
    except (OSError, ValueError) as error:
        text = f"{directory / epoch_file.NAME} cannot be read ({error}); the epoch is learned from the others"
        tell("warning", "epoch-unreadable", text)
        return 0
