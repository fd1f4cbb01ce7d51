"""The hold-down of a gateway that keeps failing: doubles with each failure, and is forgiven after a quiet time."""

from __future__ import annotations


class Damping:
    """`until` is when it may be a candidate again while the other one is there."""

    def __init__(self, first: float, longest: float, forgive_after: float) -> None:
        self.configure(first, longest, forgive_after)
        self.failures = 0
        self.until = 0.0
        self._last = float("-inf")

    def configure(self, first: float, longest: float, forgive_after: float) -> None:
        """Seconds, all three."""
        self._first, self._longest, self._forgive_after = first, longest, forgive_after

    def failed(self, now: float) -> None:
        """It lost the active role by a fault of its own."""
        if now - self._last > self._forgive_after:
            self.failures = 0
        self.failures += 1
        self._last = now
        self.until = now + min(self._first * 2 ** (self.failures - 1), self._longest)

    def forgive(self) -> None:
        self.failures, self.until = 0, 0.0

    def left(self, now: float) -> float:
        """Seconds of hold-down that are left."""
        return max(0.0, self.until - now)
