"""The reachability vote: what silence of the other gateway means where there is no witness, but places that both should reach.

    the other is silent and
        a majority of the targets answers here, both for `wait` seconds         -> a standby becomes active
        no majority answers here                                                -> who is active is so no more

This is no fence. Who is cut off from everything finds that out before the other takes over, for that waits longer than the targets
take to be missed; and when its link is back it hears of the other before its own wait is over. But where both reach the targets and
not each other, both become active: nobody counts votes in one place, as a witness does. So it is never in use unless the user says so,
promotions by it are not fenced, and nothing that one gateway alone may do rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VoteSettings:
    """How many targets there are, 0: no vote is held; and seconds before silence and a majority count."""

    targets: int = 0
    wait: float = 0.0


class Vote:
    """One gateway's count. Until it is told of any, no target answers."""

    def __init__(self, settings: VoteSettings) -> None:
        self._settings = settings
        self._reached = 0
        self._won_since = 0.0

    def configure(self, settings: VoteSettings, now: float) -> None:
        if settings != self._settings:
            self._settings, self._won_since = settings, now

    def counted(self, reached: int, now: float) -> None:
        """So many targets answer."""
        if self.is_lost:
            self._won_since = now
        self._reached = reached

    @property
    def is_lost(self) -> bool:
        """Not more than half of them answer."""
        return 0 < self._settings.targets >= 2 * self._reached

    @property
    def tally(self) -> str:
        return f"{self._reached} of {self._settings.targets} targets of the vote answer"

    def counts_from(self, silent_from: float) -> float:
        """When it promotes, if it is won and nothing changes."""
        return max(silent_from, self._won_since) + self._settings.wait

    def obstacle(self, silent_from: float, now: float) -> str:
        """Why silence promotes nobody now; "" where it does."""
        if self.is_lost:
            return f"only {self.tally}"
        left = self.counts_from(silent_from) - now if self._settings.targets else 0.0
        return f"the vote is given {left:.1f} s more: perhaps it misses its targets, too" if left > 0 else ""
