"""Never in clear, on the real kernel: what a tunnel lets in, what the gateway answers, what is left when it is gone.

The first half writes packets into the TUNs of a real node and looks at both links (tests/support/tunnel_mouth.py); the
second plays gatewayd against strongSwan with a clear way to the site that works. In both, clear packets are counted on
the WAN, and every count has a control: the same packet without the guard does arrive there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from support.capture import Capture
from support.daemon import GatewayDaemon, configuration
from support.pair import VNET, make_pair
from support.process import holds_for, run
from support.scene import EDGE_CONNECTION, PSK, ROUTER_LAN, SITE_HOST, VNET_HOST, Scene
from support.traffic import Stream, Streams
from support.tunnel_mouth import LAN_HOST, SITE, Mouth, MouthLab, echo, fragments, icmp_error, udp

from gateway.config.load import load_text
from gateway.config.model import Config, Gateway
from gateway.routing.guard import THROW_METRIC
from gateway.routing.model import ConnectionDown, ConnectionUp, RemoveRoute, SetRoute, ViaConnection, ViaNextHop
from gateway.runtime.cleanup import cleanup
from gateway.runtime.kernel_routes import KernelRoutes
from gateway.runtime.netlink import Netlink

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces"),
]

STRANGER, STRANGER6, SITE6 = "192.0.2.9", "2001:db8:99::7", "2001:db8:5::9"
A, B, ROUTER = ViaConnection("a"), ViaConnection("b"), ViaNextHop(ip_address("10.1.0.1"))
LEARNED = ip_network("192.168.7.0/24")
TWO = """
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
protected = ["172.16.0.0/16", "2001:db8:5::/48"]
start_action = "none"
tunnel_address = ["169.254.21.1/30", "fd00:21::1/64"]

[connection.b]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.8"
psk.file = "x"
protected = ["172.20.0.0/16"]
start_action = "none"
tunnel_address = ["169.254.22.1/30"]
"""


@pytest.fixture
def wires() -> Iterator[MouthLab]:
    with MouthLab() as made:
        yield made


async def learn(mouth: Mouth) -> None:
    """Both tunnels up, and routes as BGP teaches them."""
    await mouth.tell(
        ConnectionUp("a"),
        ConnectionUp("b"),
        *(SetRoute(ip_network(prefix), A) for prefix in ("172.16.0.0/16", "2001:db8:5::/48")),
        SetRoute(LEARNED, A),
        SetRoute(ip_network("172.20.0.0/16"), B),
        SetRoute(ip_network("10.1.1.0/24"), ROUTER),
    )


CLOSED, TO_LAN, TO_A, TO_B = ({}, {}, {}), "lan", "a", "b"
ENTRY = {
    "to nobody we know": (udp(SITE, STRANGER), CLOSED),
    "to nobody we know, IPv6": (udp(SITE6, STRANGER6), CLOSED),
    "to the platform": (udp(SITE, "169.254.169.254"), CLOSED),
    "to the peer's own outer address": (udp(SITE, "198.51.100.7"), CLOSED),
    "to a neighbor's link-local address": (udp(SITE6, "fe80::1"), CLOSED),
    "to everybody": (udp(SITE, "224.0.0.5"), CLOSED),
    "to the VNet": (udp(SITE, LAN_HOST), TO_LAN),
    "back to its own site": (udp(SITE, "172.16.2.2"), TO_A),
    "back to its own site, IPv6": (udp(SITE6, "2001:db8:5:1::9"), TO_A),
    "to another site": (udp(SITE, "172.20.0.9"), TO_B),
    "to the tunnel's other end": (udp(SITE, "169.254.21.2"), TO_A),
}


def test_what_a_tunnel_lets_in_goes_into_a_tunnel_or_to_the_vnet_and_nowhere_else(wires: MouthLab) -> None:
    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            for what, (packet, expected) in ENTRY.items():
                wan, lan, back = await mouth.passed("a", packet)
                assert wan == {}, what
                if expected == TO_LAN:
                    assert sum(lan.values()) == 1, what
                else:
                    assert (lan, back) == ({}, {} if expected == CLOSED else {expected: 1}), what
            # A site whose tunnel is down is not reached in clear from another one.
            await mouth.tell(ConnectionDown("b"))
            assert await mouth.passed("a", udp(SITE, "172.20.0.9")) == CLOSED
            # Control: without the entry guard the packet leaves by main's default route.
            wires.batch(wires.gw, "rule add priority 22106 iif gw-a lookup main")
            assert (await mouth.passed("a", udp(SITE, STRANGER)))[0] == {f"{STRANGER}/udp": 1}

    wires.run(main)


def test_a_tunnel_whose_rules_have_lost_their_block_is_closed(wires: MouthLab) -> None:
    """A goto without its target goes on to the next rule; and here nobody repairs anything."""

    def delete(family: str, *rule: str) -> None:
        run(("ip", "-n", wires.gw, family, "rule", "del", *rule))

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            assert (await mouth.passed("a", udp(SITE, LAN_HOST)))[1] == {f"{LAN_HOST}/udp": 1}
            await mouth.routes.close()
            for family, packets in (
                ("-4", (udp(SITE, STRANGER), udp(SITE, "10.0.1.1"), udp(SITE, "169.254.169.254"))),
                ("-6", (udp(SITE6, STRANGER6),)),
            ):
                block = [str(rule["priority"]) for rule in wires.ip(family, "rule") if rule["priority"] > 40_000]
                assert len(block) > 2
                # Its end, a blackhole: the site is told that there is no way. Then everything.
                delete(family, "priority", block[-1])
                assert (await mouth.passed("a", packets[0]))[:2] == ({}, {})
                for priority in block[:-1]:
                    delete(family, "priority", priority)
                assert await mouth.passed("a", *packets) == CLOSED
                # Control: what closes it now is the rule behind the goto.
                delete(family, "priority", "22108", "iif", "gw-a")
                assert sum((await mouth.passed("a", packets[0]))[0].values()) == 1
            assert await mouth.passed("b", udp("172.20.0.1", STRANGER)) == CLOSED

    wires.run(main)


def test_fragments_go_the_way_of_the_whole(wires: MouthLab) -> None:
    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            assert await mouth.passed("a", *fragments(SITE, STRANGER)) == CLOSED
            assert (await mouth.passed("a", *fragments(SITE, LAN_HOST)))[:2] == ({}, {f"{LAN_HOST}/udp": 2})
            assert await mouth.passed("a", *fragments(SITE, "172.20.0.9")) == ({}, {}, {"b": 2})

    wires.run(main)


@pytest.mark.parametrize(
    ("pieces", "packets"),
    [
        (("0.0.0.0/1 via 10.0.1.1", "128.0.0.0/1 via 10.0.1.1"), (udp(SITE, "8.8.8.8"), udp(SITE, STRANGER))),
        (("64.0.0.0/2 via 10.0.1.1", "192.0.0.0/7 via 10.0.1.1"), (udp(SITE, "65.1.1.1"), udp(SITE, STRANGER))),
        (("2000::/3 via fd01::1",), (udp(SITE6, STRANGER6),)),
    ],
    ids=["two halves", "smaller pieces", "2000::/3"],
)
def test_a_default_route_in_pieces_is_none_either(
    wires: MouthLab, pieces: tuple[str, ...], packets: tuple[bytes, ...]
) -> None:
    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            wires.batch(wires.gw, *(f"route add {piece}" for piece in pieces))
            assert await mouth.passed("a", *packets) == CLOSED
            # A route that names somebody does count: whoever wrote it into main meant it.
            wires.batch(wires.gw, "route add 192.0.2.0/24 via 10.0.1.1", "route add 2001:db8:99::/48 via fd01::1")
            wan, _, _ = await mouth.passed("a", udp(SITE, STRANGER), udp(SITE6, STRANGER6))
            assert wan == {f"{STRANGER}/udp": 1, f"{STRANGER6}/udp": 1}

    wires.run(main)


def test_a_site_does_not_reach_the_platform_that_trusts_this_host(wires: MouthLab) -> None:
    """DHCP gives cloud hosts routes of their own to these addresses; behind them are this host's credentials."""
    platform = ("169.254.169.254", "168.63.129.16")

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            wires.batch(wires.gw, *(f"route add {address}/32 via 10.0.1.1" for address in platform))
            assert await mouth.passed("a", *(udp(SITE, address) for address in platform)) == CLOSED
            assert all(wires.pings(address) for address in platform)

    wires.run(main)


def test_named_prefixes_follow_the_default_route_because_they_are_ours(wires: MouthLab) -> None:
    named = TWO.replace("[connection.b]", 'local_ts = ["10.9.0.0/16"]\n\n[connection.b]')

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            assert await mouth.passed("a", udp(SITE, "10.9.1.1")) == CLOSED
            await mouth.reload(named)
            assert (await mouth.passed("a", udp(SITE, "10.9.1.1")))[0] == {"10.9.1.1/udp": 1}
            assert await mouth.passed("b", udp("172.20.0.1", "10.9.1.1")) == CLOSED
            await mouth.reload(TWO)
            assert await mouth.passed("a", udp(SITE, "10.9.1.1")) == CLOSED

    wires.run(main)


ANSWERED = (
    ("echo to the address inside", echo(SITE, "169.254.21.1")),
    ("echo to the address inside, IPv6", echo(SITE6, "fd00:21::1")),
    ("echo to an address outside", echo(SITE, "10.1.0.4")),
    ("a port nobody listens on", udp(SITE, "169.254.21.1")),
    ("the last hop", udp(SITE, LAN_HOST, hops=1)),
    ("the last hop of a hairpin", udp(SITE, "172.16.2.2", hops=1)),
    ("the last hop, IPv6", udp(SITE6, "2001:db8:5:1::9", hops=1)),
)
UNANSWERED = (
    ("echo to the address inside", echo(STRANGER, "169.254.21.1")),
    ("echo to the address inside, IPv6", echo(STRANGER6, "fd00:21::1")),
    ("a port nobody listens on", udp(STRANGER, "169.254.21.1")),
    ("the last hop to nobody we know", udp(STRANGER, "192.0.2.10", hops=1)),
    ("the last hop to nobody we know, IPv6", udp(STRANGER6, "2001:db8:99::8", hops=1)),
)


def test_what_the_gateway_itself_says_to_a_site_goes_back_encrypted(wires: MouthLab) -> None:
    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            for what, packet in ANSWERED:
                assert await mouth.passed("a", packet) == ({}, {}, {"a": 1}), what
            # The tunnel is gone while the answer is due: no answer.
            await mouth.tell(ConnectionDown("a"))
            for what, packet in ANSWERED:
                assert await mouth.passed("a", packet) == CLOSED, what

    wires.run(main)


def test_the_addresses_inside_answer_nobody_in_clear(wires: MouthLab) -> None:
    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            for what, packet in UNANSWERED:
                assert await mouth.passed("a", packet) == CLOSED, what
            assert wires.pings("10.1.0.1", "-I", "169.254.21.1")  # on the links beside us they are heard

    wires.run(main)


UNGUARDED_ANSWERS = (
    ("echo to an address outside", echo(STRANGER, "10.1.0.4"), f"{STRANGER}/icmp"),
    ("echo to an address outside, IPv6", echo(STRANGER6, "fd02::4"), f"{STRANGER6}/icmp6"),
    ("the last hop to the VNet", udp(STRANGER, LAN_HOST, hops=1), f"{STRANGER}/icmp"),
    ("a VNet host answers", echo(STRANGER, LAN_HOST), f"{STRANGER}/icmp"),
)
NFT = Path(__file__).parents[2] / "config" / "nftables" / "gatewayd.nft"


def second_layer(wires: MouthLab) -> None:
    run(("ip", "netns", "exec", wires.gw, "nft", "-f", str(NFT)))


def test_answers_to_sources_no_tunnel_leads_to_are_clear_without_the_second_layer_and_not_with_it(
    wires: MouthLab,
) -> None:
    """The limit of routes and rules: an answer looks like any other packet of ours, or of the VNet's."""

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            for what, packet, leak in UNGUARDED_ANSWERS:
                assert (await mouth.passed("a", packet))[0] == {leak: 1}, what
            second_layer(wires)
            for what, packet, _ in UNGUARDED_ANSWERS:
                assert await mouth.passed("a", packet) == CLOSED, what
            for what, packet in ANSWERED:
                assert await mouth.passed("a", packet) == ({}, {}, {"a": 1}), what
            assert (await mouth.passed("a", udp(SITE, LAN_HOST)))[1] == {f"{LAN_HOST}/udp": 1}
            # A router inside the site, known to nobody, says that a packet was too big: that must get through.
            error = icmp_error(STRANGER, LAN_HOST, udp(LAN_HOST, SITE))
            assert await mouth.passed("a", error) == ({}, {f"{LAN_HOST}/icmp": 1}, {})

    wires.run(main)


def test_the_second_layer_holds_before_the_first_start_and_while_the_rules_are_gone(wires: MouthLab) -> None:
    second_layer(wires)
    assert wires.way("172.16.0.1") == "va"
    assert not wires.pings("172.16.0.1", "-W1")
    assert not wires.pings("2001:db8:5::1", "-W1")
    assert wires.pings("172.16.0.1", "-m", str(_gateway(TWO).mark))
    assert wires.pings("203.0.113.7")


# --- what is left when a tunnel or the daemon is gone -------------------------------------------------------------


def test_a_learned_prefix_is_dropped_not_sent_in_clear_when_its_device_or_the_daemon_goes(wires: MouthLab) -> None:
    """`protected` does not hold it; it was routed into a tunnel, and nobody has withdrawn it."""
    learned = "192.168.7.9"

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            assert wires.way(learned) == "gw-a"
            wires.batch(wires.gw, "link set gw-a down")
            assert wires.way(learned) in ("", "gw-a")
            await mouth.until(lambda: wires.way(learned) == "gw-a")
            wires.batch(wires.gw, "link del gw-a")
            assert wires.way(learned) in ("", "gw-a")
            await mouth.until(lambda: wires.way(learned) == "gw-a")
            await mouth.tell(ConnectionDown("a"))
            assert wires.way(learned) == ""
            await mouth.tell(SetRoute(ip_network("192.168.8.0/24"), A))
            assert wires.way("192.168.8.1") == ""  # learned while the tunnel is down
            await mouth.tell(RemoveRoute(ip_network("192.168.8.0/24")))
            assert wires.way("192.168.8.1") == "va"  # withdrawn: no longer the site's

    wires.run(main)
    assert (wires.way(learned), wires.way("172.16.1.1")) == ("", "")
    wires.sync(lambda: cleanup(Config(gateway=_gateway(TWO))))
    assert (wires.way(learned), wires.way("172.16.1.1")) == ("", "")
    wires.sync(lambda: cleanup(Config(gateway=_gateway(TWO)), all=True))
    assert (wires.way(learned), wires.way("172.16.1.1")) == ("va", "va")


def test_no_route_learned_from_the_vnet_opens_a_protected_prefix(wires: MouthLab) -> None:
    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            inside, same, around = (ip_network(text) for text in ("172.16.1.128/25", "172.16.0.0/16", "172.0.0.0/8"))
            await mouth.tell(*(SetRoute(prefix, ROUTER, "vnet", 5) for prefix in (inside, same, around)))
            assert wires.way("172.16.1.129") == wires.way("172.16.1.1") == "gw-a"
            assert "would send it in clear" in mouth.node.fib.state(inside).error
            assert wires.way("172.99.0.1") == "la"
            await mouth.tell(ConnectionDown("a"))
            assert wires.way("172.16.1.129") == wires.way("172.16.1.1") == ""
            # The site withdraws what it taught us.
            await mouth.tell(RemoveRoute(same))
            assert wires.way("172.16.1.129") == wires.way("172.16.1.1") == ""

    wires.run(main)


def test_a_router_advertisement_does_not_make_a_protected_prefix_a_link(wires: MouthLab) -> None:
    """Whoever is on the link could otherwise call any part of the site "on-link" and be sent its packets in clear."""
    inside, beside = "2001:db8:5:1::", "2001:db8:77:1::"
    wires.sysctl("net.ipv6.conf.va.accept_ra=2")

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)
            wires.advertise(inside)
            wires.advertise(beside)
            await mouth.until(lambda: {f"{inside}/64", f"{beside}/64"} <= wires.on_link())
            await mouth.until(lambda: ("throw", f"{beside}/64", THROW_METRIC) in wires.table("-6"))
            await mouth.routes.idle()
            assert (wires.way(f"{inside}9"), wires.way(f"{beside}9")) == ("gw-a", "va")
            assert f"{inside}/64, which is connected" in mouth.node.fib.status().problems[0]
            await mouth.tell(ConnectionDown("a"))
            assert wires.way(f"{inside}9") == ""

    wires.run(main)


def test_a_restart_with_another_table_keeps_the_old_guard_until_the_new_one_is_in(wires: MouthLab) -> None:
    other = _gateway(TWO + "\n[gateway]\nroute_table = 300\n")

    async def main() -> None:
        async with Mouth(wires, TWO) as mouth:
            await learn(mouth)

    async def prepared() -> None:
        async with Netlink(other) as netlink:
            routes = KernelRoutes(netlink, lambda command: None)
            await routes.prepare()
            assert wires.way("172.16.1.1") == ""
            await routes.close()

    async def again() -> None:
        async with Mouth(wires, TWO + "\n[gateway]\nroute_table = 300\n") as mouth:
            await learn(mouth)
            assert wires.way("172.16.1.1") == "gw-a"
            tables = {rule["table"] for rule in wires.ip("rule") if rule["priority"] == 22105}
            assert tables == {"300"}

    wires.run(main)
    assert wires.way("172.16.1.1") == ""
    wires.run(prepared)
    wires.run(again)
    assert wires.way("172.16.1.1") == ""


# --- the daemon, against strongSwan, with a clear way to the site that works ----------------------------------------

FLOOD = 5000.0
TABLE = "221"
HAND = {
    "the TUN is deleted": ("link del gw-site",),
    "the TUN is taken down": ("link set gw-site down",),
    "nexthops are flushed": (f"nexthop flush protocol {TABLE}",),
}
FOREIGN_HAND = {
    "our routes are deleted": (
        f"route del 172.16.0.0/16 table {TABLE} metric 20",
        f"route del blackhole 172.16.0.0/16 table {TABLE} metric 4294967295",
    ),
    "our rule is deleted": ("rule del priority 22105",),
}


def flood(scene: Scene, port: int) -> Stream:
    """The VNet's host sends to the site, whatever becomes of it."""
    stream = Stream(scene.host, VNET_HOST, scene.site, SITE_HOST, port)
    stream.start(FLOOD)
    return stream


@pytest.mark.parametrize("what", [*HAND, *FOREIGN_HAND])
def test_what_is_broken_by_hand_is_repaired(scene: Scene, what: str, record_property: pytest.RecordProperty) -> None:
    """Packets in clear: none while table and rule stand. Whoever removes these removes the guard, until it is back."""
    pair = make_pair(scene)
    pair.establish("gateway")
    stream = flood(scene, 7100)
    stream.wait_flowing(10)
    broken = time.monotonic()
    scene.gateway.batch(*({**HAND, **FOREIGN_HAND}[what]))
    healed = stream.wait_flowing(10, time.monotonic())
    again = stream.wait_flowing(10)
    stream.stop()
    seen = pair.capture.stop()
    print(f"\n{what}: {seen.clear} packets in clear, traffic back after {(healed - broken) * 1000:.0f} ms")
    record_property("clear", seen.clear)
    assert seen.dropped == 0
    assert again > healed
    if what in HAND:
        assert (seen.clear, seen.samples) == (0, [])
    else:
        assert seen.clear <= FLOOD * 0.5  # the window; see docs/ARCHITECTURE.md


@pytest.fixture
def routed(scene: Scene) -> GatewayDaemon:
    """BGP on both sides; the gateway's main table knows the VNet by BGP only, and the site by its default route."""
    scene.gateway.batch(f"route del {VNET} via {ROUTER_LAN}")
    charon, edge, vnet = scene.edge_charon(), scene.edge_bird(), scene.vnet_bird()
    for daemon in (charon, edge, vnet):
        daemon.start()
    return GatewayDaemon(scene.gateway, configuration(EDGE_CONNECTION, bgp=True), {"site.psk": PSK})


def both_ways(scene: Scene, daemon: GatewayDaemon, port: int) -> None:
    """Traffic flows, and then stops."""
    streams = Streams(scene.site, SITE_HOST, scene.host, VNET_HOST, port)
    streams.start(200)
    streams.wait_flowing(40)
    streams.stop()
    assert daemon.up()


@pytest.mark.slow
def test_a_kill_without_a_route_to_the_vnet_in_main_sends_nothing_in_clear(scene: Scene, routed: GatewayDaemon) -> None:
    capture = Capture(scene.wan, "gateway")
    capture.start()
    routed.start()
    both_ways(scene, routed, 7200)
    outward = flood(scene, 7210)
    inward = Stream(scene.site, SITE_HOST, scene.host, VNET_HOST, 7211)
    inward.start(500)
    outward.wait_flowing(20)
    inward.wait_flowing(20)
    routed.kill()
    killed = time.monotonic()
    holds_for(lambda: outward.received_since(killed + 0.2) is None, 2.0, "nothing arrives while the daemon is dead")
    routed.start()
    outward.wait_flowing(60)
    inward.wait_flowing(60)
    outward.stop()
    inward.stop()
    seen = capture.stop()
    assert (seen.clear, seen.markers, seen.samples, seen.dropped) == (0, 0, [], 0)


@pytest.mark.slow
def test_twenty_reloads_and_twenty_restarts_under_a_flood(scene: Scene, routed: GatewayDaemon) -> None:
    capture = Capture(scene.wan, "gateway")
    capture.start()
    routed.start()
    both_ways(scene, routed, 7300)
    stream = flood(scene, 7310)
    plain = routed.config.read_text()
    second = plain + _SECOND
    for number in range(20):
        routed.config.write_text(plain if number % 2 else second)
        routed.ctl("reload", "--wait", "10")
    for number in range(20):
        if number % 2:
            routed.kill()  # also while it starts
        else:
            routed.wait_up(30)
            assert routed.stop() == 0
        routed.start()
    stream.wait_flowing(60)
    lost = stream.stop()
    seen = capture.stop()
    print(f"\n{lost.sent} sent, {lost.lost} lost, {seen.clear} in clear, {seen.total} packets on the WAN")
    assert (seen.clear, seen.markers, seen.samples, seen.dropped) == (0, 0, [], 0)


_SECOND = """
[connection.second]
local_addrs = "198.51.100.2"
remote_addrs = "203.0.113.77"
psk.file = "site.psk"
start_action = "none"
protected = ["172.31.0.0/16"]
remote_ts = ["172.31.0.0/16"]
"""


def _gateway(configuration: str) -> Gateway:
    loaded = load_text(configuration)
    assert loaded.config is not None, loaded.diagnostics
    return loaded.config.gateway
