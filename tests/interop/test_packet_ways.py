"""The ways of packet sockets on the real kernel: found as the kernel would send, and taken back when it would not any more.

The data plane is a double that only remembers; the frames themselves are tests/native/test_dataplane_packet_socket.py's
and tests/system/test_packet_socket.py's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from support.dataplane_pair import checksum
from support.route_lab import SETTINGS, RouteLab

from gateway.runtime import packet_sockets
from gateway.runtime.packet_sockets import PacketSockets

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs network namespaces"),
]

ONE = 1
LOCAL, REMOTE, HOP = "10.0.1.4", "203.0.113.7", "10.0.1.1"
LOCAL6, REMOTE6 = "fd01::4", "2001:db8:99::7"
MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
AT_ONCE = 2.0
"""Seconds; of news. Without news it is `packet_sockets.VERIFY`."""


class Plane:
    """What `gateway._native.DataPlane` would do."""

    def __init__(self) -> None:
        self.egress: dict[int, dict[str, object]] = {}
        self.cleared = 0

    def add_packet_socket(self, worker: int, fd: int) -> None:
        assert os.fstat(fd)

    def set_egress(
        self,
        connection: int,
        local: str,
        remote: str,
        interface: int,
        link_address: bytes,
        mtu: int,
        hops: int,
        flow_label: int = 0,
    ) -> None:
        self.egress[connection] = {
            "local": local, "remote": remote, "interface": socket.if_indextoname(interface),
            "link_address": link_address.hex(":"), "mtu": mtu, "hops": hops, "flow_label": flow_label,
        }  # fmt: skip

    def clear_egress(self, connection: int) -> None:
        self.cleared += self.egress.pop(connection, None) is not None

    def says(self, **expected: object) -> Callable[[], bool]:
        return lambda: ONE in self.egress and {name: self.egress[ONE][name] for name in expected} == expected

    def nothing(self) -> bool:
        return ONE not in self.egress


@pytest.fixture
def lab() -> Iterator[RouteLab]:
    with RouteLab() as made:
        made.batch(made.world, f"link set vb address {MAC}")
        made.batch(made.gw, "link add vc type veth peer name vd", "link set vc up", "link set vd up")
        made.batch(made.gw, "address add 10.0.2.4/24 dev vc", f"neighbor replace 10.0.2.1 lladdr {OTHER_MAC} dev vc")
        yield made


Story = Callable[[Plane, PacketSockets], Awaitable[None]]


def told(lab: RouteLab, story: Story, local: str = LOCAL, remote: str = REMOTE) -> Plane:
    """Plays it inside the gateway, with one connection between these addresses."""
    plane = Plane()

    async def main() -> None:
        packets = PacketSockets(plane, 2, SETTINGS.mark, SETTINGS.route_protocol)
        packets.open()
        try:
            packets.follow(ONE, local, remote)
            await story(plane, packets)
        finally:
            await packets.close()

    lab.run(main)
    return plane


async def seen(condition: Callable[[], bool], seconds: float = AT_ONCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in time"
        await asyncio.sleep(0.01)


def sysctl(lab: RouteLab, name: str, value: object) -> None:
    subprocess.run(("ip", "netns", "exec", lab.gw, "sysctl", "-qw", f"{name}={value}"), check=True, capture_output=True)


def test_a_way_is_what_the_kernel_would_do(lab: RouteLab) -> None:
    sysctl(lab, "net.ipv4.ip_default_ttl", 77)

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(lambda: bool(plane.egress), 3)
        assert plane.egress[ONE] == {
            "local": LOCAL, "remote": REMOTE, "interface": "va", "link_address": MAC, "mtu": 1500, "hops": 77,
            "flow_label": 0,
        }  # fmt: skip

    told(lab, story)


def test_ipv6_has_its_own_hop_limit_and_a_flow_label_that_stays(lab: RouteLab) -> None:
    sysctl(lab, "net.ipv6.conf.va.hop_limit", 55)
    labels = []

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(interface="va", link_address=MAC, hops=55), 3)
        labels.append(plane.egress[ONE]["flow_label"])
        lab.batch(lab.gw, "route add 2001:db8:99::/48 via fd01::1 mtu 1400 hoplimit 9")
        await seen(plane.says(interface="va", mtu=1400, hops=9))
        labels.append(plane.egress[ONE]["flow_label"])

    told(lab, story, LOCAL6, REMOTE6)
    assert len(set(labels)) == 1
    assert 0 < int(str(labels[0])) < 1 << 20
    sysctl(lab, "net.ipv6.auto_flowlabels", 0)

    async def without(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(flow_label=0, hops=9), 3)

    told(lab, without, LOCAL6, REMOTE6)


def test_a_new_link_address_is_followed_at_once(lab: RouteLab) -> None:
    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(link_address=MAC), 3)
        lab.batch(lab.gw, f"neighbor replace {HOP} lladdr {OTHER_MAC} dev va nud reachable")
        await seen(plane.says(link_address=OTHER_MAC))
        assert plane.cleared == 0, "never by way of nothing"
        lab.batch(lab.gw, f"neighbor delete {HOP} dev va")
        await seen(plane.nothing)

    told(lab, story)


@pytest.mark.slow
def test_a_neighbor_that_goes_stale_is_verified_though_nobody_sends_to_it(lab: RouteLab) -> None:
    sysctl(lab, "net.ipv4.neigh.va.delay_first_probe_time", 1)

    def state() -> list[str]:
        (entry,) = lab.ip("neighbor", "show", HOP, "dev", "va")
        return list(entry["state"])

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(link_address=MAC), 3)
        lab.batch(lab.gw, f"neighbor change {HOP} lladdr {MAC} dev va nud stale")
        await seen(lambda: state() == ["REACHABLE"], 5)
        assert plane.cleared == 0
        # Nobody is there under this address: the kernel finds out, and the raw socket is its to resolve anew
        lab.batch(lab.world, f"link set vb address {OTHER_MAC} arp off")
        lab.batch(lab.gw, f"neighbor change {HOP} lladdr {MAC} dev va nud stale")
        await seen(plane.nothing, 10)

    told(lab, story)


def test_a_permanent_neighbor_stays_permanent(lab: RouteLab) -> None:
    lab.batch(lab.gw, f"neighbor replace {HOP} lladdr {OTHER_MAC} dev va nud permanent")

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(link_address=OTHER_MAC), 3)

    told(lab, story)
    (entry,) = lab.ip("neighbor", "show", HOP, "dev", "va")
    assert entry["state"] == ["PERMANENT"]


def test_routes_lead_elsewhere_and_back(lab: RouteLab) -> None:
    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(interface="va"), 3)
        lab.batch(lab.gw, "route add 203.0.113.0/24 via 10.0.2.1")
        await seen(plane.says(interface="vc", link_address=OTHER_MAC))
        lab.batch(lab.gw, "route change 203.0.113.0/24 via 10.0.2.1 mtu 1300")
        await seen(plane.says(interface="vc", mtu=1300))
        lab.batch(lab.gw, "route delete 203.0.113.0/24")
        await seen(plane.says(interface="va", link_address=MAC, mtu=1500))
        lab.batch(lab.gw, "route add blackhole 203.0.113.7/32")
        await seen(plane.nothing)
        lab.batch(lab.gw, "route delete blackhole 203.0.113.7/32")
        await seen(plane.says(interface="va"))

    told(lab, story)


def test_rules_are_obeyed_by_mark_and_order(lab: RouteLab) -> None:
    lab.batch(lab.gw, "route add default via 10.0.2.1 table 300", "route add default via 10.0.2.1 table 301")

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(interface="va"), 3)
        lab.batch(lab.gw, "rule add priority 90 fwmark 0x99 lookup 300")
        await asyncio.sleep(0.2)
        await seen(plane.says(interface="va"))
        lab.batch(lab.gw, f"rule add priority 91 fwmark {SETTINGS.mark:#x} lookup 300")
        await seen(plane.says(interface="vc"))
        lab.batch(lab.gw, "rule delete priority 91", f"rule add priority 92 from {LOCAL} lookup 301")
        await seen(plane.says(interface="vc"))
        lab.batch(lab.gw, "rule delete priority 92")
        await seen(plane.says(interface="va"))

    told(lab, story)


@pytest.mark.parametrize("selector", ["ipproto 50", "tos 0x10"])
def test_rules_that_look_into_packets_leave_it_to_the_raw_socket(lab: RouteLab, selector: str) -> None:
    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(interface="va"), 3)
        lab.batch(lab.gw, f"rule add priority 90 {selector} lookup 300")
        await asyncio.sleep(0.2)
        await seen(plane.nothing)
        lab.batch(lab.gw, "rule delete priority 90")
        await seen(plane.says(interface="va"))

    told(lab, story)


def test_links_go_down_shrink_and_come_back(lab: RouteLab) -> None:
    lab.batch(lab.gw, "route add default via 10.0.2.1 metric 500")

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(interface="va", mtu=1500), 3)
        lab.batch(lab.gw, "link set va mtu 1400")
        await seen(plane.says(interface="va", mtu=1400))
        lab.batch(lab.gw, "link set va down")
        # The source is bound to the link that is down; the route of the other is what a raw socket would take
        await seen(plane.says(interface="vc"))
        lab.batch(lab.gw, "link set vc down")
        await seen(plane.nothing)
        lab.batch(lab.gw, "link set va up", f"route add default via {HOP}")
        await seen(plane.says(interface="va", link_address=MAC), 3)

    told(lab, story)


def test_without_our_address_nothing_is_sent_from_it(lab: RouteLab) -> None:
    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(interface="va"), 3)
        lab.batch(lab.gw, "address add 10.0.3.4/24 dev va", f"address delete {LOCAL}/24 dev va")
        await seen(plane.nothing)
        lab.batch(lab.gw, f"address add {LOCAL}/24 dev va", f"route replace default via {HOP}")
        await seen(plane.says(interface="va"), 3)

    told(lab, story)


def test_what_is_no_ethernet_is_the_raw_sockets(lab: RouteLab) -> None:
    lab.batch(lab.gw, "tuntap add dev tun9 mode tun", "link set tun9 up", "route add 203.0.113.0/24 dev tun9")
    lab.batch(lab.gw, "route add local 203.0.114.7/32 dev lo")

    async def story(plane: Plane, packets: PacketSockets) -> None:
        packets.follow(2, LOCAL, "203.0.114.7")
        packets.follow(3, LOCAL, "172.16.0.1")  # a third, to know when the lookup is over
        await seen(lambda: 3 in plane.egress, 3)
        assert list(plane.egress) == [3]

    told(lab, story)


def too_big(lab: RouteLab, protocol: int) -> None:
    """The next hop says of a packet of this protocol that 1300 octets are too many."""

    def send() -> None:
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1500, 1, 0x4000, 64, protocol, 0,
                             socket.inet_aton(LOCAL), socket.inet_aton(REMOTE)) + bytes(8)  # fmt: skip
        body = struct.pack("!BBHHH", 3, 4, 0, 0, 1300) + quoted
        body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as router:
            router.sendto(body, (LOCAL, 0))

    lab.sync(send, lab.world)


def test_what_a_router_says_about_the_path_is_known_at_once(lab: RouteLab) -> None:
    async def story(plane: Plane, packets: PacketSockets) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 50) as raw:
            raw.bind((LOCAL, 0))  # as the data plane's: it is by it that the kernel believes the router
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, SETTINGS.mark)
            await seen(plane.says(mtu=1500), 3)
            too_big(lab, 17)
            await asyncio.sleep(0.2)
            assert plane.cleared == 0, "not about our packets"
            too_big(lab, 50)
            await seen(plane.says(mtu=1300))
            lab.batch(lab.gw, "route flush cache")

    told(lab, story)


def test_what_is_no_news_is_found_by_looking_again(lab: RouteLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_sockets, "VERIFY", 0.3)

    async def story(plane: Plane, _: PacketSockets) -> None:
        await seen(plane.says(hops=64), 3)
        sysctl(lab, "net.ipv4.ip_default_ttl", 99)
        await seen(plane.says(hops=99), 2)

    told(lab, story)


def test_a_peer_that_moves_and_a_connection_that_goes(lab: RouteLab) -> None:
    async def story(plane: Plane, packets: PacketSockets) -> None:
        await seen(plane.says(remote=REMOTE), 3)
        packets.move(ONE, "172.16.0.1")
        assert plane.nothing()
        await seen(plane.says(remote="172.16.0.1"))
        packets.move(5, "172.16.0.1")  # nobody
        packets.follow(ONE, "0.0.0.0", REMOTE)
        assert plane.nothing()
        packets.follow(ONE, LOCAL, REMOTE)
        await seen(plane.says(remote=REMOTE))
        packets.forget(ONE)
        assert plane.nothing()
        lab.batch(lab.gw, "route add 203.0.113.0/24 via 10.0.2.1")
        await asyncio.sleep(0.2)
        assert plane.egress == {}

    told(lab, story)
