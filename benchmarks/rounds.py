"""Interleaved rounds: in each round every side of a case is measured once, in random order; the ratio is the round's own.

The machine's speed drifts by tens of percent within minutes; what is measured seconds apart is comparable, what is
measured at other times is not.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from support.netns import Lab
from support.process import LabError

from benchmarks.background import SHARE_TO_DOUBT, background_share
from benchmarks.errors import BenchError, Unavailable
from benchmarks.native_programs import lines
from benchmarks.result import Goal, Result
from benchmarks.side import Conditions, Side

Quantities = dict[str, float]
Round = Mapping[str, Quantities]
LEAST_ROUNDS = 5
_WARM_UP = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    rounds: int = LEAST_ROUNDS
    seconds: float = 3.0


class Case(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    def run(self, settings: Settings) -> list[Result]:
        """Raises BenchError, LabError or Unavailable."""

    def void(self, status: str, reason: str) -> list[Result]:
        """The rows without numbers."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing measured in every round; `side` None: no network is needed."""

    side: Callable[[Lab, str], Side] | None
    measure: Callable[[Any, float], Quantities]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a case: what a round says of ours and of the peer's."""

    name: str
    unit: str
    goal: Goal
    of: Callable[[Round], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class NetworkCase:
    """Sides that stand at the same time, each in machines of its own, and are measured in turns."""

    name: str
    about: str
    probes: Mapping[str, Probe]
    rows: Sequence[Row]

    def run(self, settings: Settings) -> list[Result]:
        with Lab() as lab:
            sides: dict[str, Side | None] = {}
            for label, probe in self.probes.items():
                sides[label] = probe.side(lab, label) if probe.side else None
                side = sides[label]
                if side is not None:
                    side.ready()
                    if side.spins:
                        side.freeze()
            standing = {label: side for label, side in sides.items() if side is not None}
            _equal_conditions(standing)
            for label in standing:
                self._measure(label, sides, _WARM_UP)
            rounds = [self._round(number, sides, settings) for number in range(settings.rounds)]
            _equal_conditions(standing, quiet=True)
        return [
            Result(
                row.name,
                row.unit,
                row.goal,
                tuple(row.of(one) for one in rounds),
                details=[dict(one) for one in rounds],
            )
            for row in self.rows
        ]

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(row.name, row.unit, row.goal, status=status, reason=reason) for row in self.rows]

    def _round(self, number: int, sides: Mapping[str, Side | None], settings: Settings) -> Round:
        order = random.sample(list(sides), len(sides))
        background = background_share()
        found = {label: self._measure(label, sides, settings.seconds) for label in order}
        sizes = {label: quantities["mss"] for label, quantities in found.items() if "mss" in quantities}
        if len(set(sizes.values())) > 1:
            raise BenchError(f"segments of different size: {sizes}")
        if found.get("peer", {}).get("sender_bound"):
            raise BenchError("the peer lost nothing at any rate the sender managed: its limit is not known")
        say_round(number, found, background)
        return found | {"machine": {"background": background}}

    def _measure(self, label: str, sides: Mapping[str, Side | None], seconds: float) -> Quantities:
        side = sides[label]
        if side is None or not side.spins:
            return self.probes[label].measure(side, seconds)
        side.thaw()
        try:
            return self.probes[label].measure(side, seconds)
        finally:
            side.freeze()


@dataclass(frozen=True, slots=True)
class MemoryCase:
    """A program that measures ours and the yardstick in turns by itself; every round is a new process."""

    name: str
    about: str
    program: str
    arguments: Callable[[int], Sequence[str]]  # of a seed
    goal: Callable[[str], Goal | None]  # of a row's name

    def run(self, settings: Settings) -> list[Result]:
        rounds, machine = [], []
        for _ in range(settings.rounds):
            machine.append({"machine": {"background": background_share()}})
            rounds.append(lines(self.program, *self.arguments(random.getrandbits(32))))
            sys.stdout.write(".")
            sys.stdout.flush()
        sys.stdout.write("\n")
        return [
            Result(
                f"micro-{first['name']}",
                first["unit"],
                self.goal(first["name"]),
                tuple((one[index]["ours"], one[index]["peer"]) for one in rounds),
                details=machine,
            )
            for index, first in enumerate(rounds[0])
        ]

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "", None, status=status, reason=reason)]


def outcome(case: Case, settings: Settings) -> list[Result]:
    """The rows of a case; one that cannot be measured has no number, and says why."""
    try:
        return case.run(settings)
    except Unavailable as missing:
        status, _, reason = str(missing).partition(": ")
        known = status in ("not available", "not built")
        return case.void(status if known else "not available", reason if known else str(missing))
    except (BenchError, LabError, subprocess.TimeoutExpired) as error:
        return case.void("failed", str(error))


def _equal_conditions(sides: Mapping[str, Side], *, quiet: bool = False) -> None:
    found = {label: side.conditions() for label, side in sides.items()}
    if not quiet:
        for label, conditions in found.items():
            _say_conditions(label, sides[label], conditions)
    if len({conditions.comparable() for conditions in found.values()}) > 1:
        raise BenchError(f"the sides are not equal: {found}")


def _say_conditions(label: str, side: Side, found: Conditions) -> None:
    tunnel = f", tunnel {found.tunnel_mtu}" if found.tunnel_mtu is not None else ""
    sys.stdout.write(
        f"   {label + ':':6} {side.kind:22} MTU {found.path_mtu}{tunnel}, WAN {found.wan_mtu}; txqueuelen {found.queue_length}; "
        f"cores {found.cores}; {found.congestion_control}; nice {found.nice}{', UDP GRO on the LANs' if found.lan_udp_gro else ''}\n"
    )


def say_round(number: int, found: Round, background: float) -> None:
    words = (
        f"{label} " + " ".join(f"{key}={value:.4g}" for key, value in quantities.items() if key != "mss")
        for label, quantities in found.items()
    )
    busy = f" (others took {background:.0%} of the cores)" if background > SHARE_TO_DOUBT else ""
    sys.stdout.write(f"   round {number + 1}: {' | '.join(words)}{busy}\n")
    sys.stdout.flush()
