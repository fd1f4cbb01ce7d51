"""Ten thousand routes leave one of two ways: in order (`routes-move`), or because a link is cut (`routes-cut-100`, `-300`).

Packets go to prefixes spread over the table, so what is measured is true of all routes: `move` until the last packet on the
old way, `cut` from the last packet there to the first on the other one, the longest of all prefixes. Of gatewayd the messages
that changed a nexthop group are counted too, and how late its event loop was while it chose anew.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from support.netns import Lab
from support.process import Process, wait_until

from benchmarks.background import background_share
from benchmarks.report import write as say
from benchmarks.result import Goal, Result
from benchmarks.rounds import Quantities, Round, Settings, say_round
from benchmarks.route_sides import Late, probe_of
from benchmarks.two_ways import SETTLED, BirdLinks, FrrLinks, Tunnels, TwoWays

_SIDES: Mapping[str, Callable[[Lab, int, int], TwoWays]] = {"ours": Tunnels, "peer": BirdLinks, "frr": FrrLinks}
_CHOOSING = 3.0  # seconds in which the decision process gives every route its new order
_LEAST = 0.1  # ms; below, how late a timer was is noise


@dataclass(frozen=True, slots=True)
class FailoverCase:
    """`silently`: a link is cut; else the way is given up in order. `interval`: of BFD, in milliseconds, times 3."""

    name: str
    about: str
    silently: bool
    interval: int
    goal: float  # seconds
    routes: int = 10_000

    def run(self, settings: Settings) -> list[Result]:
        with ExitStack() as stack:
            late = Late(stack.enter_context(Lab()).namespace("idle"))
            sides: dict[str, TwoWays] = {}
            for label, make in _SIDES.items():
                sides[label] = make(stack.enter_context(Lab()), self.interval, self.routes)
                sides[label].start()
                say(f"   {label + ':':6} {sides[label].kind}\n")
            rounds = [self._round(number, sides, late) for number in range(settings.rounds)]
        return [
            self._result("", "s", rounds, "seconds", goal=Goal("<=", self.goal, "ours"), details=True),
            self._result("-vs-frr", "s", rounds, "seconds", peer="frr"),
            self._result("-cpu", "CPU s", rounds, "cpu"),
            self._result("-late-p99", "ms", rounds, "late_p99", peer="idle", goal=Goal("<=", 20, "ours")),
            self._result("-late-max", "ms", rounds, "late_max", peer="idle", goal=Goal("<=", 50, "ours")),
        ] + (
            [] if self.silently else [self._result("-messages", "", rounds, "messages", peer="one", goal=Goal("<=", 1))]
        )

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "s", Goal("<=", self.goal, "ours"), status=status, reason=reason)]

    def _result(
        self, name: str, unit: str, rounds: list[Round], quantity: str, *, peer: str = "peer",
        goal: Goal | None = None, details: bool = False,
    ) -> Result:  # fmt: skip
        pairs = tuple((one["ours"][quantity], one[peer][quantity]) for one in rounds)
        return Result(self.name + name, unit, goal, pairs, details=[dict(one) for one in rounds] if details else [])

    def _round(self, number: int, sides: Mapping[str, TwoWays], late: Late) -> Round:
        background = background_share()
        found: dict[str, Quantities] = {}
        for label in random.sample(list(sides), len(sides)):
            found[label], idle = self._gone_and_back(sides[label], late)
            if label == "ours":
                found["idle"] = idle
        say_round(number, found, background)
        found["one"] = {"messages": 1.0}
        return found | {"machine": {"background": background}}

    def _gone_and_back(self, side: TwoWays, late: Late) -> tuple[Quantities, Quantities]:
        late.read()
        if isinstance(side, Tunnels):
            probe_of(side.paths.daemon)
        monitor = _monitor(side)
        told = len(monitor.log.read_text())  # of the rounds before
        side.forget()
        cpu, begun = side.cpu, time.monotonic()
        (side.cut if self.silently else side.leave)()
        wait_until(lambda: self._moved(side), SETTLED, f"{side.kind}: every prefix at the other edge", interval=0.2)
        seconds = max(self._gap(side) if self.silently else self._last(side) - begun, 1e-4)
        time.sleep(max(0.0, begun + _CHOOSING - time.monotonic()))
        own: Quantities = {"seconds": seconds, "cpu": max(side.cpu - cpu, 0.01)}
        if isinstance(side, Tunnels):
            own |= _lates(probe_of(side.paths.daemon))
            own["messages"] = float(self._regrouped(monitor.log.read_text()[told:]))
        monitor.kill()
        idle = _lates(late.read())
        (side.mend if self.silently else side.come_back)()
        side.wait_for(0)
        return own, idle

    def _moved(self, side: TwoWays) -> bool:
        """Whether packets to every prefix came out at the other edge, and none at the first since."""
        old, new = side.taken(0), side.taken(1)
        return all(
            target in new and new[target][-1][0] > number + 20
            for target, number in ((target, old[target][-1][0] if target in old else 0) for target in new)
        ) and len(new) >= max(len(old), 1)

    def _gap(self, side: TwoWays) -> float:
        """The longest of all prefixes."""
        old, new = side.taken(0), side.taken(1)
        return max(
            next(at for number, at in new[target] if number > packets[-1][0]) - packets[-1][1]
            for target, packets in old.items()
        )

    def _last(self, side: TwoWays) -> float:
        """When the last packet of any prefix came out the old way."""
        return max((packets[-1][1] for packets in side.taken(0).values()), default=0.0)

    def _regrouped(self, text: str) -> int:
        """Messages about a group that is not new: before the decision process gives routes another one."""
        seen: dict[str, int] = {}
        for line in text.splitlines():
            words = line.split()
            if "group" in words and words[0] == "id":
                seen[words[1]] = seen.get(words[1], 0) + 1
        return max(seen.values(), default=0)


def _monitor(side: TwoWays) -> Process:
    """Of nexthops and groups, as soon as it hears: first of one that is nobody's."""
    monitor = side.gateway.start("nexthops", ["ip", "-o", "monitor", "nexthop"])
    told, probe = len(monitor.log.read_text()), ("id", "4294967294", "blackhole")

    def hears() -> bool:
        side.gateway.run("ip", "nexthop", "replace", *probe)
        return len(monitor.log.read_text()) > told

    wait_until(hears, 10, "ip monitor hears of nexthops", logs=[monitor])
    side.gateway.run("ip", "nexthop", "del", *probe[:2])
    return monitor


def _lates(found: Mapping[str, float]) -> Quantities:
    return {"late_p99": max(found["late p99, ms"], _LEAST), "late_max": max(found["late, ms"], _LEAST)}
