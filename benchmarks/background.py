"""What else keeps the cores busy: their use while nothing is being measured (proc(5), /proc/stat)."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks import ahead

SHARE_TO_DOUBT = 0.1
_SAMPLE = 0.1  # seconds


def background_share() -> float:
    """0..1 of the cores this program may use, taken by others just now. The sides must be idle; they are put ahead of those
    others where that is asked for, BENCH_AHEAD."""
    if ahead.wanted():
        ahead.put_ahead(os.getpid())
    before = _ticks(Path("/proc/stat").read_text(), os.sched_getaffinity(0))
    time.sleep(_SAMPLE)
    after = _ticks(Path("/proc/stat").read_text(), os.sched_getaffinity(0))
    return share(before, after)


def share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Of two readings (busy, all)."""
    busy, total = after[0] - before[0], after[1] - before[1]
    return busy / total if total > 0 else 0.0


def _ticks(text: str, cores: set[int]) -> tuple[int, int]:
    """Busy and all ticks of some cores. Guest time is in user time already; waiting for a disk is idle."""
    busy = total = 0
    for line in text.splitlines():
        name, *fields = line.split()
        if not name.startswith("cpu") or name == "cpu" or int(name[3:]) not in cores:
            continue
        user, nice, system, idle, wait, irq, softirq, steal = (int(field) for field in fields[:8])
        busy += user + nice + system + irq + softirq + steal
        total += user + nice + system + idle + wait + irq + softirq + steal
    return busy, total
