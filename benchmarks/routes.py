"""Ten thousand routes: from the peer to the kernel, and away again; gatewayd beside BIRD and FRR in the same round.

How late the event loop was is compared with a process that only sleeps, on the same cores at the same time: what the
machine alone makes late is not ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from support.netns import Lab

from benchmarks.background import background_share
from benchmarks.report import write as say
from benchmarks.result import Goal, Result
from benchmarks.rounds import Quantities, Round, Settings, say_round
from benchmarks.route_sides import (
    BirdRoutes,
    FrrRoutes,
    GatewaydRoutes,
    Late,
    OwnPart,
    RouteSide,
    probe_of,
)

_SIDES: Mapping[str, Callable[[Lab], RouteSide]] = {
    "ours": GatewaydRoutes,
    "own": OwnPart,
    "peer": BirdRoutes,
    "frr": FrrRoutes,
}
_LEAST = 0.1  # ms; below, how late a timer was is noise


@dataclass(frozen=True, slots=True)
class RoutesCase:
    """All sides stand at the same time and are measured in turns."""

    name: str
    about: str
    routes: int = 10_000

    def run(self, settings: Settings) -> list[Result]:
        with ExitStack() as stack:
            sides = {label: make(stack.enter_context(Lab())) for label, make in _SIDES.items()}
            late = Late(sides["peer"].machine)
            for label, side in sides.items():
                side.start()
                side.watch()
                say(f"   {label + ':':6} {side.kind}\n")
                self._come_and_go(side, late)  # warm, and what stays closed is known from here on as it is in the field
            rounds = [self._round(number, sides, late) for number in range(settings.rounds)]
        return [
            self._result("", "s", rounds, "seconds", goal=Goal("<=", 1.9, "ours"), details=True),
            self._result("-own", "s", rounds, "seconds", ours="own", goal=Goal("<=", 0.7, "ours")),
            self._result("-vs-frr", "s", rounds, "seconds", peer="frr"),
            self._result("-withdrawn", "s", rounds, "withdrawn"),
            self._result("-cpu", "CPU s", rounds, "cpu"),
            self._result("-own-cpu", "CPU s", rounds, "cpu", ours="own"),
            self._result("-late-p99", "ms", rounds, "late_p99", peer="idle", goal=Goal("<=", 20, "ours")),
            self._result("-late-max", "ms", rounds, "late_max", peer="idle", goal=Goal("<=", 50, "ours")),
        ]

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "s", Goal("<=", 1.9, "ours"), status=status, reason=reason)]

    def _result(
        self, name: str, unit: str, rounds: list[Round], quantity: str, *, ours: str = "ours", peer: str = "peer",
        goal: Goal | None = None, details: bool = False,
    ) -> Result:  # fmt: skip
        pairs = tuple((one[ours][quantity], one[peer][quantity]) for one in rounds)
        return Result(self.name + name, unit, goal, pairs, details=[dict(one) for one in rounds] if details else [])

    def _round(self, number: int, sides: Mapping[str, RouteSide], late: Late) -> Round:
        background = background_share()
        found: dict[str, Quantities] = {}
        for label in random.sample(list(sides), len(sides)):
            found[label], idle = self._come_and_go(sides[label], late)
            if label == "ours":
                found["idle"] = idle
        say_round(number, found, background)
        return found | {"machine": {"background": background}}

    def _come_and_go(self, side: RouteSide, late: Late) -> tuple[Quantities, Quantities]:
        late.read()
        if isinstance(side, GatewaydRoutes | OwnPart):
            probe_of(side.daemon)
        seconds, cpu = side.taken(self.routes)
        own: Quantities = {}
        if isinstance(side, GatewaydRoutes | OwnPart):
            own = _lates(probe_of(side.daemon))
        idle = _lates(late.read())
        withdrawn, _ = side.taken(0)
        return {"seconds": seconds, "cpu": max(cpu, 0.01), "withdrawn": withdrawn, **own}, idle


def _lates(found: Mapping[str, float]) -> Quantities:
    return {"late_p99": max(found["late p99, ms"], _LEAST), "late_max": max(found["late, ms"], _LEAST)}
