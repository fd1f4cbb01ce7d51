"""`dataplane.packet_socket` between two gatewayds: traffic, and everything on the way that changes under it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import without_packet_sockets
from support.netns import End, Namespace
from support.pair import nothing_lost
from support.process import run, wait_until
from support.scene import EDGE_OUTER, NAT_OUTER, SITE_HOST, VNET_HOST, Scene
from support.traffic import ping
from support.twins import Twins, make_twins

pytestmark = pytest.mark.system

SOON = 2.0
"""Seconds until traffic flows again after the kernel said that something changed."""
OTHER_MAC = "02:00:00:00:00:77"


@pytest.fixture
def twins(scene: Scene) -> Twins:
    made = make_twins(scene, "aes256gcm16-ecp256", encap=False, sections="[dataplane]\npacket_socket = true\n")
    made.establish()
    by_packet_socket(made)
    return made


def calls(twins: Twins) -> tuple[int, int]:
    """The gateway's, by packet socket and by raw socket."""
    status = twins.gateway.status()
    assert status is not None
    return tuple(sum(worker["calls"][name] for worker in status["workers"]) for name in ("packet_sends", "udp_sends"))  # type: ignore[return-value]


def fallbacks(twins: Twins) -> int:
    status = twins.gateway.status()
    assert status is not None
    return sum(sum(worker["fallbacks"].values()) for worker in status["workers"])


def by_packet_socket(twins: Twins) -> None:
    """From now on."""

    def all_of_ten() -> bool:
        _, raw = calls(twins)
        assert ping(twins.scene.host, SITE_HOST, 10).lost == 0
        return calls(twins)[1] == raw

    wait_until(all_of_ten, 5, "packets leave by packet socket")


def flowing_again(twins: Twins, change: Callable[[], object]) -> float:
    """How long that took, with datagrams both ways."""
    streams = twins.streams()
    moment = time.monotonic()
    change()
    flowed = streams.wait_flowing(SOON, time.monotonic()) - moment
    time.sleep(0.3)
    streams.stop()
    return flowed


def nft(machine: Namespace, *lines: str) -> None:
    run(("ip", "netns", "exec", machine.full, "nft", "-f", "-"), stdin="\n".join(lines) + "\n")


def dropping(hook: str) -> tuple[str, ...]:
    """A firewall that lets no ESP pass."""
    return "table ip t {", f"chain {hook} {{", f"type filter hook {hook} priority 0;", "ip protocol esp drop", "}", "}"


def received_by(machine: Namespace, device: str) -> int:
    (link,) = machine.ip_json("-s", "link", "show", device)
    return int(link["stats64"]["rx"]["packets"])


def test_traffic_crosses_rekeys_lose_nothing_and_nothing_takes_the_raw_socket(twins: Twins) -> None:
    _, raw = calls(twins)
    streams = twins.streams()
    twins.gateway.rekey_child()
    twins.edge.rekey_child()
    twins.gateway.rekey_ike()
    nothing_lost(streams.stop())
    assert ping(twins.scene.site, VNET_HOST, 20, size=1300).lost == 0
    sent, raw_now = calls(twins)
    assert sent > 200
    assert raw_now == raw
    assert fallbacks(twins) == 0
    seen = twins.wire()
    assert seen.counts["esp-50"] > 500
    assert seen.counts["esp-4500"] == 0


@pytest.mark.slow
def test_the_hosts_output_firewall_is_bypassed_and_its_input_firewall_is_not(twins: Twins) -> None:
    """As docs/configuration.md warns."""
    gateway = twins.scene.gateway
    nft(gateway, *dropping("output"))
    assert ping(twins.scene.host, SITE_HOST, 10).lost == 0
    nft(gateway, *dropping("input"))
    assert ping(twins.scene.host, SITE_HOST, 3).lost == 3
    nft(gateway, "delete table ip t")
    assert ping(twins.scene.host, SITE_HOST, 10).lost == 0


def test_the_next_hops_address_changes(twins: Twins) -> None:
    scene = twins.scene
    scene.wan.sysctl({"net.ipv4.conf.gateway.arp_notify": 1})
    assert flowing_again(twins, lambda: scene.wan.batch(f"link set gateway address {OTHER_MAC}")) < SOON
    by_packet_socket(twins)


@pytest.mark.slow
def test_a_neighbor_that_an_administrator_replaces_is_believed_at_once(twins: Twins) -> None:
    gateway = twins.scene.gateway
    (entry,) = gateway.ip_json("neighbor", "show", NAT_OUTER)
    right = entry["lladdr"]
    gateway.batch(f"neighbor replace {NAT_OUTER} lladdr {OTHER_MAC} dev wan nud permanent")
    wait_until(lambda: ping(twins.scene.host, SITE_HOST, 3).lost == 3, 5, "it is believed")
    assert (
        flowing_again_from_nothing(twins, lambda: gateway.batch(f"neighbor replace {NAT_OUTER} lladdr {right} dev wan"))
        < SOON
    )
    by_packet_socket(twins)


def flowing_again_from_nothing(twins: Twins, change: Callable[[], object]) -> float:
    change()
    moment = time.monotonic()
    wait_until(lambda: ping(twins.scene.host, SITE_HOST, 1).lost == 0, SOON, "traffic", interval=0)
    return time.monotonic() - moment


def test_the_route_moves_to_another_interface_which_goes_down(twins: Twins) -> None:
    scene = twins.scene
    scene.lab.link(End(scene.wan, "second", ("192.0.2.1/24",)), End(scene.gateway, "wan2", ("192.0.2.2/24",)))
    scene.wan.sysctl({"net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.second.rp_filter": 0})
    before = received_by(scene.wan, "second")
    assert flowing_again(twins, lambda: scene.gateway.batch(f"route add {EDGE_OUTER}/32 via 192.0.2.1")) < SOON
    by_packet_socket(twins)
    assert received_by(scene.wan, "second") > before + 100
    assert flowing_again(twins, lambda: scene.gateway.batch("link set wan2 down")) < SOON
    by_packet_socket(twins)
    before = received_by(scene.wan, "second")
    assert ping(scene.host, SITE_HOST, 10).lost == 0
    assert received_by(scene.wan, "second") == before


@pytest.mark.slow
def test_the_only_interface_goes_down_and_comes_back(twins: Twins) -> None:
    scene = twins.scene
    scene.gateway.batch("link set wan down")
    assert ping(scene.host, SITE_HOST, 2).lost == 2
    scene.gateway.batch("link set wan up", f"route replace default via {NAT_OUTER}")
    wait_until(lambda: ping(scene.host, SITE_HOST, 1).lost == 0, 10, "traffic")
    by_packet_socket(twins)


def drops(twins: Twins) -> dict[str, int]:
    found = twins.gateway.tunnel()
    assert found is not None
    return {reason: count for reason, count in found["drops"].items() if count}


@pytest.mark.slow
def test_a_shorter_path_behind_the_next_hop_is_learned_and_the_kernel_fragments(twins: Twins) -> None:
    """What ICMP says is believed for as long as the kernel does; DF as without packet sockets."""
    scene = twins.scene
    scene.wan.batch("link set edge mtu 1400")
    scene.edge.batch("link set wan mtu 1400")
    wait_until(lambda: ping(scene.host, SITE_HOST, 1, size=1350).lost == 0, 5, "the path's MTU is known", interval=0)
    sent, raw = calls(twins)
    assert ping(scene.host, SITE_HOST, 10, size=1350).lost == 0
    assert calls(twins) == (sent, raw + 10), "too long for the path"
    assert ping(scene.host, SITE_HOST, 10, size=1000).lost == 0
    assert calls(twins)[1] == raw + 10
    assert fallbacks(twins) == 0, "nobody had to refuse them"
    assert "send_failed" not in drops(twins)


def test_without_packet_sockets_it_says_so_and_runs(scene: Scene) -> None:
    twins = make_twins(scene, "aes256gcm16", encap=False, sections="[dataplane]\npacket_socket = true\n")
    twins.edge.start()
    wrapper = (sys.executable, str(Path(without_packet_sockets.__file__)))
    twins.gateway.start(wrapper=wrapper)
    twins.gateway.wait_up(20, logs=[twins.gateway.process])
    assert ping(scene.host, SITE_HOST, 10).lost == 0
    assert calls(twins)[0] == 0
    status = twins.gateway.status()
    assert status is not None
    (told,) = [entry["text"] for entry in status["journal"] if entry["event"] == "packet-sockets-failed"]
    assert "RestrictAddressFamilies=AF_PACKET" in told
    assert told.endswith("raw sockets send everything")
