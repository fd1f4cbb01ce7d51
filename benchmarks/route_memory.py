"""What routes cost in memory: gatewayd's process from ExaBGP's lines on, beside BIRD, and FRR's two processes.

Every round begins with new processes, because what was once taken is not always given back.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from support.netns import Lab

from benchmarks.background import background_share
from benchmarks.result import Goal, Result
from benchmarks.rounds import Quantities, Round, Settings, say_round
from benchmarks.route_sides import BirdRoutes, FrrRoutes, OwnPart, RouteSide

_SIDES: Mapping[str, Callable[[Lab], RouteSide]] = {"ours": OwnPart, "peer": BirdRoutes, "frr": FrrRoutes}
_FEW, _MANY = 10_000, 100_000
_SETTLE = 2.0  # seconds until what is made along with routes is done


@dataclass(frozen=True, slots=True)
class RouteMemoryCase:
    name: str
    about: str

    def run(self, settings: Settings) -> list[Result]:
        rounds = [self._round(number) for number in range(settings.rounds)]
        return [
            self._result("-10k", "MB", rounds, "few", details=True),
            self._result("-100k", "MB", rounds, "many"),
            self._result("-100k-vs-frr", "MB", rounds, "many", peer="frr"),
            # Linear: a route costs the same whether there are few or many
            Result(f"{self.name}-linear", "KB/route", Goal("<=", 1.2), tuple(_each(one["ours"]) for one in rounds)),
        ]

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "MB", None, status=status, reason=reason)]

    def _result(
        self, name: str, unit: str, rounds: list[Round], quantity: str, *, peer: str = "peer", details: bool = False
    ) -> Result:
        pairs = tuple((one["ours"][quantity], one[peer][quantity]) for one in rounds)
        return Result(self.name + name, unit, None, pairs, details=[dict(one) for one in rounds] if details else [])

    def _round(self, number: int) -> Round:
        background = background_share()
        found: dict[str, Quantities] = {}
        for label in random.sample(list(_SIDES), len(_SIDES)):
            with Lab() as lab:
                side = _SIDES[label](lab)
                side.start()
                side.watch()
                found[label] = {"none": _resident(side)}
                for word, count in (("few", _FEW), ("many", _MANY)):
                    side.taken(count)
                    time.sleep(_SETTLE)
                    found[label][word] = _resident(side)
        say_round(number, found, background)
        return found | {"machine": {"background": background}}


def _each(found: Quantities) -> tuple[float, float]:
    """KB a route, of many and of few."""
    many, few = ((found[word] - found["none"]) * 1000 / count for word, count in (("many", _MANY), ("few", _FEW)))
    return many, few


def _resident(side: RouteSide) -> float:
    """MB of all that is measured, of gatewayd without the processes that only pass lines on."""
    pids = [side.daemon.process.pid] if isinstance(side, OwnPart) and side.daemon.process else side.measured
    return sum(map(_of_one, pids))


def _of_one(pid: int) -> float:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1000
