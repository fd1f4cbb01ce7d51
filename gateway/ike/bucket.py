"""How often what anybody can ask for may be done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """So many at once, and then so many a second."""

    per_second: float
    most: float
    left: float
    filled_at: float = 0.0

    def fill(self, now: float) -> bool:
        """Whether there is one."""
        self.left = min(self.most, self.left + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        return self.left >= 1.0

    def take(self, now: float) -> bool:
        """Whether there was one; there is one less."""
        found = self.fill(now)
        self.left -= found
        return found
