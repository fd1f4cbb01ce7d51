"""What every check across keys is given, and what it yields."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config.diagnostics import KeyPath, Severity
from gateway.config.model import Config
from gateway.config.positions import Positions

Finding = tuple[Severity, KeyPath, str]


@dataclass(frozen=True, slots=True)
class Facts:
    """The configuration and what is known about the file it came from."""

    config: Config
    positions: Positions
    left_out: frozenset[str] = frozenset()
    """Connections with mistakes of their own: they exist, but not in `config`."""
    incomplete: bool = False
    """Something was left out of `config`, so that its absence means nothing."""

    def line(self, path: KeyPath) -> int:
        """The line of a key, for messages that name another place."""
        return self.positions.at(path).line
