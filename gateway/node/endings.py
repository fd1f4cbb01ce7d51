"""What the times at which the peer took a working connection down have in common: a habit of it has a cause, one does not.

A connection that is set up again within a second shows no failure when somebody looks; three ends of one kind do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

HABIT = 3
"""Ends that make one."""
WITHIN = 900.0
"""Seconds over which they are looked at, at least; of lifetimes longer than that, as many of them as it takes."""
AT_ONCE = 1.0
"""Seconds of life that are none: the peer ends what it has just agreed to."""
QUIET_SHARE = 0.8
"""Of its life, or of the same few seconds each time, that the connection carried nothing before its end."""


@dataclass(frozen=True, slots=True)
class _End:
    at: float
    lived: float
    quiet: float


class Endings:
    """Of one connection, or one of its CHILD_SAs."""

    def __init__(self) -> None:
        self._ends: deque[_End] = deque(maxlen=HABIT)

    def note(self, since: float, last_packet: float, now: float) -> None:
        """It stood `since`, and carried its last packet then."""
        self._ends.append(_End(now, now - since, now - max(since, last_packet)))

    def clear(self) -> None:
        self._ends.clear()

    @property
    def until(self) -> float:
        """When the habit counts as left, if the peer does not do it again; 0 where there is none."""
        if len(self._ends) < HABIT:
            return 0.0
        lives = [end.lived for end in self._ends]
        return min(
            self._ends[-1].at + max(30 * AT_ONCE, 2 * median(lives)),
            self._ends[0].at + max(WITHIN, 2 * sum(lives)),
        )

    def habit(self, now: float) -> dict[str, str]:
        """For explain.py; empty where there is none, or where it has been left."""
        if now >= self.until:
            return {}
        lives, quiets = [end.lived for end in self._ends], [end.quiet for end in self._ends]
        life, quiet = median(lives), median(quiets)
        if life < AT_ONCE and quiet >= QUIET_SHARE * life:
            return {"reason": "AT_ONCE", "times": str(len(lives))}
        idle = quiet >= QUIET_SHARE * life or (quiet > AT_ONCE and max(quiets) < 1.5 * min(quiets))
        kind, seconds = ("IDLE", quiet) if idle else ("LIFETIME", life)
        return {"reason": kind, "times": str(len(lives)), "seconds": f"{seconds:.0f}"}
