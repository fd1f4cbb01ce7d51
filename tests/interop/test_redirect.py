"""strongSwan is sent to a second gatewayd (RFC 5685), with its tunnel and before it has one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.daemon import GatewayDaemon, configuration
from support.netns import End
from support.pair import EDGE, Pair, make_pair
from support.process import wait_until
from support.scene import GATEWAY_OUTER, PSK, Scene
from support.traffic import ping

pytestmark = pytest.mark.interop

SECOND, BEHIND = "192.0.2.2", "10.1.99.1"


@dataclass(slots=True)
class Drained:
    """The pair, and the gateway to which its edge is to go."""

    pair: Pair
    second: GatewayDaemon

    @property
    def remotes(self) -> list[str]:
        """Where strongSwan's IKE_SAs lead."""
        return [sa.remote.rpartition(":")[0] for sa in self.pair.charon.sas()]


@pytest.fixture
def drained(scene: Scene) -> Drained:
    machine = scene.lab.namespace("second")
    scene.lab.link(End(scene.wan, "second", ("192.0.2.1/24",)), End(machine, "wan", (f"{SECOND}/24",)))
    machine.batch("route add default via 192.0.2.1", f"address add {BEHIND}/32 dev lo")
    machine.forwarding()
    pair = make_pair(scene, EDGE, initiator="edge")
    there = configuration(EDGE.with_(remote=SECOND), start_action="none")
    second = GatewayDaemon(machine, there, {"site.psk": PSK})
    pair.start()
    second.start()
    return Drained(pair, second)


def moved(drained: Drained) -> None:
    logs = [drained.second.process, drained.pair.gateway.process, drained.pair.charon.process]
    wait_until(lambda: drained.remotes == [SECOND], 20, "strongSwan is at the second gateway alone", logs=logs)
    drained.second.wait_up()
    drained.pair.gateway.wait_down()
    wait_until(lambda: ping(drained.pair.scene.site, BEHIND, 3).lost == 0, 10, "traffic goes there", logs=logs)


def test_an_established_tunnel_is_sent_to_another_gateway(drained: Drained) -> None:
    pair = drained.pair
    pair.charon.initiate()
    pair.wait_up()
    assert drained.remotes == [GATEWAY_OUTER]
    assert f"sent to {SECOND}" in pair.gateway.ctl("drain", "site", "--to", SECOND).stdout
    moved(drained)


def test_a_new_one_begins_there(drained: Drained) -> None:
    pair = drained.pair
    pair.gateway.ctl("drain", "--to", SECOND)
    pair.charon.initiate()
    moved(drained)
    pair.charon.terminate()
    pair.gateway.ctl("drain", "--end")
    pair.charon.initiate()
    pair.wait_up()
    assert drained.remotes == [GATEWAY_OUTER]
