"""The system's random source, as the cores take it."""

from __future__ import annotations

import os
import random

_system = random.SystemRandom()


class SystemRandom:
    """`gateway.contract.RandomSource` over getrandom(2)."""

    def octets(self, count: int) -> bytes:
        return os.urandom(count)

    def uniform(self, low: float, high: float) -> float:
        return _system.uniform(low, high)
