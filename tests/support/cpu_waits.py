"""How long a gateway's workers were kept from their cores by what else runs on this machine.

Whose worker does not run forwards nothing, so a test of what a tunnel does meanwhile shows nothing about gatewayd. The kernel counts
the time that a thread is ready and has no core (schedstat: sched_info.run_delay, ns); its own work is not in it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from support.netns import Namespace
from support.process import wait_until

SPAN = 0.15
"""Seconds over which waits are added up."""
_EVERY, _LEAST = 0.05, 0.05
_WATCH = """
import os, sys, time
every, span, least = (float(one) for one in sys.argv[1:4])
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
files = [os.open(path, os.O_RDONLY) for path in sys.argv[4:]]
seen = {file: [] for file in files}
print("watching", flush=True)
while True:
    time.sleep(every)
    now = time.monotonic()
    for file, samples in seen.items():
        try:
            waited = int(os.pread(file, 100, 0).split()[1])
        except OSError:  # it has ended
            continue
        samples.append((now, waited))
        while samples[0][0] < now - span - every / 2:
            samples.pop(0)
        longest = (waited - samples[0][1]) / 1e9
        if longest >= least:
            print(now, longest, flush=True)
"""


class CpuWaits:
    """Watches the workers of these processes, from now until the laboratory ends."""

    def __init__(self, machine: Namespace, pids: Sequence[int]) -> None:
        threads = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
        workers = [str(task / "schedstat") for task in threads if "worker" in (task / "comm").read_text()]
        assert len(workers) >= len(pids), "a gateway has no worker"
        numbers = [str(_EVERY), str(SPAN), str(_LEAST)]
        argv = [sys.executable, "-S", "-E", "-c", _WATCH, *numbers, *workers]
        self._watch = machine.start(f"cpu-waits-{os.getpid()}", argv)
        wait_until(self._watch.log.read_text, 5, "the workers are watched", logs=[self._watch])

    def longest(self, since: float) -> float:
        """Seconds that one of them waited within SPAN, at worst, after `since` (time.monotonic()); below 0.05 s it is 0."""
        rows = [line.split() for line in self._watch.log.read_text().splitlines()[1:]]
        return max((float(waited) for at, waited in rows if float(at) > since), default=0.0)
