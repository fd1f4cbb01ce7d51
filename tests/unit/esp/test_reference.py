"""The reference data plane: two of them back to back, and every reason for which one drops."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.esp_material import (
    ALL_SUITES,
    HERE,
    THERE,
    SeededRandom,
    keys_for,
    sa_parameters,
    selector,
    suite_name,
    udp4,
    udp6,
)

from gateway.contract import Endpoint
from gateway.esp.dataplane import DataPlane, Direction, Encryption, Limits, Suite
from gateway.esp.packet import Drop, seal
from gateway.esp.reference import Event, ReferenceDataPlane

GCM = Suite(Encryption.AES_GCM_16, 16)
ESN = Suite(Encryption.AES_GCM_16, 16, esn=True)
SPI = 0x1000
OUT, IN = Direction.OUTBOUND, Direction.INBOUND
PACKET = udp4("10.0.0.1", "10.1.0.1")


def sender(suite: Suite = GCM, **changes: object) -> ReferenceDataPlane:
    plane = ReferenceDataPlane(SeededRandom())
    plane.add_connection(1, "site", 1400)
    plane.add_sa(replace(sa_parameters(OUT, SPI, suite), **changes))  # type: ignore[arg-type]
    plane.replace_policies(1, (SPI,))
    return plane


def receiver(suite: Suite = GCM, **changes: object) -> ReferenceDataPlane:
    plane = ReferenceDataPlane(SeededRandom())
    plane.add_connection(1, "site", 1400)
    mirrored = (selector("10.1.0.0/16", "10.0.0.0/16"), selector("fd01::/64", "fd00::/64"))
    sa = sa_parameters(IN, SPI, suite, selectors=mirrored, local=THERE, remote=HERE)
    plane.add_sa(replace(sa, **changes))  # type: ignore[arg-type]
    return plane


def one(plane: ReferenceDataPlane, packet: bytes = PACKET, now: float = 1.0) -> bytes:
    ((datagram, _, _),) = plane.outbound(1, packet, now)
    return datagram


def sealed(payload: bytes, sequence: int = 1, next_header: int = 4) -> bytes:
    return seal(keys_for(GCM), SPI, sequence, payload, next_header, SeededRandom())


def drops(plane: ReferenceDataPlane) -> dict[tuple[int, str], int]:
    return plane.drop_counters()


def test_it_is_a_data_plane() -> None:
    plane: DataPlane = ReferenceDataPlane(SeededRandom())
    assert plane.sa_counters() == {}


def test_every_reason_has_the_label_of_the_native_plane() -> None:
    header = (Path(__file__).parents[3] / "native" / "drop_reasons.h").read_text()
    labels = set(re.findall(r'_\(\w+, "(\w+)"', header))
    assert {reason.value for reason in Drop} <= labels


@pytest.mark.parametrize("suite", ALL_SUITES, ids=suite_name)
def test_packets_cross_with_counters_on_both_sides(suite: Suite) -> None:
    a, b = sender(suite), receiver(suite)
    for number, packet in enumerate((PACKET, udp6("fd00::1", "fd01::1", bytes(500)), PACKET), start=1):
        ((datagram, local, remote),) = a.outbound(1, packet, float(number))
        assert (local, remote) == (HERE, THERE)
        assert b.inbound(datagram, THERE, HERE, float(number)) == [(1, packet)]
    total = 2 * len(PACKET) + 548
    for plane, direction in ((a, OUT), (b, IN)):
        counters = plane.sa_counters()[direction, 1, SPI]
        assert (counters.packets, counters.octets, counters.sequence, counters.last_used) == (3, total, 3, 3.0)
        assert drops(plane) == {}
        assert plane.drain_events() == []


def test_raw_esp_goes_between_ports_of_zero() -> None:
    a, b = sender(encapsulate=False), receiver(encapsulate=False)
    ((datagram, local, remote),) = a.outbound(1, PACKET, 1.0)
    assert (local, remote) == (Endpoint(HERE.host, 0), Endpoint(THERE.host, 0))
    assert b.inbound(datagram, remote, local, 1.0) == [(1, PACKET)]
    assert b.drain_events() == []


def test_a_marker_is_ike_and_a_keepalive_is_counted() -> None:
    plane = receiver()
    assert plane.inbound(bytes(4) + b"ike", THERE, HERE, 1.0) == []
    assert plane.drain_punted() == [(b"ike", THERE, HERE)]
    assert plane.drain_punted() == []
    assert plane.inbound(b"\xff", THERE, HERE, 1.0) == []
    assert drops(plane) == {(0, "keepalive"): 1}


# ---- outbound drops ----


def test_no_sa_drops_and_asks_once_a_second() -> None:
    plane = sender()
    stranger = udp4("10.0.0.1", "10.9.0.1")
    for now in (1.0, 1.9, 2.1):
        assert plane.outbound(1, stranger, now) == []
    assert drops(plane) == {(1, "no_sa"): 3}
    assert plane.drain_events() == [Event("acquire", 1, 0, stranger)] * 2


def test_an_sa_out_of_the_policies_carries_nothing() -> None:
    plane = sender()
    plane.replace_policies(1, ())
    assert plane.outbound(1, PACKET, 1.0) == []
    assert drops(plane) == {(1, "no_sa"): 1}


def test_the_first_policy_that_matches_carries() -> None:
    plane = sender()
    plane.add_sa(sa_parameters(OUT, SPI + 1, GCM, selectors=(selector("10.0.0.1/32", "10.1.0.1/32"),)))
    plane.replace_policies(1, (SPI + 1, SPI))
    assert one(plane)[:4] == (SPI + 1).to_bytes(4, "big")
    assert one(plane, udp4("10.0.0.2", "10.1.0.1"))[:4] == SPI.to_bytes(4, "big")
    plane.remove_sa(OUT, 1, SPI + 1)
    assert one(plane)[:4] == SPI.to_bytes(4, "big")


def test_a_packet_beyond_the_mtu_is_too_big() -> None:
    plane = sender()
    assert plane.outbound(1, udp4("10.0.0.1", "10.1.0.1", bytes(1372)), 1.0) != []
    assert plane.outbound(1, udp4("10.0.0.1", "10.1.0.1", bytes(1373)), 1.0) == []
    plane.update_connection(1, 1000, 0, 0)
    assert plane.outbound(1, udp6("fd00::1", "fd01::1", bytes(1280 - 48)), 1.0) != []
    assert plane.outbound(1, udp6("fd00::1", "fd01::1", bytes(1281 - 48)), 1.0) == []
    assert drops(plane) == {(1, "too_big"): 2}


def test_what_is_no_ip_packet_is_malformed() -> None:
    plane = sender()
    assert plane.outbound(1, b"\x45\x00\x00", 1.0) == []
    assert drops(plane) == {(1, "inner_malformed"): 1}


def test_a_grant_ends_the_sequence_numbers() -> None:
    plane = sender()
    plane.grant(1, SPI, 2)
    sent = [plane.outbound(1, PACKET, 1.0) for _ in range(4)]
    assert [len(datagrams) for datagrams in sent] == [1, 1, 0, 0]
    assert drops(plane) == {(1, "sequence_exhausted"): 2}
    plane.grant(1, SPI, 3)
    assert one(plane)[4:8] == (3).to_bytes(4, "big")


def test_the_counter_never_passes_32_bits_without_esn() -> None:
    plane = sender()
    plane.grant(1, SPI, 2**40)
    plane._sas[OUT, 1, SPI].sequence = 2**32 - 2
    assert one(plane)[4:8] == b"\xff\xff\xff\xff"
    assert plane.outbound(1, PACKET, 1.0) == []
    assert drops(plane) == {(1, "sequence_exhausted"): 1}


@pytest.mark.parametrize("advanced", [False, True], ids=["resumed", "advanced"])
def test_the_numbers_near_their_end_expire_whoever_used_them(advanced: bool) -> None:
    used = (2**32 - 1) // 10 * 8 - 2
    plane = sender(sequence=0 if advanced else used)
    if advanced:
        plane.advance(1, SPI, used)
    one(plane)
    assert plane.drain_events() == []
    one(plane)
    one(plane)
    assert plane.drain_events() == [Event("expire-soft", 1, SPI, b"out")]
    plane.advance(1, SPI, 2**32)
    assert [plane.outbound(1, PACKET, 1.0) for _ in range(2)] == [[], []]
    assert plane.drain_events() == [Event("expire-hard", 1, SPI, b"out")]


def test_the_window_near_the_end_of_the_numbers_expires() -> None:
    plane = receiver(sequence=(2**32 - 1) // 10 * 8 - 2)
    for sequence, told in (((2**32 - 1) // 10 * 8 - 1, []), (2**32 - 1, ["expire-soft"])):
        assert plane.inbound(sealed(PACKET, sequence), THERE, HERE, 1.0)
        assert [event.kind for event in plane.drain_events()] == told


# ---- limits ----


@pytest.mark.parametrize("direction", [OUT, IN])
def test_limits_expire_softly_once_and_then_stop_the_sa(direction: Direction) -> None:
    limits = Limits(soft_packets=2, hard_packets=4)
    a = sender(limits=limits if direction is OUT else Limits())
    b = receiver(limits=limits if direction is IN else Limits())
    limited = a if direction is OUT else b
    delivered = [
        b.inbound(datagram, THERE, HERE, 1.0) for _ in range(6) for datagram, _, _ in a.outbound(1, PACKET, 1.0)
    ]
    assert sum(len(packets) for packets in delivered) == 4
    assert limited.drain_events() == [
        Event("expire-soft", 1, SPI, direction.value.encode()),
        Event("expire-hard", 1, SPI, direction.value.encode()),
    ]
    assert drops(limited) == {(1, "hard_limit"): 2}


def test_octet_limits_count_inner_octets() -> None:
    size = len(PACKET)
    plane = sender(limits=Limits(soft_octets=size + 1, hard_octets=3 * size - 1))
    assert one(plane)
    assert plane.drain_events() == []
    assert one(plane)
    assert [event.kind for event in plane.drain_events()] == ["expire-soft"]
    assert plane.outbound(1, PACKET, 1.0) == []
    assert [event.kind for event in plane.drain_events()] == ["expire-hard"]
    assert plane.sa_counters()[OUT, 1, SPI].octets == 2 * size


# ---- inbound drops ----


def test_an_unknown_spi_is_told_once_a_second() -> None:
    plane = receiver()
    for now in (1.0, 1.5, 2.5):
        assert plane.inbound(b"\x00\x00\x20\x00" + bytes(40), THERE, HERE, now) == []
    assert drops(plane) == {(0, "unknown_spi"): 3}
    assert plane.drain_events() == [Event("unknown-spi", 0, 0x2000, b"192.0.2.1 4500")] * 2


def test_short_datagrams_are_too_short() -> None:
    plane = receiver()
    assert plane.inbound(b"\x01\x02\x03", THERE, HERE, 1.0) == []
    assert plane.inbound(sealed(PACKET)[:20], THERE, HERE, 1.0) == []
    assert drops(plane) == {(0, "too_short"): 1, (1, "too_short"): 1}


def test_a_replay_is_counted_and_delivered_once() -> None:
    plane = receiver()
    datagram = sealed(PACKET)
    assert len(plane.inbound(datagram, THERE, HERE, 1.0)) == 1
    assert plane.inbound(datagram, THERE, HERE, 1.0) == []
    assert drops(plane) == {(1, "replay"): 1}
    assert plane.sa_counters()[IN, 1, SPI].replay_drops == 1


def test_a_forgery_moves_neither_window_nor_peer() -> None:
    plane = receiver()
    forged = bytearray(sealed(PACKET, sequence=5000))
    forged[-1] ^= 1
    attacker = Endpoint("203.0.113.9", 9)
    for now in (1.0, 1.1, 2.0):
        assert plane.inbound(bytes(forged), THERE, attacker, now) == []
    counters = plane.sa_counters()[IN, 1, SPI]
    assert (counters.sequence, counters.integrity_failures, counters.packets, counters.last_used) == (0, 3, 0, 0.0)
    assert plane.drain_events() == [Event("integrity-burst", 1, SPI, b"")] * 2
    assert drops(plane) == {(1, "integrity"): 3}
    assert len(plane.inbound(sealed(PACKET, sequence=1), THERE, HERE, 3.0)) == 1
    assert plane.drain_events() == []


def test_an_authentic_packet_from_elsewhere_moves_the_peer_once() -> None:
    plane = receiver()
    moved = Endpoint("192.0.2.1", 61000)
    plane.inbound(sealed(PACKET, 2), THERE, moved, 1.0)
    plane.inbound(sealed(PACKET, 3), THERE, moved, 1.0)
    plane.inbound(sealed(PACKET, 1), THERE, HERE, 1.0)  # late, from the old place: does not move it back
    assert plane.drain_events() == [Event("peer-moved", 1, SPI, b"192.0.2.1 61000")]


def test_a_packet_without_udp_does_not_move_a_peer_reached_through_udp() -> None:
    plane = receiver()
    assert len(plane.inbound(sealed(PACKET, 1), THERE, Endpoint("192.0.2.77", 0), 1.0)) == 1
    assert plane.drain_events() == []


@pytest.mark.parametrize(
    ("payload", "next_header", "reason"),
    [
        (b"", 59, "dummy"),
        (b"anything", 59, "dummy"),
        (PACKET, 17, "bad_trailer"),
        (PACKET, 41, "inner_malformed"),
        (PACKET[:-1], 4, "inner_malformed"),
        (b"", 4, "inner_malformed"),
        (udp4("10.9.0.1", "10.1.0.1"), 4, "selector"),
        (udp4("10.0.0.1", "10.9.0.1"), 4, "selector"),
    ],
)
def test_authentic_packets_that_are_not_delivered_are_named(payload: bytes, next_header: int, reason: str) -> None:
    plane = receiver()
    assert plane.inbound(sealed(payload, next_header=next_header), THERE, HERE, 1.0) == []
    assert drops(plane) == {(1, reason): 1}
    assert plane.sa_counters()[IN, 1, SPI].selector_drops == (reason == "selector")
    assert plane.inbound(sealed(payload, next_header=next_header), THERE, HERE, 1.0) == []
    assert drops(plane)[1, "replay"] == 1  # the window did move: the packet was authentic


def test_padding_behind_the_inner_packet_is_cut_off() -> None:
    plane = receiver()
    assert plane.inbound(sealed(PACKET + bytes(200)), THERE, HERE, 1.0) == [(1, PACKET)]


def test_esn_carries_past_32_bits() -> None:
    a, b = sender(ESN), receiver(ESN)
    a._sas[OUT, 1, SPI].sequence = 2**32 - 3
    b._sas[IN, 1, SPI].window.top = 2**32 - 3
    for _ in range(6):
        assert len(b.inbound(one(a), THERE, HERE, 1.0)) == 1
    assert b.sa_counters()[IN, 1, SPI].sequence == 2**32 + 3


# ---- the table of SAs ----


def test_what_native_refuses_is_refused() -> None:
    plane = receiver()
    good = sa_parameters(IN, SPI + 1, GCM)
    for bad, words in (
        (replace(good, connection=9), "unknown connection"),
        (replace(good, spi=255), "reserved"),
        (replace(good, spi=SPI), "exists"),
        (replace(good, selectors=()), "selector"),
        (replace(good, encryption_key=bytes(3)), "encryption key"),
    ):
        with pytest.raises(ValueError, match=words):
            plane.add_sa(bad)
    with pytest.raises(ValueError, match="unknown outbound SA"):
        plane.replace_policies(1, (SPI,))
    with pytest.raises(ValueError, match="unknown outbound SA"):
        plane.grant(1, SPI, 5)


def test_outbound_spis_are_qualified_by_connection() -> None:
    plane = sender()
    plane.add_connection(2, "other", 1400)
    plane.add_sa(sa_parameters(OUT, SPI, GCM, connection=2))
    assert set(plane.sa_counters()) == {(OUT, 1, SPI), (OUT, 2, SPI)}
    plane.remove_connection(1)
    assert set(plane.sa_counters()) == {(OUT, 2, SPI)}


def test_removing_is_idempotent_and_final() -> None:
    plane = receiver()
    datagram = sealed(PACKET)
    plane.remove_sa(IN, 1, SPI)
    plane.remove_sa(IN, 1, SPI)
    plane.remove_sa(OUT, 7, SPI)
    assert plane.inbound(datagram, THERE, HERE, 1.0) == []
    assert drops(plane) == {(0, "unknown_spi"): 1}


def test_both_ends_of_an_sa_can_be_moved() -> None:
    plane = sender()
    elsewhere, ours = Endpoint("203.0.113.5", 4501), Endpoint("203.0.113.9", 4500)
    plane.move_sa(1, SPI, elsewhere)
    ((_, before, remote),) = plane.outbound(1, PACKET, 1.0)
    assert remote == elsewhere
    plane.move_sa(1, SPI, elsewhere, ours)
    ((_, local, remote),) = plane.outbound(1, PACKET, 1.0)
    assert (local, remote) == (ours, elsewhere) != (before, remote)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["pass", "drop", "twice", "damage"])), max_size=60))
def test_no_packet_is_delivered_twice_or_altered(schedule: list[tuple[int, str]]) -> None:
    """A network that loses, delays, duplicates and damages."""
    a, b = sender(), receiver()
    waiting: list[bytes] = []
    delivered: list[bytes] = []
    for number, (place, fate) in enumerate(schedule):
        datagram = one(a, udp4("10.0.0.1", "10.1.0.1", number.to_bytes(4, "big")))
        if fate == "damage":
            datagram = datagram[:20] + bytes([datagram[20] ^ 1]) + datagram[21:]
        waiting[place:place] = [] if fate == "drop" else [datagram] * (2 if fate == "twice" else 1)
    for datagram in waiting:
        delivered += [packet for _, packet in b.inbound(datagram, THERE, HERE, 1.0)]
    assert len(delivered) == len(set(delivered))
    good = {number for number, (_, fate) in enumerate(schedule) if fate in ("pass", "twice")}
    assert {int.from_bytes(packet[28:], "big") for packet in delivered} == good
