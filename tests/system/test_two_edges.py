"""Two tunnels to one site: flows share both, one takes all when the other fails, and no fault lets a packet out in clear.

The WAN's clear way to the site works: `test_without_the_guard_the_same_faults_leak` shows that these tests can fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.netns import Lab
from support.process import wait_until
from support.two_edges import SITE, TwoEdges, leaked

pytestmark = pytest.mark.system


@pytest.fixture
def edges(lab: Lab) -> TwoEdges:
    made = TwoEdges(lab)
    made.start()
    return made


@pytest.mark.slow
def test_flows_share_both_tunnels_and_one_takes_all_when_the_other_fails(edges: TwoEdges) -> None:
    capture = edges.capture()
    shares = edges.flows(128)
    assert min(shares.values()) >= 128 * 10 // 5, shares  # by hash: neither has less than a fifth
    for at, charon in enumerate(edges.charons):
        cut = time.monotonic()
        charon.kill()
        wait_until(lambda at=at: edges.ways() == {("gw-two", "gw-one")[at]}, 10, "the other tunnel alone")
        gap = edges.stream.wait_flowing(10, cut + 1.0) - cut
        assert gap < 3.0, "found out by the probe, not by hold time"
        charon.start()
        wait_until(lambda: edges.ways() == {"gw-one", "gw-two"}, 60, "both again", logs=[edges.daemon.process])
    clear, seen = leaked(capture)
    assert (clear, seen.clear) == (0, 0), seen.samples


PASSING: dict[str, Callable[[TwoEdges], None]] = {
    "a TUN is deleted": lambda edges: edges.gateway.batch("link delete gw-one"),
    "both TUNs are taken down": lambda edges: edges.gateway.batch("link set gw-one down", "link set gw-two down"),
    "our route is deleted": lambda edges: edges.gateway.batch(f"route del {SITE} table 221"),
    "the groups are deleted": lambda edges: edges.gateway.batch("nexthop flush proto 221"),
    "ExaBGP is killed": lambda edges: [edges.gateway.end(pid) for pid in edges.gateway.pids_of("exabgp")] and None,
    "a reload": lambda edges: edges.daemon.ctl("reload") and None,
    "everything is rekeyed": lambda edges: [edges.daemon.operate("rekey", name) for name in ("one", "two")] and None,
    "a crash": lambda edges: edges.daemon.kill(),
    "a stop": lambda edges: edges.daemon.stop() and None,
}
LASTING: dict[str, Callable[[TwoEdges], None]] = {
    "BGP goes at one edge": lambda edges: edges.birds[0].stop(),
    "the site withdraws": lambda edges: edges.router_bird.stop(),
    "BGP goes at the other": lambda edges: edges.birds[1].stop(),
    "both peers are gone": lambda edges: [charon.kill() for charon in edges.charons] and None,
    "a crash": lambda edges: edges.daemon.kill(),
}


@pytest.mark.slow
@pytest.mark.parametrize("faults", [PASSING, LASTING], ids=["passing", "lasting"])
def test_no_fault_lets_a_packet_out_in_clear(edges: TwoEdges, faults: dict[str, Callable[[TwoEdges], None]]) -> None:
    for name, fault in faults.items():
        capture = edges.capture()
        fault(edges)
        time.sleep(3.0)
        if faults is PASSING:
            if edges.daemon.process is not None and edges.daemon.process.returncode is not None:
                edges.daemon.start()
            edges.stream.wait_flowing(60, time.monotonic())
        edges.knock()
        clear, seen = leaked(capture)
        assert (clear, seen.clear) == (0, 0), (name, seen.samples)
        assert seen.counts["ike-500"] > 0, f"{name}: the capture looked"


@pytest.mark.slow
def test_without_the_guard_the_same_faults_leak(edges: TwoEdges) -> None:
    edges.daemon.kill()
    edges.gateway.batch("route flush table 221")
    capture = edges.capture()
    time.sleep(2.0)
    assert leaked(capture)[0] > 100
    assert not edges.gateway.has_route(SITE, "221")
