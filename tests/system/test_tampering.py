"""What somebody deletes or changes by hand is put back, fast, with nothing in clear; a device that is not to be had is said."""

from __future__ import annotations

import pytest
from support.capture import Capture
from support.operated import Site, make_site
from support.process import wait_until
from support.scene import Scene

pytestmark = pytest.mark.system

GUARD = "172.16.0.0/16 table 221 proto 221 metric 4294967295"


@pytest.fixture
def site(scene: Scene) -> Site:
    return make_site(scene)


def test_what_is_changed_by_hand_is_restored_without_clear_text(site: Site) -> None:
    site.start()
    before = site.kernel()
    capture = Capture(site.scene.wan, "gateway")
    capture.start()
    machine = site.scene.gateway

    def restored(what: str, *commands: str) -> None:
        machine.run("sh", "-c", "; ".join(commands))
        wait_until(lambda: _alike(site.kernel(), before), 3, f"{what} restored", logs=[site.daemon.process])

    def act() -> None:
        restored("the guard", f"ip route del blackhole {GUARD}")
        restored("a nexthop", "ip nexthop flush")
        restored("the TUN", "ip link set gw-site down")
        restored("the TUN", "ip link del gw-site")
        restored("the address", "ip addr del 169.254.21.1/30 dev gw-site")
        # Who flushes gives up after ten rounds, in each of which we put them back
        restored("all addresses", "ip addr flush dev gw-site || true")
        restored("the MTU", "ip link set gw-site mtu 600")

    lost = site.under_traffic(act, rate=200)
    assert max(one.lost for one in lost) < 50, "a quarter of a second for seven faults"
    assert machine.ip_json("link", "show", "dev", "gw-site")[0]["mtu"] == 1438
    seen = capture.stop()
    assert (seen.clear, seen.markers, seen.samples) == (0, 0, [])
    status = site.daemon.status()
    assert status is not None
    assert {peer["name"]: peer["flaps"] for peer in status["peers"]} == {"edge": 0, "vnet": 0}
    assert [record for record in site.log() if "traceback" in record] == []


def _alike(now: str, before: str) -> bool:
    """The same but for numbers of nexthops and the order of rules."""
    return sorted(map(_plain, now.splitlines())) == sorted(map(_plain, before.splitlines()))


def _plain(line: str) -> str:
    return " ".join(
        word for word in line.split() if not (word.isdigit() and len(word) == 10 and word.startswith("1735"))
    )


def test_nexthops_taken_away_amid_their_own_return_come_back_with_their_routes(site: Site) -> None:
    """`ip nexthop flush` goes on while we restore what it took: now and then between a nexthop and its routes."""
    site.start()
    before = site.kernel()
    for _ in range(40):
        site.scene.gateway.run("ip", "nexthop", "flush")
        wait_until(lambda: _alike(site.kernel(), before), 3, "all of it", logs=[site.daemon.process])


def test_rules_taken_away_come_back_within_milliseconds(site: Site) -> None:
    """Whoever deletes the rule opens the way in clear until it is back: nothing of ours stands before main then."""
    site.start()
    capture = Capture(site.scene.wan, "gateway")
    capture.start()

    def act() -> None:
        before = site.kernel()
        for priority in (22100, 22105, 22107, 22108):
            site.scene.gateway.run("ip", "rule", "del", "priority", str(priority))
        wait_until(lambda: _alike(site.kernel(), before), 3, "the rules", logs=[site.daemon.process])

    site.under_traffic(act, rate=200)
    assert capture.stop().clear <= 4, "at most 20 ms of this traffic"


@pytest.mark.slow
def test_a_connection_whose_device_is_not_to_be_had_is_not_negotiated_and_recovers(site: Site) -> None:
    site.charon.start()
    machine = site.scene.gateway
    machine.run("ip", "tuntap", "add", "gw-site", "mode", "tun")
    site.daemon.start()
    reason, sentence = site.explanation()
    assert reason == "TUN_FAILED"
    assert "the device exists already" in sentence
    assert site.charon.sas() == []
    site.charon.swanctl("--initiate", "--child", "net", "--timeout", "2", check=False)
    assert not site.daemon.up(), "the peer cannot bring it up either"
    status = site.daemon.status()
    assert status is not None
    assert status["ready"]
    machine.run("ip", "link", "del", "gw-site")
    site.daemon.wait_up(10)
    assert [record for record in site.log() if "traceback" in record] == []
