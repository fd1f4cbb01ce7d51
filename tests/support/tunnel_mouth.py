"""What a tunnel lets in, without a tunnel: packets written into the TUNs of a real node on the real kernel.

    world  vb 10.0.1.1 ---- va 10.0.1.4  gw  la 10.1.0.4 ---- lb 10.1.0.1  vnet
    (the WAN: main's default route)      gw-a, gw-b           (10.1.1.10 behind it)

The node, its routes and rules are the product's; only the data plane is missing: the TUNs' fds are ours, so a test says
what was decapsulated and reads what would be encapsulated. A connection is up when the test says so; no IKE message is
ever exchanged. Everything that arrives on the two links is kept and counted.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from support.esp_material import SeededRandom
from support.process import run
from support.route_lab import RouteLab

from gateway.config.load import load_text
from gateway.ike.key_exchange import Libcrypto
from gateway.node import effects, inputs
from gateway.node.gateway import Gateway
from gateway.node.settings import GatewaySettings, Secrets, build
from gateway.routing import model as routing
from gateway.runtime import tun
from gateway.runtime.driver import Driver
from gateway.runtime.kernel_routes import KernelRoutes
from gateway.runtime.netlink import Netlink
from gateway.runtime.rtnetlink import grow_receive_buffer

SITE, LAN_HOST, WAN_ROUTER, LAN_ROUTER = "172.16.1.10", "10.1.1.10", "10.0.1.1", "10.1.0.1"
_FENCE_PORT = 40_000
_ETH_P_ALL = 0x0003
_UDP, _ICMP6, _HOP = 17, 58, 64
_SETTLE = 5.0


class Seen:
    """The packets that arrived on one link."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._packets: list[bytes] = []

    def close(self) -> None:
        self._link.close()

    def packets(self) -> list[bytes]:
        """Everything since `clear`, our fences and neighbor discovery apart."""
        self._read()
        return [packet for packet in self._packets if not _is_ours(packet)]

    def clear(self) -> None:
        self._read()
        self._packets.clear()

    def to(self, destination: str) -> int:
        """How many of them went to this address."""
        return sum(_ends(packet)[1] == ip_address(destination) for packet in self.packets())

    def summary(self) -> Counter[str]:
        """By destination and protocol."""
        return Counter(f"{_ends(packet)[1]}/{_protocol(packet)}" for packet in self.packets())

    def fenced(self, number: int) -> bool:
        self._read()
        return any(_is_fence(packet) and packet.endswith(struct.pack("!I", number)) for packet in self._packets)

    def _read(self) -> None:
        while True:
            try:
                frame, address = self._link.recvfrom(65535)
            except BlockingIOError:
                return
            if address[2] != socket.PACKET_OUTGOING and frame[12:14] in (b"\x08\x00", b"\x86\xdd"):
                self._packets.append(frame[14:])


class MouthLab(RouteLab):
    """The two namespaces of RouteLab and a third, the VNet."""

    def __init__(self) -> None:
        super().__init__()
        self.vnet = f"gwrt{os.getpid()}-vnet"

    def _build(self) -> None:
        super()._build()
        run(("ip", "netns", "add", self.vnet))
        self.batch(self.gw, f"link add la type veth peer name lb netns {self.vnet}", "link set la up")
        self.batch(self.gw, "address add 10.1.0.4/24 dev la", "address add fd02::4/64 dev la nodad")
        self.batch(self.vnet, "link set lo up", "link set lb up", "address add fd02::1/64 dev lb nodad")
        self.batch(self.vnet, "address add 10.1.0.1/24 dev lb", f"address add {LAN_HOST}/32 dev lo")
        self.batch(self.vnet, "route add default via 10.1.0.4", "route add ::/0 via fd02::4")
        every = ("all", "default", "va", "la")
        self.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0")
        self.sysctl(*(f"net.ipv4.conf.{name}.rp_filter=0" for name in every))
        self.sysctl(*(f"net.ipv4.conf.{name}.send_redirects=0" for name in every))
        # Neighbors are known beforehand: what waits for its neighbor's address would be counted late.
        for device, far, peer, hops in (
            ("va", self.world, "vb", (WAN_ROUTER, "fd01::1")),
            ("la", self.vnet, "lb", (LAN_ROUTER, "fd02::1")),
        ):
            mac = self.mac(far, peer)
            self.batch(self.gw, *(f"neighbor replace {hop} lladdr {mac} dev {device} nud permanent" for hop in hops))

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        run(("ip", "netns", "delete", self.vnet), check=False)

    def mac(self, name: str, device: str) -> str:
        return run(("ip", "netns", "exec", name, "cat", f"/sys/class/net/{device}/address")).strip()

    def sysctl(self, *settings: str) -> None:
        run(("ip", "netns", "exec", self.gw, "sysctl", "-q", "-w", *settings))

    def advertise(self, prefix: str) -> None:
        """A router advertisement (RFC 4861 4.2) on the WAN link: `prefix`/64 is on-link, make an address of it."""
        option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + IPv6Address(prefix).packed
        message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 0, 0, 0) + option

        def sent() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
                link = socket.if_nametoindex("vb")
                raw.bind(("fe80::1", 0, 0, link))
                raw.sendto(message, ("ff02::1", 0, 0, link))

        self.batch(self.world, "address replace fe80::1/64 dev vb nodad")
        self.sync(sent, self.world)

    def on_link(self) -> set[str]:
        """The IPv6 prefixes main has on the WAN link."""
        return {str(route["dst"]) for route in self.ip("-6", "route", "show", "dev", "va") if "gateway" not in route}

    def listen(self, name: str, device: str) -> Seen:
        """What arrives on a device of another namespace, from now on."""

        def opened() -> socket.socket:
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            grow_receive_buffer(link, 16 << 20)
            link.bind((device, _ETH_P_ALL))
            return link

        return Seen(self.sync(opened, name))


class Mouth:
    """`async with Mouth(lab, configuration) as mouth`, inside lab.run: a node with its guard in and its TUNs open."""

    def __init__(self, lab: MouthLab, configuration: str) -> None:
        self.lab = lab
        loaded = load_text(configuration)
        assert loaded.config is not None, loaded.diagnostics
        self._config = loaded.config
        self.node = Gateway(_settings(configuration), SeededRandom(1), Libcrypto())
        self.fds: dict[str, int] = {}
        self.events: list[str] = []
        self._fences = 0

    async def __aenter__(self) -> Mouth:
        self.wan, self.lan = self.lab.listen(self.lab.world, "vb"), self.lab.listen(self.lab.vnet, "lb")
        self._marked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._marked.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._config.gateway.mark)
        self.netlink = Netlink(self._config.gateway)
        await self.netlink.open()
        self.driver = Driver(self.node, self._perform)
        self.routes = KernelRoutes(self.netlink, self.driver.command)
        await self.routes.prepare()
        self.driver.command(inputs.Start())
        await self.until(lambda: self.node.guarded and all(t.interface for t in self.node.tunnels.values()))
        await self.routes.idle()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.driver.close()
        await self.routes.close()
        await self.netlink.close()
        for name in list(self.fds):
            self.close_tun(name)
        for held in (self.wan, self.lan, self._marked):
            held.close()

    def close_tun(self, name: str) -> None:
        os.close(self.fds.pop(name))

    async def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + _SETTLE
        while not condition():
            assert time.monotonic() < deadline, self.events
            await asyncio.sleep(0.002)

    async def tell(self, *commands: object) -> None:
        """All commands, and everything they cause in the kernel."""
        for command in commands:
            self.driver.command(command)
        await self.routes.idle()

    async def reload(self, configuration: str) -> None:
        await self.tell(inputs.Reconfigured(_settings(configuration)))

    # --- traffic ------------------------------------------------------------------------------------------------

    def let_in(self, name: str, *packets: bytes) -> None:
        """What the data plane does with a decapsulated packet."""
        for packet in packets:
            os.write(self.fds[name], bytes(10) + packet)

    def taken(self, name: str) -> list[bytes]:
        """What the kernel gave this tunnel to encapsulate."""
        found = []
        while True:
            try:
                packet = os.read(self.fds[name], 65535)[10:]
            except BlockingIOError:
                return [packet for packet in found if not _is_discovery(packet)]
            found.append(packet)

    async def fence(self) -> None:
        """Until everything sent so far has been seen: a marked datagram passes both links behind it."""
        self._fences += 1
        mark = struct.pack("!I", self._fences)
        for hop in (WAN_ROUTER, LAN_ROUTER):
            self._marked.sendto(mark, (hop, _FENCE_PORT))
        await self.until(lambda: self.wan.fenced(self._fences) and self.lan.fenced(self._fences))

    async def passed(self, name: str, *packets: bytes) -> tuple[Counter[str], Counter[str], dict[str, int]]:
        """Lets packets in and says what came of them: on the WAN, on the LAN, and back into which tunnels."""
        self.wan.clear()
        self.lan.clear()
        for tunnel in self.fds:
            self.taken(tunnel)
        self.let_in(name, *packets)
        await self.fence()
        back = {tunnel: len(self.taken(tunnel)) for tunnel in self.fds}
        return self.wan.summary(), self.lan.summary(), {tunnel: count for tunnel, count in back.items() if count}

    # --- effects of the node ------------------------------------------------------------------------------------

    def _perform(self, effect: object) -> None:
        match effect:
            case effects.OpenTunnel(name=name):
                if name not in self.fds:
                    (self.fds[name],) = tun.open_tun(tun.interface_name(name), 1)
                else:
                    tun.reattach_tun(tun.interface_name(name), [self.fds[name]])
                self.routes.open_tunnel(effect)
            case effects.SetInstances():
                self.routes.set_instances(effect)
            case effects.SetTunnelMtu(name=name):
                settings = self.node.settings.tunnel(name)
                assert settings is not None
                self.routes.set_mtu(effect, settings.addresses)
            case effects.CloseTunnel(name=name):
                self.close_tun(name)
            case routing.RouteOps():
                self.routes.apply(effect)
            case routing.DumpRequest():
                self.routes.dump(effect)
            case routing.Resolve():
                self.routes.resolve(effect)
            case effects.Event():
                self.events.append(f"{effect.event} {effect.text}")


def udp(source: str, destination: str, *, hops: int = _HOP, octets: int = 32, port: int = 9) -> bytes:
    """A datagram, IPv4 or IPv6, with its checksum."""
    return _packet(source, destination, _UDP, _udp_header(source, destination, port, bytes(octets)), hops)


def fragments(source: str, destination: str) -> list[bytes]:
    """An IPv4 datagram in two fragments."""
    whole = _udp_header(source, destination, 9, bytes(600))
    return [
        _ipv4(source, destination, _UDP, whole[:304], _HOP, 0x2000),
        _ipv4(source, destination, _UDP, whole[304:], _HOP, 304 // 8),
    ]


def echo(source: str, destination: str) -> bytes:
    """An echo request, IPv4 or IPv6."""
    six = ":" in destination
    body = struct.pack("!BBHHH", 128 if six else 8, 0, 0, 7, 1) + b"what was encrypted"
    total = checksum((_pseudo(source, destination, _ICMP6, len(body)) if six else b"") + body)
    return _packet(source, destination, _ICMP6 if six else 1, body[:2] + struct.pack("!H", total) + body[4:], _HOP)


def icmp_error(source: str, destination: str, about: bytes) -> bytes:
    """Fragmentation needed (RFC 792, RFC 1191), about an IPv4 packet."""
    body = struct.pack("!BBHHH", 3, 4, 0, 0, 1280) + about[:28]
    return _packet(source, destination, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:], _HOP)


def _packet(source: str, destination: str, protocol: int, payload: bytes, hops: int) -> bytes:
    if ":" not in destination:
        return _ipv4(source, destination, protocol, payload, hops, 0)
    header = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
    return header + IPv6Address(source).packed + IPv6Address(destination).packed + payload


def _ipv4(source: str, destination: str, protocol: int, payload: bytes, hops: int, fragment: int) -> bytes:
    ends = IPv4Address(source).packed + IPv4Address(destination).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, hops, protocol, 0)
    return head[:10] + struct.pack("!H", checksum(head + ends)) + ends + payload


def _udp_header(source: str, destination: str, port: int, payload: bytes) -> bytes:
    segment = struct.pack("!HHHH", 7777, port, 8 + len(payload), 0) + payload
    total = checksum(_pseudo(source, destination, _UDP, len(segment)) + segment)
    return segment[:6] + struct.pack("!H", total or 0xFFFF) + segment[8:]


def _pseudo(source: str, destination: str, protocol: int, length: int) -> bytes:
    ends = ip_address(source).packed + ip_address(destination).packed
    return ends + (struct.pack("!II", length, protocol) if len(ends) > 8 else struct.pack("!HH", protocol, length))


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _settings(configuration: str) -> GatewaySettings:
    config = load_text(configuration).config
    assert config is not None
    return build(config, Secrets(dict.fromkeys(config.connection, b"secret")))


def _ends(packet: bytes) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]:
    if packet[0] >> 4 == 4:
        return ip_address(packet[12:16]), ip_address(packet[16:20])
    return ip_address(packet[8:24]), ip_address(packet[24:40])


def _protocol(packet: bytes) -> str:
    number = packet[9] if packet[0] >> 4 == 4 else packet[6]
    return {1: "icmp", _UDP: "udp", _ICMP6: "icmp6", 6: "tcp"}.get(number, str(number))


def _is_ours(packet: bytes) -> bool:
    return _is_fence(packet) or _is_discovery(packet)


def _is_fence(packet: bytes) -> bool:
    return packet[0] >> 4 == 4 and packet[9] == _UDP and packet[22:24] == struct.pack("!H", _FENCE_PORT)


def _is_discovery(packet: bytes) -> bool:
    """Neighbor discovery, router solicitation, multicast listeners."""
    if packet[0] >> 4 != 6:
        return False
    return _ends(packet)[1].is_multicast or (packet[6] == _ICMP6 and packet[40] in range(133, 138))
