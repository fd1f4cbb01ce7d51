"""What selectors see of an inner packet, and what they let through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.esp_material import selector, udp4, udp6

from gateway.esp.dataplane import Direction
from gateway.esp.spd import parse_flow, selector_matches


def with_protocol(packet: bytes, protocol: int, transport: bytes) -> bytes:
    """An IPv4 packet of another protocol and content."""
    length = 20 + len(transport)
    return packet[:2] + length.to_bytes(2, "big") + packet[4:9] + bytes([protocol]) + packet[10:20] + transport


PLAIN = udp4("10.0.0.1", "10.1.0.1")


def test_an_ipv4_flow_is_read() -> None:
    flow = parse_flow(PLAIN + b"padding behind it")
    assert flow is not None
    assert (flow.source, flow.destination, flow.protocol) == (bytes([10, 0, 0, 1]), bytes([10, 1, 0, 1]), 17)
    assert (flow.ports, flow.length, flow.dont_fragment) == ((1000, 2000), len(PLAIN), True)


def test_an_ipv6_flow_is_read_behind_extension_headers() -> None:
    plain = udp6("fd00::1", "fd01::1")
    hop_by_hop = b"\x3c\x00" + bytes(6)
    options = b"\x11\x01" + bytes(14)
    packet = plain[:4] + (len(plain) - 40 + 24).to_bytes(2, "big") + b"\x00" + plain[7:40] + hop_by_hop + options
    flow = parse_flow(packet + plain[40:])
    assert flow is not None
    assert (flow.protocol, flow.ports, flow.length) == (17, (1000, 2000), len(plain) + 24)


def test_a_later_fragment_shows_no_ports() -> None:
    flow = parse_flow(PLAIN[:6] + b"\x00\x05" + PLAIN[8:])
    assert flow is not None
    assert flow.ports is None
    first = parse_flow(PLAIN[:6] + b"\x20\x00" + PLAIN[8:])
    assert first is not None
    assert first.ports == (1000, 2000)
    plain = udp6("fd00::1", "fd01::1")
    for offset, ports in ((0, (1000, 2000)), (8, None)):
        fragment = b"\x11\x00" + (offset | 1).to_bytes(2, "big") + bytes(4)
        packet = plain[:4] + (len(plain) - 32).to_bytes(2, "big") + b"\x2c" + plain[7:40] + fragment + plain[40:]
        flow = parse_flow(packet)
        assert flow is not None
        assert flow.ports == ports


@pytest.mark.parametrize(
    ("protocol", "transport", "ports"),
    [
        (6, b"\x00\x50\x01\xbb" + bytes(16), (80, 443)),
        (1, b"\x08\x00" + bytes(6), (0x0800, 0x0800)),
        (58, b"\x80\x01" + bytes(6), (0x8001, 0x8001)),
        (135, b"\x3b\x00\x05\x00", (0x0500, 0x0500)),
        (89, bytes(8), None),
        (6, b"\x00\x50\x01", None),
        (1, b"\x08", None),
    ],
)
def test_ports_are_what_rfc_4301_says(protocol: int, transport: bytes, ports: tuple[int, int] | None) -> None:
    flow = parse_flow(with_protocol(PLAIN, protocol, transport))
    assert flow is not None
    assert flow.ports == ports


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", PLAIN[:19], PLAIN[:-1], b"\x44" + PLAIN[1:], b"\x55" + PLAIN[1:], udp6("::1", "::2")[:-1], b"\x60"],
)
def test_half_packets_are_no_flow(packet: bytes) -> None:
    assert parse_flow(packet) is None


@given(st.binary(max_size=120))
def test_any_octets_are_a_flow_or_none(octets: bytes) -> None:
    for packet in (octets, b"\x45" + octets, b"\x60" + octets):
        flow = parse_flow(packet)
        assert flow is None or flow.length <= len(packet)


@pytest.mark.parametrize(
    ("local", "remote", "protocol", "remote_ports", "outbound", "inbound"),
    [
        ("10.0.0.0/16", "10.1.0.0/16", 0, (0, 65535), True, False),
        ("10.1.0.0/16", "10.0.0.0/16", 0, (0, 65535), False, True),
        ("10.0.0.1/32", "10.1.0.1/32", 17, (2000, 2000), True, False),
        ("10.0.0.0/16", "10.1.0.0/16", 6, (0, 65535), False, False),
        ("10.0.0.0/16", "10.1.0.0/16", 17, (2001, 65535), False, False),
        ("10.0.0.2/32", "10.1.0.0/16", 0, (0, 65535), False, False),
        ("10.0.0.0/16", "10.1.0.2/32", 0, (0, 65535), False, False),
        ("::/0", "::/0", 0, (0, 65535), False, False),
    ],
)
def test_selectors_match_by_direction(
    local: str, remote: str, protocol: int, remote_ports: tuple[int, int], outbound: bool, inbound: bool
) -> None:
    flow = parse_flow(PLAIN)
    assert flow is not None
    one = selector(local, remote, protocol, remote_ports)
    assert selector_matches(one, flow, Direction.OUTBOUND) is outbound
    assert selector_matches(one, flow, Direction.INBOUND) is inbound


def test_what_shows_no_ports_needs_a_selector_of_any() -> None:
    flow = parse_flow(PLAIN[:6] + b"\x00\x05" + PLAIN[8:])
    assert flow is not None
    assert selector_matches(selector("10.0.0.0/16", "10.1.0.0/16"), flow, Direction.OUTBOUND)
    narrow = selector("10.0.0.0/16", "10.1.0.0/16", remote_ports=(0, 65534))
    assert not selector_matches(narrow, flow, Direction.OUTBOUND)
