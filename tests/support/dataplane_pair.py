"""Native data planes in network namespaces, programmed by hand: the keys are known, so a test can also be the peer.

    left (192.0.2.1) ===== veth ===== right (192.0.2.2)       outer
    10.1.0.1, fd00:1::1               10.2.0.1, fd00:2::1     inner, on TUN device `gw0`

A `Gateway` is one data plane with its sockets and one connection. The fds are made by a thread that has entered the
namespace; the data plane itself runs in the test's process.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.netns import End, Lab, Namespace

from gateway._native import DataPlane

Value = TypeVar("Value")

CONNECTION = 7
PORT = 4500
MTU = 1438
TUN = "gw0"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_MULTI_QUEUE = 0x0001, 0x1000, 0x4000, 0x0100
_libc = ctypes.CDLL(None, use_errno=True)

Selector = tuple[int, bytes, bytes, int, int, bytes, bytes, int, int]


def inside(machine: Namespace, make: Callable[[], Value]) -> Value:
    """Call `make` in a thread that has entered the machine's network namespace."""
    outcome: list[Value] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(Path("/run/netns") / machine.full, os.O_RDONLY)
            try:
                if _libc.setns(fd, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            outcome.append(make())
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]


def udp_socket(machine: Namespace, host: str, port: int, *, share: bool = False) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.settimeout(5)
        return made

    return inside(machine, make)


def esp_socket(machine: Namespace, host: str) -> socket.socket:
    """A raw socket for protocol 50."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_RAW, 50)
        made.bind((host, 0))
        made.settimeout(5)
        return made

    return inside(machine, make)


def open_tun(machine: Namespace, name: str, queues: int) -> list[int]:
    def make() -> list[int]:
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
        fds = []
        for _ in range(queues):
            fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
            fcntl.ioctl(fds[-1], _TUNSETIFF, struct.pack("16sH14x", name.encode(), flags))
        return fds

    return inside(machine, make)


ANY_PORT = (0, 65535)


def selector(
    local: str,
    remote: str,
    protocol: int = 0,
    local_ports: tuple[int, int] = ANY_PORT,
    remote_ports: tuple[int, int] = ANY_PORT,
) -> Selector:
    """A selector of two prefixes."""
    ours, theirs = ipaddress.ip_network(local), ipaddress.ip_network(remote)
    return (
        protocol,
        ours.network_address.packed, ours.broadcast_address.packed, *local_ports,
        theirs.network_address.packed, theirs.broadcast_address.packed, *remote_ports,
    )  # fmt: skip


class Remote(Protocol):
    """What add_sa must know of the other end."""

    outer: str
    number: int


class Gateway:
    """One data plane with `workers` sockets on port 4500 and one connection."""

    def __init__(
        self,
        machine: Namespace,
        outer: str,
        number: int,
        *,
        workers: int = 1,
        queues: int | None = None,
        engine: str = "auto",
        mtu: int = MTU,
        bind: str | None = None,
        **placement: Any,
    ) -> None:
        self.machine, self.outer, self.number = machine, outer, number
        self.inner4, self.inner6 = f"10.{number}.0.1", f"fd00:{number}::1"
        self.plane = DataPlane(workers, engine, **placement)
        self.sockets = [udp_socket(machine, bind or outer, PORT, share=workers > 1) for _ in range(workers)]
        for index, made in enumerate(self.sockets):
            self.plane.add_socket(index, made.fileno())
        self.tun_fds = open_tun(machine, TUN, queues or workers)
        self.plane.add_connection(CONNECTION, self.tun_fds, mtu)
        machine.batch(
            f"link set {TUN} addrgenmode none",  # no link-local address: no router solicitations into the tunnel
            f"link set {TUN} mtu {mtu} up",
            f"address add {self.inner4}/32 dev {TUN}",
            f"address add {self.inner6}/128 dev {TUN} nodad",
            f"route add 10.0.0.0/8 dev {TUN} src {self.inner4}",
            f"route add fd00::/16 dev {TUN} src {self.inner6}",
        )

    def selectors(self, peer: int) -> list[Selector]:
        return [
            selector(f"10.{self.number}.0.0/16", f"10.{peer}.0.0/16"),
            selector(f"fd00:{self.number}::/32", f"fd00:{peer}::/32"),
        ]

    def arguments(self, direction: str, spi: int, peer: Remote, key: bytes) -> dict[str, Any]:
        """What add_sa takes for an AES-GCM SA between the two sites."""
        return {
            "direction": direction, "connection": CONNECTION, "spi": spi,
            "encryption": "aes-gcm-16", "integrity": "none", "encryption_key": key, "integrity_key": b"", "esn": False,
            "encapsulate": True, "local": (self.outer, PORT), "remote": (peer.outer, PORT),
            "selectors": self.selectors(peer.number), "replay_window": 4096,
            "soft_octets": 0, "hard_octets": 0, "soft_packets": 0, "hard_packets": 0,
            "socket_fd": self.sockets[0].fileno() if direction == "out" else -1, "worker": -1, "sequence": 0, "place": 0,
            "fenced": False,
        }  # fmt: skip

    def sa(self, direction: str, spi: int, peer: Remote, key: bytes, **changes: Any) -> None:
        """Install an SA; `changes` are arguments of add_sa."""
        self.plane.add_sa(**(self.arguments(direction, spi, peer, key) | changes))

    def drops(self, connection: int = CONNECTION) -> dict[str, int]:
        """Non-zero drop counters of the connection."""
        return {reason: count for number, reason, count in self.plane.drops() if number == connection and count}

    def statistics(self, direction: str, spi: int) -> Any:
        """One SA's row."""
        return next(row for row in self.plane.sa_statistics() if (row["direction"], row["spi"]) == (direction, spi))

    def events(self, kind: str, seconds: float = 2.0) -> list[tuple[str, int, int, bytes]]:
        """Wait for events of a kind through the eventfd; other kinds are dropped."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            select.select([self.plane.event_fd()], [], [], left)
            found = [event for event in self.plane.events() if event[0] == kind]
            if found:
                return found
        return []

    def close(self) -> None:
        self.plane.stop()
        for made in self.sockets:
            made.close()
        for fd in self.tun_fds:
            os.close(fd)


class Peer:
    """The other end as the test itself: seals and opens AES-GCM ESP (RFC 4303, RFC 4106) over a plain UDP socket."""

    def __init__(self, machine: Namespace, outer: str, number: int, key: bytes) -> None:
        self.machine, self.outer, self.number = machine, outer, number
        self.inner4, self.inner6 = f"10.{number}.0.1", f"fd00:{number}::1"
        self.socket = udp_socket(machine, outer, PORT)
        self._aead, self._salt = AESGCM(key[:-4]), key[-4:]

    def seal(self, spi: int, sequence: int, inner: bytes, next_header: int = 4, esn_high: int | None = None) -> bytes:
        header = struct.pack("!II", spi, sequence & 0xFFFFFFFF)
        iv = struct.pack("!Q", sequence | 1 << 63)
        pad = -(len(inner) + 2) % 4
        plain = inner + bytes(range(1, pad + 1)) + bytes((pad, next_header))
        aad = header if esn_high is None else struct.pack("!III", spi, esn_high, sequence & 0xFFFFFFFF)
        return header + iv + self._aead.encrypt(self._salt + iv, plain, aad)

    def open(self, packet: bytes) -> tuple[int, int, bytes]:
        """(SPI, sequence number, inner packet); InvalidTag when it is not authentic."""
        spi, sequence = struct.unpack_from("!II", packet)
        plain = self._aead.decrypt(self._salt + packet[8:16], packet[16:], packet[:8])
        return spi, sequence, plain[: -2 - plain[-2]]

    def send(self, datagram: bytes, to: str, *, segment: int = 0) -> None:
        """One datagram, or with `segment` several of that size that arrive as one GRO buffer."""
        control = [(socket.IPPROTO_UDP, 103, struct.pack("=H", segment))] if segment else []
        self.socket.sendmsg([datagram], control, 0, (to, PORT))

    def close(self) -> None:
        self.socket.close()


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_udp(source: str, destination: str, payload: bytes, port: int = 9000, source_port: int = 9000) -> bytes:
    """An inner IPv4 UDP packet with correct checksums."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    udp = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    total = checksum(addresses + struct.pack("!BBH", 0, 17, len(udp)) + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", total) + udp[8:]
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0x4000, 64, 17, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + udp


def linked_pair(lab: Lab) -> tuple[Namespace, Namespace]:
    """Two machines on one veth, 192.0.2.1 and 192.0.2.2 (and 2001:db8::1, ::2)."""
    left, right = lab.namespace("left"), lab.namespace("right")
    lab.link(
        End(left, "wan", ("192.0.2.1/24", "2001:db8::1/64")),
        End(right, "wan", ("192.0.2.2/24", "2001:db8::2/64")),
    )
    for machine in (left, right):
        machine.sysctl({"net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0})
    return left, right
