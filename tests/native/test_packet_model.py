"""The model that the data plane is held against is itself held against the kernel: its segmentation and its checksums."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest
from support import inner_packets as model
from support.dataplane_pair import open_tun
from support.inner_packets import Parcel
from support.netns import Lab
from support.packet_mouth import Mouth
from support.packet_trains import Trains, seeds

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

VNET_OCTETS = 10


@pytest.fixture
def plain_tun() -> Iterator[tuple[Mouth, int]]:
    """A TUN without any offload: the kernel segments and sums up in software what is written to it."""
    with Lab() as lab:
        machine = lab.namespace("soft")
        (fd,) = open_tun(machine, "soft0", 1)
        os.set_blocking(fd, False)
        machine.batch("link set soft0 addrgenmode none", "link set soft0 mtu 65535 up")
        mouth = Mouth(machine, "soft0")
        yield mouth, fd
        mouth.close()
        os.close(fd)


def segmented(fd: int) -> list[bytes]:
    """What is in the TUN's queue; nothing of it may need more work."""
    found = []
    while select.select([fd], [], [], 0)[0]:
        data = os.read(fd, 70_000)
        assert data[:2] == b"\0\0", "no offload was asked for"
        found.append(data[VNET_OCTETS:])
    return found


def canonical(packet: bytes) -> bytes:
    """In one's complement 0 and 0xffff are one number; the kernel writes 0 for TCP, we never do."""
    at = model.layout(packet)
    if at.protocol == model.TCP and not at.fragment and len(packet) >= at.transport + 18:
        field = at.transport + 16
        return model.put16(packet, field, int.from_bytes(packet[field : field + 2]) or 0xFFFF)
    return packet


@pytest.mark.parametrize("seed", seeds(3))
def test_the_model_segments_and_sums_like_the_kernel(plain_tun: tuple[Mouth, int], seed: int) -> None:
    mouth, fd = plain_tun
    trains = Trains(seed)
    supers = 0
    for parcel in (one for _ in range(4) for one in trains.outbound()):
        expected = model.split(parcel)
        if not parcel.vnet.flags & model.NEEDS_CSUM:  # nothing is left to the kernel to do
            continue
        supers += parcel.super_packet
        mouth.write(Parcel(parcel.vnet, parcel.packet[: model.whole_length(parcel.packet)]))
        found = [canonical(packet) for packet in segmented(fd)]
        assert found == expected, f"TRAIN_SEED={seed} {parcel.octets()[:80].hex()}"
    assert supers > 30
