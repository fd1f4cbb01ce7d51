"""pcapng blocks, read back by scapy."""

from __future__ import annotations

import struct
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.utils import RawPcapNgReader

from gateway.observe import pcapng


def test_another_reader_gets_packets_times_and_interfaces(tmp_path: Path) -> None:
    file = tmp_path / "x.pcapng"
    packets = [bytes(IP(dst="192.0.2.1") / UDP() / bytes(length)) for length in (0, 1, 2, 3, 1400)]
    at = 1_700_000_000_123_456_789
    file.write_bytes(
        pcapng.section_header("gatewayd", "a comment")
        + pcapng.interface("wan")
        + b"".join(pcapng.packet(0, at + index, pcapng.OUTBOUND, data) for index, data in enumerate(packets))
        + pcapng.interface("lan")
        + pcapng.packet(1, at, pcapng.INBOUND, packets[0])
        + pcapng.statistics(0, at, 7, 1)
    )
    read = list(RawPcapNgReader(str(file)))
    assert [data for data, _ in read] == [*packets, packets[0]]
    assert [bytes(one.ifname) for _, one in read] == [b"wan"] * 5 + [b"lan"]
    assert {one.linktype for _, one in read} == {101}
    first = read[1][1]
    assert (first.tshigh << 32 | first.tslow) == at + 1
    assert first.tsresol == 10**9


def test_every_block_has_its_length_at_both_ends_and_is_aligned() -> None:
    for block in (
        pcapng.section_header("g", ""),
        pcapng.interface("eth0"),
        pcapng.packet(0, 1, pcapng.INBOUND, b"abc"),
        pcapng.statistics(0, 1, 2, 3),
    ):
        (length,) = struct.unpack_from("=I", block, 4)
        assert length == len(block) == struct.unpack("=I", block[-4:])[0]
        assert length % 4 == 0
