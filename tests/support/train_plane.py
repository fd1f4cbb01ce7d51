"""One native data plane for whole trains: two connections on TUNs of their own, SAs of several suites and selectors,
and the same SAs in the reference data plane, so that what each must do is known.

    mouths[7], mouths[8]  -- TUN -- data plane -- 192.0.2.2 ===== 192.0.2.1  the test, as the ESP peer

Connection 7 has three SAs behind each other (DNS, IPv4 TCP, the rest) in UDP, connection 8 one with ESN as protocol 50.
"""

from __future__ import annotations

import os
import random
import socket
from collections import Counter
from dataclasses import astuple, dataclass, field

from support.dataplane_pair import CONNECTION, PORT, Gateway, esp_socket, linked_pair, open_tun, selector, udp_socket
from support.esp_material import SeededRandom, keys_for
from support.netns import Lab
from support.packet_mouth import BUFFER, Mouth
from support.scapy_esp import ThirdParty

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, Encryption, Integrity, SaParameters, Selector, Suite
from gateway.esp.packet import EspKeys
from gateway.esp.reference import ReferenceDataPlane

OURS, THEIRS = "192.0.2.1", "192.0.2.2"
OTHER = 8
POLICIES = {CONNECTION: (0x1001, 0x1002, 0x1003), OTHER: (0x1004,)}
CPU = max(os.sched_getaffinity(0))
SUITES = (
    Suite(Encryption.AES_GCM_16, 16),
    Suite(Encryption.AES_GCM_16, 32, esn=True),
    Suite(Encryption.AES_GCM_8, 16),
    Suite(Encryption.CHACHA20_POLY1305, 32),
    Suite(Encryption.AES_CBC, 16, Integrity.HMAC_SHA2_256_128),
    Suite(Encryption.AES_CBC, 32, Integrity.HMAC_SHA1_96, esn=True),
)
_SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Sa:
    """One SA of both planes."""

    spi: int
    connection: int
    suite: Suite
    keys: EspKeys
    selectors: tuple[Selector, ...]
    encapsulate: bool = True

    def third_party(self) -> ThirdParty:
        """The same SA in scapy."""
        return ThirdParty(self.keys, self.spi, encapsulate=self.encapsulate)


def drawn(rng: random.Random) -> list[Sa]:
    """The four SAs, between 10.1/16 (ours) and 10.2/16, with suites from the seed."""
    a, b = "10.1.0.0/16", "10.2.0.0/16"
    a6, b6 = "fd00:1::/32", "fd00:2::/32"
    dns = tuple(selector(*ends, 17, remote_ports=(53, 53)) for ends in ((a, b), (a6, b6)))
    shapes = (
        (0x1001, CONNECTION, rng.choice(SUITES), dns, True),
        (0x1002, CONNECTION, rng.choice(SUITES), (selector(a, b, protocol=6),), True),
        (0x1003, CONNECTION, rng.choice(SUITES), (selector(a, b), selector(a6, b6)), True),
        (0x1004, OTHER, Suite(Encryption.AES_GCM_16, 32, esn=True), (selector(a, b), selector(a6, b6)), False),
    )  # fmt: skip
    return [
        Sa(spi, connection, suite, keys_for(suite, spi), tuple(Selector(*one) for one in selectors), encapsulate)
        for spi, connection, suite, selectors, encapsulate in shapes
    ]


@dataclass(slots=True)
class TrainPlane:
    """The data plane on the right, its TUNs' other sides, and the test's sockets on the left."""

    gateway: Gateway
    sas: dict[int, Sa]
    mtu: int
    mouths: dict[int, Mouth]
    udp: socket.socket
    raw: socket.socket
    gateway_raw: socket.socket
    other_fds: list[int]
    reference: ReferenceDataPlane = field(default_factory=lambda: ReferenceDataPlane(SeededRandom()))

    def drops(self) -> Counter[tuple[int, str]]:
        return Counter({(number, reason): n for number, reason, n in self.gateway.plane.drops() if n})

    def close(self) -> None:
        for mouth in self.mouths.values():
            mouth.close()
        self.gateway.close()
        for sock in (self.udp, self.raw, self.gateway_raw):
            sock.close()
        for fd in self.other_fds:
            os.close(fd)


def train_plane(lab: Lab, sas: list[Sa], direction: Direction, *, mtu: int = 1438, workers: int = 1,
                mss: tuple[int, int] = (0, 0), dscp: int = -1, clear_df: bool = False) -> TrainPlane:  # fmt: skip
    """Build it; workers are pinned to the last CPU, so that `held(CPU)` holds them."""
    left, right = linked_pair(lab)
    for machine in (left, right):
        machine.batch(f"link set wan mtu {max(1500, mtu + 100)}")
    gateway = Gateway(right, THEIRS, 2, workers=workers, mtu=max(1280, mtu), cpus=(CPU,) * workers)
    other_fds = open_tun(right, "gw1", workers)
    gateway.plane.add_connection(OTHER, other_fds, mtu)
    right.batch("link set gw1 addrgenmode none", "link set gw1 mtu 65535 up", "link set gw0 mtu 65535")
    gateway_raw = esp_socket(right, THEIRS)
    gateway.plane.add_socket(0, gateway_raw.fileno())
    udp, raw = udp_socket(left, OURS, PORT), esp_socket(left, OURS)
    for sock in (udp, raw, gateway_raw, *gateway.sockets):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    mouths = {CONNECTION: Mouth(right, "gw0"), OTHER: Mouth(right, "gw1")}
    made = TrainPlane(gateway, {sa.spi: sa for sa in sas}, mtu, mouths, udp, raw, gateway_raw, other_fds)
    for connection in (CONNECTION, OTHER):
        gateway.plane.update_connection(connection, mtu, *mss, dscp, clear_df)
        made.reference.add_connection(connection, "", mtu)
    for sa in sas:
        _install(made, sa, direction)
    if direction is Direction.OUTBOUND:
        for plane in (gateway.plane, made.reference):
            for connection, spis in POLICIES.items():
                plane.replace_policies(connection, list(spis))  # type: ignore[arg-type]
    return made


def _install(made: TrainPlane, sa: Sa, direction: Direction) -> None:
    port = PORT if sa.encapsulate else 0
    local, remote = Endpoint(THEIRS, port), Endpoint(OURS, port)
    out = direction is Direction.OUTBOUND
    fd = (made.gateway.sockets[0] if sa.encapsulate else made.gateway_raw).fileno() if out else -1
    made.gateway.plane.add_sa(
        direction="out" if out else "in", connection=sa.connection, spi=sa.spi, encryption=sa.suite.encryption.value,
        integrity=sa.suite.integrity.value, encryption_key=sa.keys.encryption_key, integrity_key=sa.keys.integrity_key,
        esn=sa.suite.esn, encapsulate=sa.encapsulate, local=local, remote=remote,
        selectors=[astuple(one) for one in sa.selectors], replay_window=4096,
        soft_octets=0, hard_octets=0, soft_packets=0, hard_packets=0, socket_fd=fd, worker=-1, sequence=0, place=0, fenced=False,
    )  # fmt: skip
    made.reference.add_sa(
        SaParameters(
            direction=direction, spi=sa.spi, connection=sa.connection, suite=sa.suite,
            encryption_key=sa.keys.encryption_key, integrity_key=sa.keys.integrity_key, local=local, remote=remote,
            selectors=sa.selectors, encapsulate=sa.encapsulate, replay_window=4096,
        )
    )  # fmt: skip
