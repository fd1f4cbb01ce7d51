"""`make soak-simulation`: schedules without end, in several processes, that go on where they were stopped.

    python -m simulation.soak 100000         SOAK_PROCESSES=2 beside each other; progress and findings in build/soak-simulation/

A finding is kept with its ladder and does not stop the rest. At the end: how many schedules, how long, what was found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from simulation.schedules import compose, play
from simulation.world import SimulationFailure

WHERE = Path("build/soak-simulation")
EVERY = 25
"""Schedules between two notes of progress."""


@dataclass(slots=True)
class Progress:
    """Of one process: it plays every `of`-th seed from `index` on."""

    index: int
    of: int
    played: int = 0
    seconds: float = 0.0
    findings: list[tuple[int, str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return WHERE / f"progress-{self.index + 1}-of-{self.of}.json"

    def load(self) -> Progress:
        if self.path.exists():
            kept = json.loads(self.path.read_text())
            self.played, self.seconds = kept["played"], kept["seconds"]
            self.findings = [(seed, why) for seed, why in kept["findings"]]
        return self

    def save(self) -> None:
        whole = self.path.with_suffix(".new")
        whole.write_text(json.dumps(asdict(self), indent=1))
        whole.replace(self.path)


def main(total: int, of: int) -> int:
    """All of them; 1 when there were findings."""
    WHERE.mkdir(parents=True, exist_ok=True)
    workers = [
        subprocess.Popen([sys.executable, "-m", "simulation.soak", str(total), str(of), str(index)])
        for index in range(of)
    ]
    ended = [worker.wait() for worker in workers]
    done = [Progress(index, of).load() for index in range(of)]
    findings = sorted(finding for one in done for finding in one.findings)
    longest = max(one.seconds for one in done)
    print(f"{sum(one.played for one in done)} schedules in {longest / 60:.1f} minutes of wall time with {of} processes")
    print(f"{len(findings)} findings")
    for seed, why in findings:
        print(f"  seed {seed}: {why} (SIM_SEED={seed}; ladder in {WHERE}/seed-{seed}.txt)")
    return 1 if findings or any(ended) else 0


def work(total: int, progress: Progress) -> None:
    """One process's share."""
    began, before = time.monotonic(), progress.seconds
    seeds = range(progress.index, total, progress.of)
    for seed in seeds[progress.played :]:
        try:
            play(seed)
        except SimulationFailure as failure:
            progress.findings.append((seed, str(failure).splitlines()[0]))
            (WHERE / f"seed-{seed}.txt").write_text(f"{compose(seed)}\n{failure}\n")
            print(f"{failure}".splitlines()[0], flush=True)
        progress.played += 1
        if progress.played % EVERY == 0 or progress.played == len(seeds):
            progress.seconds = before + time.monotonic() - began
            progress.save()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    count = numbers[0] if numbers else 100_000
    if len(numbers) == 3:
        work(count, Progress(numbers[2], numbers[1]).load())
    else:
        sys.exit(main(count, int(os.environ.get("SOAK_PROCESSES", "2"))))
