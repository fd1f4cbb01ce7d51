"""The epoch in BGP's large communities, read back from a route server: real daemons, real ExaBGP, BIRD as Azure's Route Server is, which
tells each gateway what the other one announced."""

from __future__ import annotations

import time

import pytest
from support.netns import Lab
from support.process import run, wait_until
from support.two_gateways import GATEWAY_AS, LAN, NAMES, TwoGateways

pytestmark = pytest.mark.system
FORGED = 4000
_FORGERY = f"""
protocol static forged {{
  ipv4 {{ import filter {{ bgp_large_community.add(({GATEWAY_AS}, 26488, {FORGED})); accept; }}; }};
  route 10.77.0.0/16 blackhole;
}}
"""


class RouteServer:
    """The VNet's BIRD, which passes on everything, as a route server does."""

    def __init__(self, pair: TwoGateways) -> None:
        self.bird = pair.route_server
        text = self.bird._conf.read_text()
        wanted = f"export where net ~ [ {LAN} ]"
        assert wanted in text
        self.bird._conf.write_text(
            text.replace(wanted, 'export where source = RTS_BGP || proto = "own" || proto = "forged"')
        )

    def forge(self) -> None:
        """A route that says that somebody acts under an epoch which nobody has."""
        self.bird._conf.write_text(self.bird._conf.read_text() + _FORGERY)
        run(("birdc", "-s", str(self.bird._socket), "configure"))


@pytest.mark.slow
def test_each_reads_the_epoch_of_the_other_and_what_is_forged_binds_only_who_acts_next(lab: Lab) -> None:
    pair = TwoGateways(lab, ha='drain_time = "500ms"')
    server = RouteServer(pair)
    pair.start()
    pair.wait_whole()
    pair.streams.start(500)
    pair.streams.wait_flowing(10)
    active, began = pair.active(), time.monotonic()

    def state(at: int) -> dict[str, object]:
        status = pair.daemons[at].status()
        assert status is not None
        found: dict[str, object] = status["ha"]
        return found

    def journal(at: int, event: str) -> list[str]:
        status = pair.daemons[at].status()
        return [entry["text"] for entry in status["journal"] if entry["event"] == event] if status else []

    epoch = state(active)["acting_epoch"]
    mark = f"({GATEWAY_AS}, 26488, {epoch})"
    wait_until(lambda: mark in server.bird.birdc("show", "route", "all"), 10, "the active one's mark is in the server")
    # The active one's own announcements come back, and the standby knows of its epoch by the heartbeat already
    assert not any(journal(at, "ha-epoch-announced") for at in (0, 1))
    server.forge()
    for at in (0, 1):
        wait_until(lambda at=at: state(at)["epoch_announced"] == FORGED, 20, f"gw-{NAMES[at]} has read it")  # type: ignore[misc]
    text = f"vnet teaches routes of epoch {FORGED}, and ours is {epoch}: the witness is asked, and knows"
    assert journal(active, "ha-epoch-announced") == [text]
    assert journal(1 - active, "ha-epoch-announced") == []
    assert "somebody announces routes of epoch 4000" in pair.daemons[active].ctl("health", check=False).stdout
    assert f"gateway_ha_epoch_announced {FORGED:.1f}" in pair.daemons[active].http("/metrics")[1]
    time.sleep(1.0)
    assert pair.active() == active, "a lease says more than a route"
    pair.daemons[active].ctl("failover")
    pair.wait_whole()
    assert pair.active() == 1 - active
    assert state(1 - active)["acting_epoch"] == FORGED + 1
    assert pair.lost(began) == (0, 0)
