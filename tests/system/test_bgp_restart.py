"""Restarts seen by BGP peers inside and beside a tunnel: of the daemon, by systemd, and of ExaBGP. Traffic goes on through them.

The gateway and its ExaBGP are units of their own, as in production. The edge behind the tunnel and the route server are BIRD and FRR,
in turns; probes go from the route server's machine to a prefix that only BGP knows.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support.bgp_lab import EDGE_AS, OUR_AS, SERVER_AS, SiteLab, agree
from support.bgp_peers import KINDS, BirdPeer, FrrPeer, Route, Session
from support.daemon import binary
from support.managed import Managed
from support.netns import Lab
from support.noticed import Watch, forwarding_preserved, news
from support.process import wait_until
from support.traffic import Stream

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

OWN, BEHIND, PROTECTED = "10.200.0.0/16", "20.0.0.0/24", "172.16.1.0/24"
FABRIC = "10.1.20.0/24"
HOLD = 15
NEIGHBORS = f"""
[bgp]
local_as = {OUR_AS}
router_id = "10.99.0.1"
advertise = ["{OWN}"]
[bgp.neighbor.edge]
address = "169.254.21.2"
local_address = "169.254.21.1"
remote_as = {EDGE_AS}
connection = "site"
hold_time = {HOLD}
transit = true
graceful_restart = RESTART
[bgp.neighbor.server]
address = "10.1.1.4"
local_address = "10.1.0.4"
remote_as = {SERVER_AS}
multihop = 2
hold_time = {HOLD}
transit = true
graceful_restart = RESTART
"""
EXPECTED = {BEHIND: {"edge": "gw-site"}, PROTECTED: {"edge": "gw-site"}, FABRIC: {"server": "10.1.0.1"}}


class Bench:
    """Everything started, every table agreed on."""

    def __init__(self, lab: Lab, edge: str, server: str, restart: int) -> None:
        self.site = SiteLab(lab, NEIGHBORS.replace("RESTART", str(restart)), {})
        self.gateway, machines = self.site.gateway, self.site.machines
        machines["edge"].batch("address add 20.0.0.1/32 dev lo", "address add 172.16.1.1/32 dev lo")
        machines["router"].batch("route add 20.0.0.0/8 via 10.1.0.4", "route add 172.16.0.0/16 via 10.1.0.4")
        self.edge = _peer(
            self.site, edge, "edge", EDGE_AS, ("169.254.21.2", "169.254.21.1"), (BEHIND, PROTECTED), restart
        )
        self.server = _peer(self.site, server, "server", SERVER_AS, ("10.1.1.4", "10.1.0.4"), (FABRIC,), restart)
        self.peers: tuple[BirdPeer | FrrPeer, ...] = (self.edge, self.server)
        self.manager = Managed(self.gateway)
        self.mark = Path(self.gateway.socket).with_name("exabgp.forwards")
        self.told = [(self.edge, "v4", {OWN, FABRIC}), (self.server, "v4", {OWN, BEHIND, PROTECTED})]
        self.site.tail_end.start(wait=False)
        self.start_gateway()
        self.server.start()
        self.gateway.wait_up(20, logs=[self.site.tail_end.process])
        self.edge.start()
        self.agreed()
        self.streams = [
            Stream(machines["server"], "10.1.1.4", machines["edge"], target, 7100 + number)
            for number, target in enumerate(("20.0.0.1", "172.16.1.1"))
        ]

    def start_gateway(self) -> None:
        """Both units."""
        command = [str(binary("gatewayd")), "--bgp", "--config", str(self.gateway.config)]
        self.unit = self.site.machines["gateway"].start("gatewayd-bgp", command)
        self.manager.start()

    def host_crashes(self) -> None:
        """Both units and ExaBGP are killed, and the kernel's tables with them, without a word to anybody."""
        machine = self.site.machines["gateway"]
        assert self.gateway.process is not None
        for pid in (
            self.gateway.process.pid,
            self.manager.pid,
            self.unit.pid,
            *self.exabgp(),
            *machine.pids_of("bgp_relay"),
        ):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not machine.pids_of("gatewayd"), 5, "nothing runs")
        machine.run("ip", "nexthop", "flush")  # and every route that leads anywhere

    def forwards_from_now_on(self) -> None:
        """It began from nothing, and 30 s later that makes no difference any more."""
        wait_until(self.mark.exists, 40, "its routes and SAs stand", interval=0.2)

    def agreed(self) -> None:
        agree(self.site, EXPECTED, self.told, seconds=40, logs=[self.unit])

    def flow(self) -> None:
        for stream in self.streams:
            stream.start(500)
            stream.wait_flowing(10)

    def gaps(self) -> list[float]:
        """Of the streams, which end: the longest silence of each, in seconds."""
        return [stream.stop().max_gap for stream in self.streams]

    def exabgp(self) -> list[int]:
        return self.site.machines["gateway"].pids_of("exabgp_start.py")

    def noticed(self) -> list[tuple[int, ...]]:
        return [news(peer, "v4") for peer in self.peers]


def _peer(
    site: SiteLab, kind: str, place: str, asn: int, ends: tuple[str, str], prefixes: tuple[str, ...], restart: int
) -> BirdPeer | FrrPeer:
    session = Session("v4", *ends, OUR_AS, multihop=2 if place == "server" else 0, hold=HOLD, restart=restart)
    made = KINDS[kind](site.machines[place], asn, ends[0], [session], tuple(map(Route, prefixes)))
    assert isinstance(made, BirdPeer | FrrPeer)
    return made


BOTH = pytest.mark.parametrize(
    ("edge", "server"), [("bird", "frr"), pytest.param("frr", "bird", marks=pytest.mark.slow)]
)


@BOTH
@pytest.mark.parametrize("how", ["restart", "crash"])
def test_peers_notice_nothing_of_a_daemon_that_restarts_and_traffic_goes_on(
    lab: Lab, edge: str, server: str, how: str
) -> None:
    """Not one UPDATE, though one session is so young that its table is asked for (RFC 2918)."""
    bench = Bench(lab, edge, server, restart=0)
    before, speaker = bench.noticed(), bench.exabgp()
    bench.flow()
    (bench.manager.restart if how == "restart" else bench.manager.crash)()
    bench.agreed()
    time.sleep(8)  # ExaBGP's table is looked at once more when a session has stood for 5 s
    gaps = bench.gaps()
    print(f" [the longest gaps: {gaps[0]:.2f} and {gaps[1]:.2f} s]", end=" ")
    assert bench.noticed() == before
    assert bench.exabgp() == speaker
    assert max(gaps) < 10, "a tunnel that is set up anew after dead peer detection takes longer"


@BOTH
def test_a_killed_exabgp_costs_no_route_where_graceful_restart_was_agreed(lab: Lab, edge: str, server: str) -> None:
    """RFC 4724: the gateway forwarded all the time, and says so; peers keep its routes until it has told them anew."""
    bench = Bench(lab, edge, server, restart=60)
    (speaker,) = bench.exabgp()
    bench.forwards_from_now_on()
    before = bench.noticed()
    bench.flow()
    with Watch(bench.edge, "v4", bench.told[0][2]) as one, Watch(bench.server, "v4", bench.told[1][2]) as other:
        bench.site.machines["gateway"].end(speaker)
        wait_until(lambda: bench.exabgp() not in ([], [speaker]), 20, "another ExaBGP", logs=[bench.unit])
        for peer in bench.peers:
            peer.wait_established(seconds=30, logs=[bench.unit])
        bench.agreed()
        time.sleep(3)
    assert all(now[-1] != then[-1] for now, then in zip(bench.noticed(), before, strict=True)), "sessions began anew"
    assert [forwarding_preserved(peer, "v4") for peer in bench.peers] == [True, True]
    assert (one.missed, other.missed) == (set(), set())
    assert min(one.looks, other.looks) > 20
    gaps = bench.gaps()
    print(f" [the longest gaps: {gaps[0]:.2f} and {gaps[1]:.2f} s]", end=" ")
    assert max(gaps) < 0.5, "the kernel's routes and the SAs were not concerned"


@BOTH
def test_who_begins_from_nothing_does_not_claim_to_have_forwarded(lab: Lab, edge: str, server: str) -> None:
    """Gateway and ExaBGP are gone at once, as with their host: nobody may send to where nothing is yet."""
    bench = Bench(lab, edge, server, restart=60)
    assert [forwarding_preserved(peer, "v4") for peer in bench.peers] == [False, False]
    bench.forwards_from_now_on()
    bench.host_crashes()
    wait_until(lambda: not any(peer.established("v4") for peer in bench.peers), 30, "the sessions are gone")
    # The edge heard nothing any more, which is no graceful restart (its hold time went); the other saw the connection close
    assert bench.server.prefixes("v4") == bench.told[1][2], "kept, stale"
    bench.start_gateway()
    bench.server.wait_established(seconds=30, logs=[bench.unit])
    assert not forwarding_preserved(bench.server, "v4")
    bench.agreed()
    assert not forwarding_preserved(bench.edge, "v4")


def test_a_daemon_that_took_its_tunnels_over_says_so_at_once(lab: Lab) -> None:
    """Within the time in which one that began from nothing would not."""
    bench = Bench(lab, "bird", "frr", restart=60)
    assert not bench.mark.exists()
    bench.manager.restart()
    wait_until(bench.mark.exists, 5, "told to ExaBGP")
    os.kill(bench.manager.pid, signal.SIGKILL)
    wait_until(lambda: not bench.mark.exists(), 5, "nobody forwards", interval=0.02)
    wait_until(bench.mark.exists, 20, "the next one took over, too")
    bench.agreed()
