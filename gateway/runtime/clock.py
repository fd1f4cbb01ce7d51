"""The node's clock: CLOCK_BOOTTIME, seconds. It never jumps, and goes on while the machine is suspended (clock_gettime(2)), so that what
was over meanwhile is over afterwards: a lease, an SA's lifetime."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since the machine booted, suspended ones included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
