"""RFC 5685 at a planned switchover: a branch has one tunnel, to the active gateway of a pair, and strongSwan as its router. It is sent
to the other one, and has its tunnel there before the one here ends. Sites with a tunnel to each gateway lose nothing meanwhile.

    branch 172.20.5.0/24 -- strongSwan 203.0.115.2 -- wan -- a 198.51.100.2 | b 198.51.101.2, the scene of test_pair.py
"""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from support.netns import End, Lab
from support.process import wait_until
from support.strongswan import Connection, Strongswan
from support.traffic import Streams
from support.two_gateways import HOST, LAN, NAMES, OUTER, PSK, TwoGateways

pytestmark = pytest.mark.system
BRANCH, BRANCH_LAN, BRANCH_HOST = "203.0.115.2", "172.20.5.0/24", "172.20.5.10"
RATE = 500
MOST = 1.5
"""Seconds in which a new tunnel is there on a busy machine: two exchanges, and the route of the VNet's router."""
_SECTION = """
[connection.branch]
local_addrs = "{own}"
remote_addrs = "203.0.115.2"
local_id = "gw.example.net"
remote_id = "branch.example.net"
psk.file = "site.psk"
proposals = ["aes256gcm16-prfsha384-ecp384"]
esp_proposals = ["aes256gcm16-ecp256"]
local_ts = ["10.1.1.0/24"]
remote_ts = ["172.20.5.0/24"]
start_action = "none"
redirect_to = "{other}"
"""
_CONNECTION = Connection(
    "cloud", BRANCH, OUTER[0], PSK, "branch.example.net", "gw.example.net", local_ts=BRANCH_LAN, remote_ts=LAN
)


class Branch:
    """A pair, and a branch that knows the gateway which is active at the start."""

    def __init__(self, lab: Lab) -> None:
        self.pair = TwoGateways(lab, ha='drain_time = "1s"')
        for at, daemon in enumerate(self.pair.daemons):
            text = daemon.config.read_text() + _SECTION.format(own=OUTER[at], other=OUTER[1 - at])
            # What the VNet's router knows of the branch are the announcements of the two
            daemon.config.write_text(text.replace('["10.1.1.0/24"]\nstale', f'["10.1.1.0/24", "{BRANCH_LAN}"]\nstale'))
        self.machine = lab.namespace("branch")
        lab.link(End(self.pair.wan, "branch", ("203.0.115.1/24",)), End(self.machine, "wan", (f"{BRANCH}/24",)))
        self.machine.batch("route add default via 203.0.115.1", f"address add {BRANCH_HOST}/32 dev lo")
        self.machine.forwarding()
        self.streams = Streams(self.machine, BRANCH_HOST, self.pair.host, HOST, port=7301)
        self.pair.start()
        self.pair.wait_whole()
        self.first = self.pair.active()
        wanted = _CONNECTION.with_(remote=OUTER[self.first])
        self.charon = Strongswan(self.machine, [wanted], tunnel_address=f"{BRANCH_HOST}/32", tunnel_routes=[LAN])
        self.charon.start()
        self.logs = [self.charon.process, *(daemon.process for daemon in self.pair.daemons)]

    @property
    def remotes(self) -> list[str]:
        """Where its established IKE_SAs lead."""
        return [sa.remote.rpartition(":")[0] for sa in self.charon.sas() if sa.state == "ESTABLISHED"]

    def at(self, gateway: int) -> bool:
        return self.remotes == [OUTER[gateway]]

    def wait_at(self, gateway: int) -> None:
        wait_until(lambda: self.at(gateway), 20, f"the branch is at gw-{NAMES[gateway]} alone", logs=self.logs)

    def events(self, gateway: int, *names: str) -> list[tuple[float, str]]:
        """Of the branch's connection, with their times."""
        status = self.pair.daemons[gateway].status()
        assert status is not None
        return [(e["at"], e["event"]) for e in status["journal"] if e["tunnel"] == "branch" and e["event"] in names]

    def flowing(self) -> None:
        self.streams.start(RATE)
        self.pair.streams.start(RATE)
        self.streams.wait_flowing(10)
        self.pair.streams.wait_flowing(10)


@pytest.fixture
def branch(lab: Lab) -> Branch:
    return Branch(lab)


def test_a_planned_switchover_takes_along_who_has_one_tunnel_before_it_ends(branch: Branch) -> None:
    pair, first = branch.pair, branch.first
    branch.charon.initiate()
    branch.wait_at(first)
    branch.flowing()
    began = time.monotonic()
    for there in (1 - first, first):
        here = 1 - there
        pair.daemons[here].ctl("failover")
        branch.wait_at(there)
        pair.wait_whole()
        (came, _) = branch.events(there, "ike-established")[-1]
        (went, _) = branch.events(here, "ike-down")[-1]
        assert came < went, "the new tunnel is there before the old one ends"
        (sent, _) = branch.events(here, "ha-redirect")[-1]
        assert sent < came
        assert 'gateway_ha_sent_away{tunnel="branch"} 1.0' in pair.daemons[here].http("/metrics")[1]
        assert "branch" not in pair.daemons[here].ctl("health").stdout, "it is where it should be"
        assert "sent to the other gateway  branch" in pair.daemons[here].ctl("ha").stdout
    time.sleep(0.5)
    assert pair.lost(began) == (0, 0), "a site with a tunnel to each gateway"
    towards, back = branch.streams.stop()
    assert towards.lost == 0, "either gateway takes what the branch sends"
    assert back.max_gap < MOST, "what goes to it is where it is soon after"
    print(f"to the branch: {back.lost} of {back.sent} lost, longest silence {back.max_gap * 1000:.0f} ms")


@pytest.mark.slow
def test_who_comes_to_the_standby_is_sent_to_the_active_one_and_served_when_that_is_dead(branch: Branch) -> None:
    pair, first = branch.pair, branch.first
    pair.daemons[first].ctl("failover")
    pair.wait_whole()
    branch.charon.initiate()
    branch.wait_at(1 - first)
    assert branch.events(first, "ike-established") == [], "it never had a tunnel here"
    pair.daemons[1 - first].kill()
    pair.wait_role(first, "active", 5)
    assert [name for _, name in branch.events(first, "ha-redirect", "ha-redirect-over")][-1] == "ha-redirect-over"
    # It finds out by its own liveness check; here somebody tells it
    branch.charon.swanctl("--terminate", "--ike", "cloud", "--force", check=False)
    branch.charon.initiate()
    branch.wait_at(first)


@pytest.mark.slow
def test_an_orderly_stop_ends_after_the_branch_is_at_the_other_one(branch: Branch) -> None:
    pair, first = branch.pair, branch.first
    branch.charon.initiate()
    branch.wait_at(first)
    branch.flowing()
    began = time.monotonic()
    assert pair.daemons[first].stop() == 0
    branch.wait_at(1 - first)
    time.sleep(0.5)
    assert pair.lost(began) == (0, 0)
    arrived = sorted(at for _, _, at in branch.streams.there.records() if at >= began - 0.1)
    assert max(b - a for a, b in pairwise(arrived)) < MOST
    assert branch.streams.there.lost_between(began - 0.2, time.monotonic() - 0.3) == 0
