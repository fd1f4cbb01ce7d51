"""Failovers of a pair: the longest silence of probes in both directions, from end to end, each time the active gateway is lost.

In the scene of the demo's second part (`support/two_gateways.py`): heartbeats 50 ms x 3, a lease of 200 ms by a witness node, probes of the
tunnels 50 ms x 3; SAs that go on at the other gateway in that of `support/shared_address.py`. Beside the silence stands the time that the settings alone take: the dead time of the heartbeats or of the probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.netns import Lab
from support.shared_address import SharedAddress
from support.two_gateways import TwoGateways

from benchmarks.background import background_share
from benchmarks.report import write as say
from benchmarks.result import Goal, Result
from benchmarks.rounds import Round, Settings, say_round

DETECTION = 0.15
"""Seconds of silence after which heartbeats or probes say that somebody is dead."""
RATE = 1000  # probes per second and direction
REPETITIONS = 4  # for each round that is asked for
_SETTLED = 1.0  # seconds after which everything that comes has come

Scene = TwoGateways | SharedAddress
Fault = Callable[[Any, int], None]


def _two(lab: Lab) -> Scene:
    return TwoGateways(lab, ha='drain_time = "500ms"')


def _shared(lab: Lab) -> Scene:
    return SharedAddress(lab, ttl="200ms")


@dataclass(frozen=True, slots=True)
class PairCase:
    """`cause` takes the active gateway away, `end` brings it back. `goal`: seconds of silence; None: nothing may be lost."""

    name: str
    about: str
    cause: Fault
    end: Fault
    goal: float | None
    make: Callable[[Lab], Scene] = _two

    def run(self, settings: Settings) -> list[Result]:
        with Lab() as lab:
            pair = self.make(lab)
            pair.start()
            pair.wait_whole()
            pair.streams.start(RATE)
            pair.streams.wait_flowing(10)
            rounds = [self._round(number, pair) for number in range(settings.rounds * REPETITIONS)]
        worst = max(one["ours"]["seconds"] for one in rounds)
        say(f"   worst {worst * 1000:.0f} ms\n")
        return [
            self._result("", "s", rounds, "seconds", self.goal),
            self._result("-lost", "datagrams", rounds, "lost", None if self.goal is not None else 0.0),
        ]

    def void(self, status: str, reason: str) -> list[Result]:
        goal = Goal("<=", self.goal, "ours") if self.goal is not None else None
        return [Result(self.name, "s", goal, status=status, reason=reason)]

    def _result(self, name: str, unit: str, rounds: list[Round], quantity: str, goal: float | None) -> Result:
        pairs = tuple((one["ours"][quantity], one["peer"][quantity]) for one in rounds)
        wanted = Goal("<=", goal, "ours") if goal is not None else None
        return Result(self.name + name, unit, wanted, pairs, details=[dict(one) for one in rounds])

    def _round(self, number: int, pair: Scene) -> Round:
        background = background_share()
        active, began = pair.active(), time.monotonic()
        self.cause(pair, active)
        pair.wait_role(1 - active, "active", 10)
        time.sleep(_SETTLED)
        seconds, lost = pair.gap(began), sum(pair.lost(began))
        back = time.monotonic()
        self.end(pair, active)
        pair.wait_whole()
        time.sleep(_SETTLED)
        found = {
            "ours": {"seconds": seconds, "lost": float(lost), "lost_back": float(sum(pair.lost(back)))},
            "peer": {"seconds": DETECTION, "lost": DETECTION * 2 * RATE},
        }
        say_round(number, found, background)
        return found | {"machine": {"background": background}}


def _nothing(_pair: Scene, _active: int) -> None:
    """It is back by itself."""


PAIR_CASES = (
    PairCase(
        "pair-crash", "kill -9 of the active gateway", lambda pair, at: pair.daemons[at].kill(),
        lambda pair, at: pair.daemons[at].start(), 0.25,
    ),
    PairCase("pair-power", "all links of the active gateway die", TwoGateways.power_off, TwoGateways.power_on, 0.3),
    PairCase("pair-circuit", "the circuit of the active gateway is cut", TwoGateways.cut_circuit, TwoGateways.restore_circuit, 0.3),
    PairCase("pair-planned", "gatewayctl failover", lambda pair, at: pair.daemons[at].operate("ha-failover", "") and None, _nothing, None),
    PairCase(
        "pair-takeover", "all links of the active gateway die, and the other goes on with its SAs on its address", SharedAddress.power_off,
        SharedAddress.power_on, 0.5, _shared,
    ),
    PairCase(
        "pair-takeover-crash", "kill -9 of the active gateway, and the other goes on with its SAs on its address",
        lambda pair, at: pair.daemons[at].kill(), lambda pair, at: pair.daemons[at].start(), 0.5, _shared,
    ),
)  # fmt: skip
