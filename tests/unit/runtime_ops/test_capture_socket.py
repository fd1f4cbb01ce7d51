"""Which packets a capture sees, and how joined ones are taken apart. The kernel's part is in `tests/system`."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment

from gateway.runtime.capture_socket import Instruction, address_filter, split

PORTS = (500, 4500, 5500)
NET = 0x100000000 - 0x100000
US, PEER, OTHER = "198.51.100.2", "203.0.113.2", "203.0.113.3"
US6, PEER6, OTHER6 = "2001:db8::1", "2001:db8:0:1::2", "2001:db8:0:1::3"


def run_filter(program: Sequence[Instruction], packet: bytes) -> int:
    """Classic BPF, as far as these programs use it (Linux Documentation/networking/filter.rst)."""
    a = x = at = 0
    loads = {0x20: 4, 0x28: 2, 0x30: 1, 0x48: 2}
    while True:
        code, jt, jf, k = program[at]
        at += 1
        if code in loads:
            start = k - NET + (x if code == 0x48 else 0)
            field = packet[start : start + loads[code]]
            if len(field) < loads[code]:
                return 0
            a = int.from_bytes(field)
        elif code == 0xB1:
            x = (packet[k - NET] & 15) * 4
        elif code == 0x54:
            a &= k
        elif code == 0x05:
            at += k
        elif code == 0x15:
            at += jt if a == k else jf
        elif code == 0x45:
            at += jt if a & k else jf
        else:
            assert code == 0x06
            return k


@pytest.mark.parametrize(
    ("packet", "seen"),
    [
        (IP(src=US, dst=PEER) / UDP(sport=500, dport=500) / b"x", True),
        (IP(src=PEER, dst=US) / UDP(sport=61000, dport=4500) / b"x", True),
        (IP(src=US, dst=PEER) / UDP(sport=4500, dport=61000) / b"x", True),
        (IP(src=US, dst=PEER) / UDP(sport=7, dport=5500) / b"x", True),
        (IP(src=US, dst=PEER, proto=50) / b"espespesp", True),
        (IP(src=PEER, dst=US, proto=17, frag=10) / b"the rest", True),
        (IP(src=US, dst=PEER, options=[b"\x01\x01\x01\x00"]) / UDP(sport=500, dport=500) / b"x", True),
        (IP(src=US, dst=PEER) / UDP(sport=53, dport=5353) / b"x", False),
        (IP(src=US, dst=PEER) / TCP(sport=500, dport=4500) / b"x", False),
        (IP(src=US, dst=OTHER) / UDP(sport=500, dport=500) / b"x", False),
        (IP(src=US, dst=OTHER, proto=50) / b"espespesp", False),
        (IPv6(src=US6, dst=PEER6) / UDP(sport=500, dport=500) / b"x", False),
    ],
)
def test_an_ipv4_peers_ike_and_esp_and_nothing_else(packet: IP, seen: bool) -> None:
    assert bool(run_filter(address_filter(PEER, PORTS), bytes(packet))) is seen


@pytest.mark.parametrize(
    ("packet", "seen"),
    [
        (IPv6(src=US6, dst=PEER6) / UDP(sport=500, dport=500) / b"x", True),
        (IPv6(src=PEER6, dst=US6) / UDP(sport=9, dport=4500) / b"x", True),
        (IPv6(src=PEER6, dst=US6, nh=50) / b"espespesp", True),
        (IPv6(src=US6, dst=PEER6) / IPv6ExtHdrFragment(nh=17) / b"a fragment", True),
        (IPv6(src=OTHER6, dst=US6) / UDP(sport=500, dport=500) / b"x", False),
        (IPv6(src=US6, dst=OTHER6, nh=50) / b"espespesp", False),
        (IPv6(src="2001:db8:0:1::2:2", dst=US6, nh=50) / b"espespesp", False),
        (IPv6(src=US6, dst=PEER6) / UDP(sport=1, dport=2) / b"x", False),
        (IPv6(src=US6, dst=PEER6) / TCP(sport=500, dport=500) / b"x", False),
        (IP(src=US, dst=PEER) / UDP(sport=500, dport=500) / b"x", False),
    ],
)
def test_an_ipv6_peers_ike_and_esp_and_nothing_else(packet: IPv6, seen: bool) -> None:
    assert bool(run_filter(address_filter(PEER6, PORTS), bytes(packet))) is seen


def vnet(gso_type: int = 0, gso_size: int = 0) -> bytes:
    return struct.pack("=BBHHHH", 1, gso_type, 42, gso_size, 34, 6)


@pytest.mark.parametrize("network", [IP(src=US, dst=PEER, id=0xFFFF, flags="DF"), IPv6(src=US6, dst=PEER6)])
def test_a_joined_datagram_is_what_the_wire_carries(network: IP | IPv6) -> None:
    bodies = [bytes([number]) * 1000 for number in range(4)] + [b"last"]
    joined = bytes(network / UDP(sport=4500, dport=4500) / b"".join(bodies))
    found = [type(network)(one) for one in split(vnet(5, 1000) + bytes(14) + joined)]
    assert [bytes(one[UDP].payload) for one in found] == bodies
    for index, one in enumerate(found):
        again = one.copy()
        del again[UDP].chksum, again[UDP].len
        if isinstance(network, IP):
            del again.chksum, again.len
            assert one.id == (0xFFFF + index) & 0xFFFF
            assert one.flags.DF
        else:
            del again.plen
        assert bytes(type(network)(bytes(again))) == bytes(one)  # scapy computes the same lengths and checksums


@pytest.mark.parametrize(
    ("link", "below"), [(1, bytes(12) + b"\x08\x00"), (1, bytes(12) + b"\x81\x00\x00\x07\x08\x00"), (65534, b"")]
)
def test_the_links_header_is_left_out(link: int, below: bytes) -> None:
    packet = bytes(IP(src=US, dst=PEER) / UDP(sport=500, dport=500) / b"x")
    assert list(split(vnet() + below + packet, link)) == [packet]
