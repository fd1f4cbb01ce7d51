"""Whether what is measured goes ahead of what else runs on the machine.

Where the kernel groups processes by session (sched(7), "The autogroup feature"), nice counts within a session only: a program at
nice 19 in a session of its own takes as much of the cores as a gateway does. So it is the sessions that are put ahead. What
others still cost, caches and the cores' clock, stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_NICE = -15
_PROC = Path("/proc")


def wanted() -> bool:
    return bool(os.environ.get("BENCH_AHEAD"))


def put_ahead(first: int) -> None:
    """The sessions that descendants of this process have begun by now; not its own, which outlives the benchmark."""
    for pid in _family(first):
        with suppress(OSError):  # it ended meanwhile, or there are no such groups
            if os.getsid(pid) != os.getsid(first):
                (_PROC / str(pid) / "autogroup").write_text(str(_NICE))


def _family(first: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [first]
    for pid in found:
        found += children.get(pid, [])
    return iter(found)
