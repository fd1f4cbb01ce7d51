"""The cloud's route table after a planned switchover: from the promotion until the table leads to the promoted gateway, without what the server of
ARM takes for itself. That server (tests/clouds/azure.py, 0 latency) and both gateways are processes of their own; what carries the connections
between their machines counts as ours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from support.cloud_beside import FABRIC_SECTION, AzureBeside
from support.clouds import route
from support.netns import Lab
from support.process import wait_until
from support.two_gateways import FABRIC, TwoGateways

from benchmarks.background import background_share
from benchmarks.result import Goal, Result
from benchmarks.rounds import Round, Settings, say_round

REPETITIONS = 4  # for each round that is asked for
GOAL = 0.05


@dataclass(frozen=True, slots=True)
class TableCase:
    name: str = "fabric-switch"
    about: str = "the cloud's route table after a promotion"

    def run(self, settings: Settings) -> list[Result]:
        with Lab() as lab:
            pair = TwoGateways(lab, ha='drain_time = "500ms"', more=FABRIC_SECTION)
            azure = AzureBeside(pair)
            azure.start()
            azure.tables(users={"routes": [route("internet", "0.0.0.0/0", kind="Internet")]})
            pair.start()
            pair.wait_whole()
            rounds = [self._round(number, pair, azure) for number in range(settings.rounds * REPETITIONS)]
        pairs = tuple((one["ours"]["seconds"], one["peer"]["seconds"]) for one in rounds)
        return [Result(self.name, "s", Goal("<=", GOAL, "ours"), pairs, details=[dict(one) for one in rounds])]

    def void(self, status: str, reason: str) -> list[Result]:
        return [Result(self.name, "s", Goal("<=", GOAL, "ours"), status=status, reason=reason)]

    def _round(self, number: int, pair: TwoGateways, azure: AzureBeside) -> Round:
        background = background_share()
        active, began = pair.active(), time.monotonic()
        pair.daemons[active].operate("ha-failover", "")
        moved = partial(azure.switch, 1 - active, began)
        wait_until(lambda: moved() and azure.next_hop("users") == FABRIC[1 - active], 10, "the route is moved")
        pair.wait_whole()
        switch = moved()
        assert switch is not None
        found = {"ours": {"seconds": switch.own}, "peer": {"seconds": switch.server}}
        say_round(number, found, background)
        return found | {"machine": {"background": background}}
