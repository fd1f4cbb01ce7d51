"""The safety rules of the data plane, each a test of its name. The test is the ESP peer and the hosts behind the gateway.

the replay window, the peer's address and every per-SA counter move only after the ICV verified
a sequence number is used once and the SA refuses to wrap (native/tests/test_plane_outbound.c: an_sa_refuses_to_wrap)
a GCM IV never repeats under a key, also not after a crash (tests/system/test_iv_after_a_crash.py)
inner packets must match their SA's selectors
no ESP without integrity
nothing leaves in clear because an SA is missing
keys are wiped (native/tests/test_wipe.c: keys_are_wiped)
every drop has a named reason and a counter
"""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.capture import kind_of
from support.dataplane_pair import CONNECTION, PORT, Gateway, Peer, ipv4_udp, linked_pair, udp_socket
from support.netns import Lab
from support.packet_mouth import BUFFER, receive
from support.process import wait_until
from support.twins import Tap

from gateway import _native
from gateway.config.proposals import ProposalError, parse_esp_proposal
from gateway.runtime.dataplane import QUEUE_FULL

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY = bytes(range(20))
SPI = 0x1001
TWO32 = 2**32
UDP_SEGMENT = 103
_SO_RCVBUFFORCE = 33


@dataclass(slots=True)
class Rules:
    """A gateway on the right with a host behind it, a peer made by hand on the left, and the wire."""

    gateway: Gateway
    peer: Peer
    host: socket.socket
    tap: Tap

    def inner(self, payload: bytes, source: str = "10.1.0.1") -> bytes:
        return ipv4_udp(source, self.gateway.inner4, payload)

    def deliver(self, number: int, payload: bytes = b"", *, spi: int = SPI, esn: bool = False) -> None:
        high = number >> 32 if esn else None
        packet = self.peer.seal(spi, number, self.inner(payload), esn_high=high)
        self.peer.send(packet, self.gateway.outer)

    def received(self) -> list[bytes]:
        found = []
        while (got := receive([self.host], 0.0)) is not None:
            found.append(got[1])
        return found

    def forge(self, number: int, at: int) -> None:
        """Sealed under the right key and then damaged, from another port."""
        forged = bytearray(self.peer.seal(SPI, number, self.inner(b"evil")))
        forged[at] ^= 0x40
        with udp_socket(self.peer.machine, self.peer.outer, 5555) as attacker:
            attacker.sendto(forged, (self.gateway.outer, PORT))

    def expect(self, *payloads: bytes) -> None:
        found: list[bytes] = []

        def complete() -> bool:
            found.extend(self.received())
            return len(found) >= len(payloads)

        wait_until(complete, 3, f"{len(payloads)} datagrams arrive; {self.gateway.drops()}", interval=0.001)
        assert found == list(payloads)

    def expect_drops(self, connection: int = CONNECTION, **reasons: int) -> None:
        wait_until(
            lambda: self.gateway.drops(connection) == reasons, 3, f"drops {reasons}; {self.gateway.drops(connection)}"
        )
        assert self.received() == []


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def bare(lab: Lab) -> Iterator[Rules]:
    """No SA yet."""
    left, right = linked_pair(lab)
    gateway = Gateway(right, "192.0.2.2", 2)
    peer = Peer(left, "192.0.2.1", 1, KEY)
    made = Rules(gateway, peer, udp_socket(right, gateway.inner4, 9000), Tap(right, "wan"))
    yield made
    for one in (gateway, peer, made.host, made.tap):
        one.close()


@pytest.fixture
def rules(bare: Rules) -> Rules:
    """One SA inbound."""
    bare.gateway.sa("in", SPI, bare.peer, KEY)
    bare.deliver(1, b"good")
    bare.expect(b"good")
    return bare


PLACES = {"sequence number": 6, "IV": 8, "ciphertext": 20, "ICV": -1}


@pytest.mark.parametrize("at", PLACES.values(), ids=PLACES.keys())
def test_the_replay_window_moves_only_after_the_icv_verified(rules: Rules, at: int) -> None:
    rules.forge(100_000, at)
    rules.expect_drops(integrity=1)
    # Had the window moved, 2 would be left of it and 100000 seen.
    rules.deliver(2, b"two")
    rules.expect(b"two")
    rules.deliver(100_000, b"the number is still free")
    rules.expect(b"the number is still free")
    assert rules.gateway.statistics("in", SPI)["sequence"] == 100_000


def test_the_peers_address_moves_only_after_the_icv_verified(rules: Rules) -> None:
    for at in PLACES.values():
        rules.forge(1000, at)
    rules.expect_drops(integrity=4)
    assert rules.gateway.events("peer-moved", 0.1) == []
    with udp_socket(rules.peer.machine, rules.peer.outer, 6000) as moved:
        moved.sendto(rules.peer.seal(SPI, 1000, rules.inner(b"moved")), (rules.gateway.outer, PORT))
        rules.expect(b"moved")
    assert rules.gateway.events("peer-moved") == [("peer-moved", CONNECTION, SPI, b"192.0.2.1 6000")]


def test_every_per_sa_counter_moves_only_after_the_icv_verified(rules: Rules) -> None:
    """But the one that counts just that."""
    before = rules.gateway.statistics("in", SPI)
    for at in PLACES.values():
        rules.forge(1000, at)
    rules.expect_drops(integrity=4)
    assert rules.gateway.statistics("in", SPI) == before | {"integrity_failures": 4}
    assert {event[0] for event in rules.gateway.plane.events()} == {
        "integrity-burst"
    }  # one a second, however slow we are


def test_a_sequence_number_is_used_once(lab: Lab) -> None:
    """By two workers with a queue each, while the socket refuses, the grant ends and goes on, and the policy changes."""
    left, right = linked_pair(lab)
    gateway, peer = Gateway(left, "192.0.2.1", 1, workers=2), Peer(right, "192.0.2.2", 2, KEY)
    peer.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    hosts = [udp_socket(left, gateway.inner4, 9000 + number) for number in range(8)]
    gateway.sa("out", SPI, peer, KEY)
    plane = gateway.plane
    seen: Counter[int] = Counter()
    sent = 0

    def burst() -> None:
        nonlocal sent
        for host in hosts:
            host.sendmsg(
                [bytes(40 * 50)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 50))], 0, (peer.inner4, 9000)
            )
            sent += 40

    def settled() -> bool:
        return bool(gateway.statistics("out", SPI)["packets"] + sum(gateway.drops().values()) >= sent)

    for grant in (100, 100, 900, 2**32 - 1):
        plane.grant(CONNECTION, SPI, grant)
        for spis in ([SPI], [], [SPI]):
            plane.replace_policies(CONNECTION, spis)
            burst()
        wait_until(settled, 3, f"{sent} packets came to an end: {gateway.drops()}")
    last = gateway.statistics("out", SPI)["sequence"]
    while (got := receive([peer.socket], time.monotonic() + (1.0 if len(seen) < last else 0.0))) is not None:
        spi, number, _ = peer.open(got[1])
        assert spi == SPI
        seen[number] += 1
    assert seen == Counter(range(1, last + 1))
    assert last > 900, "the last grant was used"
    for one in (gateway, peer, *hosts):
        one.close()


def test_a_gcm_iv_never_repeats_under_a_key(bare: Rules) -> None:
    bare.gateway.sa("out", SPI, bare.peer, KEY)
    bare.gateway.plane.replace_policies(CONNECTION, [SPI])
    ivs: list[bytes] = []
    for count in (1, 60, 3, 60, 60, 20):
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 60))]
        bare.host.sendmsg([bytes(60 * count)], control, 0, (bare.peer.inner4, 9000))
        ivs += [bare.peer.socket.recv(65535)[8:16] for _ in range(count)]
    assert len(set(ivs)) == len(ivs) == 204


def test_inner_packets_must_match_their_sas_selectors(rules: Rules) -> None:
    spoofed = rules.peer.seal(SPI, 2, rules.inner(b"from elsewhere", source="10.9.0.1"))
    to_outside = rules.peer.seal(SPI, 3, ipv4_udp("10.1.0.1", "10.3.0.1", b"for elsewhere"))
    for packet in (spoofed, to_outside):
        rules.peer.send(packet, rules.gateway.outer)
    rules.expect_drops(selector=2)
    row = rules.gateway.statistics("in", SPI)
    assert (row["packets"], row["selector_drops"]) == (3, 2)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_no_esp_without_integrity(bare: Rules, direction: str) -> None:
    for octets in (16, 24, 32):
        changes = {"encryption": "aes-cbc", "encryption_key": bytes(octets), "integrity": "none", "integrity_key": b""}
        with pytest.raises(ValueError, match="integrity"):
            bare.gateway.sa(direction, SPI, bare.peer, KEY, **changes)
    assert bare.gateway.plane.sa_statistics() == []
    for text in ("aes256", "aes128-noesn", "aes256-ecp256"):
        with pytest.raises(ProposalError):
            parse_esp_proposal(text)


def test_nothing_leaves_in_clear_because_an_sa_is_missing(bare: Rules) -> None:
    """Before the first SA, without a policy, after the SA was removed: not one frame, of no kind."""
    plane, gateway = bare.gateway.plane, bare.gateway
    sent = 0

    def talk() -> None:
        nonlocal sent
        for size in (0, 100, 1400):
            bare.host.sendto(bytes(size), (bare.peer.inner4, 9000))
            sent += 1
        bare.host.sendmsg([bytes(20 * 500)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 500))], 0,
                          (bare.peer.inner4, 9000))  # fmt: skip
        sent += 20
        bare.expect_drops(no_sa=sent)

    talk()
    gateway.sa("out", SPI, bare.peer, KEY)
    talk()
    plane.replace_policies(CONNECTION, [SPI])
    plane.replace_policies(CONNECTION, [])
    talk()
    plane.replace_policies(CONNECTION, [SPI])
    plane.remove_sa("out", CONNECTION, SPI)
    talk()
    gateway.sa("in", SPI, bare.peer, KEY)
    talk()
    frames = [kind for kind in map(kind_of, bare.tap.outgoing()) if kind not in ("arp", "nd")]
    assert frames == []


def test_every_drop_has_a_named_reason_and_a_counter(rules: Rules) -> None:
    """What is sent ends delivered, punted or counted once, whatever it is; every reason is named everywhere."""
    rng = random.Random(4303)
    sent = delivered = 0
    rules.host.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
    for number in range(2, 500):
        good = rules.peer.seal(
            SPI, rng.choice([number, 1]), rules.inner(b"."), next_header=rng.choice([4, 4, 41, 59, 6])
        )
        nonsense = rng.choice([b"\xff", b"\0\0\0\0", b"\0\0\0\0IKE", b"\1", rng.randbytes(rng.randrange(1, 90))])
        rules.peer.send(rng.choice([good, good[: rng.randrange(1, len(good))], nonsense]), rules.gateway.outer)
        sent += 1
    punted = 0

    def ended() -> bool:
        nonlocal delivered, punted
        delivered += len(rules.received())
        punted += len(rules.gateway.plane.punted())
        dropped = sum(count for _, _, count in rules.gateway.plane.drops())
        assert delivered + punted + dropped <= sent
        return delivered + punted + dropped == sent

    wait_until(ended, 3, "every datagram came to an end")
    assert delivered > 20
    assert punted > 10
    assert {reason for _, reason, _ in rules.gateway.plane.drops()} < set(_native.DROP_REASONS)
    sources = "".join(path.read_text() for path in (Path(__file__).parents[2] / "native").glob("*.c"))
    elsewhere = [reason for reason in _native.DROP_REASONS if f"DROP_{reason.upper()}" not in sources]
    assert elsewhere == [QUEUE_FULL], "the kernel counts that one"


# ---- tables ----

OK, REPLAY, INTEGRITY = "delivered", "replay_drops", "integrity_failures"
Verdicts = list[tuple[int, str]]


def edges(window: int, left: str) -> Verdicts:
    """RFC 4303 3.4.3: both ends of the window, exactly. `left`: what becomes of a number left of it."""
    return [
        (10_000, OK), (10_000, REPLAY), (10_000 - window, left), (10_000 - window + 1, OK),
        (10_000 - window + 1, REPLAY), (10_001, OK), (10_001 - window, left), (10_001 - window + 1, OK),
        (10_001 + window, OK), (10_002, OK), (10_001, left), (10_002, REPLAY),
    ]  # fmt: skip


WINDOWS: dict[str, tuple[int, bool, Verdicts]] = {
    **{f"edges of {size}": (size, False, edges(size, REPLAY)) for size in (64, 128, 1024, 4096)},
    # RFC 4303 A2.1: with ESN such a number is taken for one of the next 2^32, and so fails the ICV.
    **{f"edges of {size} with ESN": (size, True, [(n + 2**30, v) for n, v in edges(size, INTEGRITY)]) for size in (64, 4096)},
    "zero is no number": (64, False, [(0, REPLAY), (1, OK), (0, REPLAY)]),
    "the last number without ESN": (64, False, [(TWO32 - 1, OK), (TWO32 - 1, REPLAY), (TWO32 - 64, OK), (1, REPLAY)]),
    "the first far away": (64, False, [(3_000_000_000, OK), (3_000_000_000 - 63, OK), (5, REPLAY)]),
    # RFC 4303 A2.1
    "ESN wraps": (64, True, [(2**31, OK), (TWO32 - 1, OK), (TWO32, OK), (TWO32 + 1, OK), (TWO32, REPLAY)]),
    "ESN, late ones from before the wrap": (
        64, True,
        [(2**31, OK), (TWO32 - 5, OK), (TWO32 + 10, OK), (TWO32 - 1, OK), (TWO32 - 1, REPLAY), (TWO32 - 5, REPLAY),
         (TWO32 - 53, OK), (TWO32 - 54, INTEGRITY), (TWO32 + 11, OK)],
    ),
    "ESN, the window begins with the subspace": (
        64, True, [(2**31, OK), (TWO32 + 63, OK), (TWO32, OK), (TWO32 - 1, INTEGRITY), (TWO32 + 64, OK)],
    ),
    # RFC 4303 A3: what no receiver can infer fails the ICV, moves nothing, and the stream goes on.
    "resynchronisation: a gap just short of 2^32": (
        64, True, [(5000, OK), (5000 + TWO32 - 64, OK), (5000 + TWO32 - 63, OK)],
    ),
    "resynchronisation: a gap of 2^32 is a replay": (
        64, True, [(5000, OK), (5000 + TWO32, REPLAY), (5001, OK), (5000 + TWO32 - 1, INTEGRITY), (5002, OK)],
    ),
    "resynchronisation: after a gap of 2^32 and more": (
        64, True, [(5000, OK), (5001 + TWO32, INTEGRITY), (9000 + 3 * TWO32, INTEGRITY), (5001, OK), (5000 + TWO32 - 64, OK)],
    ),
    "ESN through three subspaces": (
        128, True, [(n * 2**31 + 1, OK) for n in range(1, 8)] + [(7 * 2**31 + 1, REPLAY), (7 * 2**31 - 126, OK)],
    ),
    "no window, numbers still inferred": (0, True, [(2**31, OK), (TWO32 - 1, OK), (TWO32 - 1, OK), (TWO32 + 5, OK), (TWO32 - 1, OK)]),
}  # fmt: skip


@pytest.mark.parametrize(("window", "esn", "numbers"), WINDOWS.values(), ids=WINDOWS.keys())
def test_window_edges_esn_wrap_and_resynchronisation(bare: Rules, window: int, esn: bool, numbers: Verdicts) -> None:
    bare.gateway.sa("in", SPI, bare.peer, KEY, replay_window=window, esn=esn)
    counted: Counter[str] = Counter()
    for index, (number, verdict) in enumerate(numbers):
        bare.deliver(number, b"%d" % index, esn=esn)
        counted[verdict] += 1
        if verdict == OK:
            bare.expect(b"%d" % index)
        wait_until(lambda: verdicts(bare).total() > index, 3, f"{number} came to an end", interval=0.001)  # noqa: B023
        assert verdicts(bare) == counted, f"{index}: {number}"


def verdicts(rules: Rules) -> Counter[str]:
    row = rules.gateway.statistics("in", SPI)
    return +Counter({OK: row["packets"], REPLAY: row[REPLAY], INTEGRITY: row[INTEGRITY]})
