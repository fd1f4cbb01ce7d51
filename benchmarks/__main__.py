"""`python -m benchmarks [CASE ...] [--rounds N] [--seconds S]` (root), or the same from the environment: BENCH_CASES=a,b,
BENCH_ROUNDS, BENCH_SECONDS. BENCH_REPORT=FILE writes JSON, after every case, so that what was measured survives.
BENCH_AHEAD=1: all that is measured goes ahead of what else runs here (ahead.py).

Exit code: 1 when a case failed, that is when a measurement is void; a goal missed is a result, and `--strict` makes it
a failure too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from types import FrameType

from benchmarks import ahead
from benchmarks.cases import CASES
from benchmarks.report import background, table, write, write_json
from benchmarks.result import Result
from benchmarks.rounds import LEAST_ROUNDS, Settings, outcome

_CORES = 2
_SECONDS = 2.0
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run the chosen cases, print, write the report."""
    wanted = _arguments()
    if os.geteuid() != 0:
        sys.stderr.write("the benchmarks make network namespaces and TUN devices: run them as root\n")
        return 2
    for number in _ENDINGS:
        signal.signal(number, _ended)
    cores = sorted(os.sched_getaffinity(0))[:_CORES]
    os.sched_setaffinity(0, cores)  # inherited by everything: both gateways and both hosts on the same two cores
    random.seed(wanted.seed)
    settings = Settings(wanted.rounds, wanted.seconds)
    chosen = [case for case in CASES if not wanted.case or case.name in wanted.case]
    results: list[Result] = []
    write(
        f"kernel {os.uname().release}, cores {cores}, load {os.getloadavg()[0]:.2f}; "
        f"{settings.rounds} rounds of {settings.seconds:g} s, seed {wanted.seed}"
        f"{', ahead of what else runs' if ahead.wanted() else ''}\n"
    )
    if settings.rounds < LEAST_ROUNDS:
        write(f"fewer than {LEAST_ROUNDS} rounds: good for trying out only\n")
    try:
        for case in chosen:
            started = time.monotonic()
            write(f"\n{case.name}: {case.about}\n")
            rows = outcome(case, settings)
            results += rows
            if path := os.environ.get("BENCH_REPORT"):
                write_json(results, path)
            write("".join(f"   {row.status}: {row.reason}\n" for row in rows[:1] if not row.pairs))
            write(f"   {time.monotonic() - started:.0f} s\n")
    finally:
        if results:
            write("\n" + table(results) + background(results))
    failed = any(row.status == "failed" for row in results)
    missed = wanted.strict and any(row.met is False for row in results)
    return 1 if failed or missed else 0


def _arguments() -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser("python -m benchmarks", description="gatewayd beside its peers in the same run.")
    told = os.environ.get
    parser.add_argument("case", nargs="*", metavar="CASE", help=f"default all: {' '.join(names)}")
    # text, so that argparse judges what the environment says as it judges an option
    parser.add_argument("--rounds", type=int, default=told("BENCH_ROUNDS") or str(LEAST_ROUNDS))
    parser.add_argument("--seconds", type=float, default=told("BENCH_SECONDS") or str(_SECONDS), help="of one turn")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), help="of the random order")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--list", action="store_true", help="name the cases and exit")
    wanted = parser.parse_args()
    wanted.case = wanted.case or [name for name in told("BENCH_CASES", "").replace(" ", "").split(",") if name]
    unknown = [name for name in wanted.case if name not in names]
    if unknown:
        parser.error(f"no such case: {' '.join(unknown)}; there are {' '.join(names)}")
    if wanted.rounds < 1 or wanted.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    if wanted.list:
        write("".join(f"{case.name:20} {case.about}\n" for case in CASES))
        raise SystemExit(0)
    return wanted


def _ended(number: int, frame: FrameType | None) -> None:
    """So that every scene is removed on the way out, and a second Ctrl-C does not stop that."""
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
