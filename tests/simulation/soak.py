"""`make soak-simulation`: schedules by the hundred thousand, in several processes, that go on where they were stopped.

    python -m simulation.soak 100000         SOAK_PROCESSES=2 beside each other; progress and findings in build/soak-simulation/
    SOAK_OF=pair ...                         of the pair of gateways instead of IKE; in build/soak-pair/
    SOAK_OF=move ...                         of whole pairs with an address that moves; in build/soak-move/

A finding is kept with its ladder and does not stop the rest. At the end: how many schedules, how long, what was found.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from simulation import ha_schedules, move_schedules, schedules
from simulation.world import SimulationFailure

OF = os.environ.get("SOAK_OF", "simulation")
SCHEDULES = {"simulation": schedules, "pair": ha_schedules, "move": move_schedules}[OF]
WHERE = Path(f"build/soak-{OF}")
BLOCK = 250
"""Schedules between two notes of progress."""


def main(total: int, processes: int) -> int:
    """All of them; 1 when there were findings."""
    WHERE.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    arguments = [[str(total), str(processes), str(index)] for index in range(processes)]
    workers = [subprocess.Popen([sys.executable, "-m", "simulation.soak", *one]) for one in arguments]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        ended = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.terminate()
    now = (time.monotonic() - began) / 60
    print(f"this run: {now:.1f} minutes of wall time with {processes} processes")
    return 1 if report() or any(ended) else 0


def report() -> int:
    """Prints what all runs so far came to; the number of findings."""
    blocks = [json.loads(path.read_text()) for path in sorted(WHERE.glob("block-*.json"))]
    findings = [finding for block in blocks for finding in block["findings"]]
    seconds = sum(block["seconds"] for block in blocks)
    print(f"all runs: {sum(block['count'] for block in blocks)} schedules, {seconds / 60:.1f} minutes of one process")
    print(f"{len(findings)} findings")
    for seed, why in findings:
        print(f"  {why} (SIM_SEED={seed}; ladder in {WHERE}/seed-{seed}.txt)")
    return len(findings)


def work(total: int, processes: int, index: int) -> None:
    """One process's share: every so manieth block, those excepted that an earlier run finished."""
    for first in range(index * BLOCK, total, processes * BLOCK):
        done = WHERE / f"block-{first:08}.json"
        if done.exists():
            continue
        began, seeds = time.monotonic(), range(first, min(first + BLOCK, total))
        findings = [(seed, why) for seed in seeds if (why := _finding(seed))]
        kept = {"count": len(seeds), "seconds": time.monotonic() - began, "findings": findings}
        whole = done.with_suffix(".new")
        whole.write_text(json.dumps(kept))
        whole.replace(done)


def _finding(seed: int) -> str:
    """What went wrong in one schedule; "" when nothing did."""
    try:
        SCHEDULES.play(seed)
    except SimulationFailure as failure:
        why = str(failure).splitlines()[0]
        (WHERE / f"seed-{seed}.txt").write_text(f"{SCHEDULES.compose(seed)}\n{failure}\n")
        print(why, flush=True)
        return why
    return ""


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    if len(numbers) == 3:
        work(*numbers)
    else:
        sys.exit(main(numbers[0] if numbers else 100_000, int(os.environ.get("SOAK_PROCESSES", "2"))))
