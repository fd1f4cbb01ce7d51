"""A restart, a crash or an upgrade of the daemon under a service manager: the longest silence of probes, and TCP that lives through it.

gatewayd and strongSwan, the tunnel carrying 1,000 probes a second in each direction. The stand-in of systemd is that of the tests
(`support/service_manager.py`): it starts the next process at once after a stop, and 0.1 s after a crash, as the unit does.
Beside the silence stands what loading the program alone takes, measured in the same round (`gatewayd --check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from support.daemon import GatewayDaemon, binary
from support.managed import Managed
from support.netns import Lab
from support.pair import make_pair
from support.process import LabError
from support.scene import Scene
from support.traffic import Stream

from benchmarks.background import background_share
from benchmarks.report import write as say
from benchmarks.result import Goal, Result
from benchmarks.rounds import Round, Settings, say_round

RATE = 1000
REPETITIONS = 4  # for each round that is asked for
_SETTLED = 1.0


@dataclass(frozen=True, slots=True)
class RestartCase:
    """`goal`: seconds between two probes that arrive."""

    name: str
    about: str
    cause: Callable[[Managed], None]
    goal: float

    def run(self, settings: Settings) -> list[Result]:
        with Lab() as lab:
            pair = make_pair(Scene(lab))
            pair.charon.start()
            manager = Managed(pair.gateway)
            manager.start()
            pair.wait_up()
            streams = pair.streams(RATE)
            both = (streams.there, streams.back)
            rounds = [self._round(number, manager, both) for number in range(settings.rounds * REPETITIONS)]
            streams.stop()
            pair.gateway.stop()
        say(f"   worst {max(one['ours']['seconds'] for one in rounds) * 1000:.0f} ms\n")
        pairs = tuple((one["ours"]["seconds"], one["peer"]["seconds"]) for one in rounds)
        goal = Goal("<=", self.goal, "ours")
        return [Result(self.name, "s", goal, pairs, details=[dict(one) for one in rounds])]

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "s", Goal("<=", self.goal, "ours"), status=status, reason=reason)]

    def _round(self, number: int, manager: Managed, streams: tuple[Stream, Stream]) -> Round:
        background, began = background_share(), time.monotonic()
        self.cause(manager)
        for stream in streams:
            stream.wait_flowing(10)
        time.sleep(_SETTLED)
        seconds = max(_silence(stream, began) for stream in streams)
        found = {"ours": {"seconds": seconds}, "peer": {"seconds": _loading(manager.daemon)}}
        say_round(number, found, background)
        return found | {"machine": {"background": background}}


def _loading(daemon: GatewayDaemon) -> float:
    began = time.monotonic()
    daemon.machine.run(str(binary("gatewayd")), "--check", "--config", str(daemon.config))
    return time.monotonic() - began


def _silence(stream: Stream, since: float) -> float:
    arrivals = sorted(received for _, _, received in stream.records() if received >= since - 0.1)
    return max((after - before for before, after in pairwise(arrivals)), default=float("inf"))


def upgrade(manager: Managed) -> None:
    done, text = manager.upgrade()
    if not done:
        raise LabError(text)


RESTARTS = (
    RestartCase("restart", "systemctl restart: the longest gap between probes", Managed.restart, 1.5),
    RestartCase("upgrade", "gatewayctl upgrade, of the same program: the longest gap between probes", upgrade, 0.1),
    RestartCase("restart-crash", "kill -9, and started again by the manager: the longest gap", Managed.crash, 1.5),
)
