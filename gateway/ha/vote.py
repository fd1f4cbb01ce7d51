"""The reachability vote: what silence of the other gateway means where there is no witness, but places that both should reach.

    the other is silent and
        a majority of the targets answers here, for `wait` seconds of silence   -> a standby becomes active
        no majority answers here                                                -> who is active is so no more

This is no fence. Who is cut off from everything finds that out before the other takes over, for that waits longer than the targets
take to be missed. But where both reach the targets and not each other, both become active: nobody counts votes in one place, as a witness
does. So it is never in use unless the user says so, promotions by it are not fenced, and nothing that one gateway alone may do rests on it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VoteSettings:
    """How many targets there are, 0: no vote is held; and seconds of silence before a majority counts."""

    targets: int = 0
    wait: float = 0.0

    def is_lost(self, reached: int) -> bool:
        """Not more than half of them."""
        return 0 < self.targets >= 2 * reached

    def tally(self, reached: int) -> str:
        return f"{reached} of {self.targets} targets of the vote answer"

    def obstacle(self, reached: int, silent_from: float, now: float) -> str:
        """Why silence promotes nobody now; "" where it does."""
        if self.is_lost(reached):
            return f"only {self.tally(reached)}"
        left = silent_from + self.wait - now if self.targets else 0.0
        return f"the vote is given {left:.1f} s more: perhaps it misses its targets, too" if left > 0 else ""
