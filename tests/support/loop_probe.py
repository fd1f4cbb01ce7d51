"""Runs gatewayd and watches its event loop: `loop_probe.py OUTPUT gatewayd ARGUMENTS...`

A task that wakes every millisecond sees what happened in between: how late it is (waiting for a lock, a kernel call or
a core counts too) and how much CPU time the loop's thread took (what Python did). SIGUSR2 writes the largest of both
since the last time to OUTPUT; so does the end. PROFILE=DIRECTORY in the environment: cProfile of the loop's thread as
well, a file for every such span.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gateway.runtime import daemon as composition
from gateway.runtime.main import main

INTERVAL = 0.001


class Probe:
    def __init__(self, output: Path) -> None:
        self.output = output
        self.late = self.busy = 0.0
        self.lates: list[float] = []
        self.over = 0
        self.collecting = self.collected = 0.0
        gc.callbacks.append(self._collects)
        self.spans = 0
        self.profile = cProfile.Profile() if os.environ.get("PROFILE") else None

    async def watch(self) -> None:
        while True:
            clock, thread = time.monotonic(), time.thread_time()
            await asyncio.sleep(INTERVAL)
            late, busy = time.monotonic() - clock - INTERVAL, time.thread_time() - thread
            self.late, self.busy = max(self.late, late), max(self.busy, busy)
            self.lates.append(late)
            self.over += busy > 0.02

    def write(self) -> None:
        found = {
            "late, ms": round(self.late * 1000, 1),
            "late p99, ms": round(sorted(self.lates)[len(self.lates) * 99 // 100] * 1000, 1) if self.lates else 0.0,
            "busy, ms": round(self.busy * 1000, 1),
            "times over 20 ms": self.over,
            "longest garbage collection, ms": round(self.collected * 1000, 1),
        }
        self.collected = 0.0
        self.late = self.busy = 0.0
        self.lates.clear()
        self.over = 0
        self.write_profile()
        fresh = self.output.with_suffix(".new")
        fresh.write_text(json.dumps(found))
        fresh.rename(self.output)

    def _collects(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self.collecting = time.monotonic()
        else:
            self.collected = max(self.collected, time.monotonic() - self.collecting)

    def write_profile(self) -> None:
        if self.profile is not None:
            self.profile.disable()
            self.profile.dump_stats(f"{os.environ['PROFILE']}/{self.output.parent.parent.name}-{self.spans}.prof")
            self.spans += 1
            self.profile = cProfile.Profile()
            self.profile.enable()


def install(probe: Probe) -> None:
    run = composition.Daemon.run

    async def watched(self: composition.Daemon, *arguments: Any) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, probe.write)
        task = asyncio.create_task(probe.watch())
        if probe.profile is not None:
            probe.profile.enable()
        try:
            await run(self, *arguments)
        finally:
            task.cancel()
            probe.write()

    composition.Daemon.run = watched  # type: ignore[method-assign]


if __name__ == "__main__":
    install(Probe(Path(sys.argv[1])))
    sys.exit(main(sys.argv[3:]))
