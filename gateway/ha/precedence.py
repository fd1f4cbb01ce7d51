"""For how long a peer that goes first is waited for: one that is as free to become active as we are, and ranks higher."""

from __future__ import annotations

from math import inf


class Precedence:
    """Not for ever where there is a witness: perhaps the peer does not reach it."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._held = False

    def note(self, now: float, *, first: bool, held: bool) -> None:
        """Whether the peer goes first. While the lease is `held` by somebody nobody can become active, and no time is lost."""
        anew = self._since is None or held or self._held
        self._since = (now if anew else self._since) if first else None
        self._held = held

    def forget(self) -> None:
        self._since = None

    def until(self, patience: float) -> float:
        """Infinity: nobody goes first."""
        return inf if self._since is None else self._since + patience

    def waits(self, now: float, patience: float) -> bool:
        return self._since is not None and now < self._since + patience
