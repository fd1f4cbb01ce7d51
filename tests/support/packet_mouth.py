"""A TUN's other side, packet by packet: whole super-packets with their virtio headers go in and come out as they are.

A packet socket on the TUN with PACKET_VNET_HDR writes what a host with offloads would, and reads what the data plane
wrote before the host's own stack touches it. `held` keeps pinned workers from running while a train is queued, so that
it reaches them as one burst.

    with held(cpu):
        for parcel in train: mouth.write(parcel)
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from support.dataplane_pair import inside
from support.inner_packets import VNET, Parcel, Vnet
from support.netns import Namespace

_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 33, 32
_ETH_P_ALL = 3
BUFFER = 1 << 26


class Mouth:
    """The hosts behind one TUN device."""

    def __init__(self, machine: Namespace, device: str) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # of no link until it is bound to one
            made.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
            made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
            made.bind((device, _ETH_P_ALL))
            return made

        self.socket = inside(machine, make)

    def write(self, parcel: Parcel) -> None:
        """Into the TUN."""
        self.socket.send(parcel.octets())

    def read(self, seconds: float) -> Parcel | None:
        """What the data plane wrote next, None when nothing comes."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return None
        data = self.socket.recv(1 << 17)
        return Parcel(Vnet(*VNET.unpack_from(data)), data[VNET.size :])

    def close(self) -> None:
        self.socket.close()


@contextmanager
def held(cpu: int | None) -> Iterator[None]:
    """Nothing else runs on this CPU meanwhile; None: no change. Without the right to do so, bursts are as they come."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, before)


def receive(sockets: Sequence[socket.socket], deadline: float) -> tuple[socket.socket, bytes, int] | None:
    """The next datagram of any of these sockets with IP_RECVTOS, and its TOS; None at the deadline."""
    ready, _, _ = select.select(sockets, [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        return None
    data, control, _, _ = ready[0].recvmsg(65535, 64)
    tos = next((value[0] for level, kind, value in control if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)), 0)
    return ready[0], data, tos
