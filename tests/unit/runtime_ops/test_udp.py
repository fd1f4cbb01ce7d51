"""The IKE sockets: what the network says about them is no more than a hint (RFC 7296 2.4, 2.21)."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from gateway.contract import Endpoint, Transmit
from gateway.runtime.udp import UdpSockets

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="sets the mark of a socket")
ICMP_ERRORS = 11
"""IP_RECVERR of linux/in.h: with it ICMP errors are told to an unconnected socket too."""


async def heard(count: int, told: list[bytes]) -> None:
    for _ in range(200):
        if len(told) >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(told)} of {count} datagrams")


def test_icmp_errors_are_survived_and_end_nothing() -> None:
    """TAHI 1.1.3: a port nobody listens on answers by ICMP; the socket goes on sending and hearing."""

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        # What the socket below lives with
        control.setsockopt(socket.IPPROTO_IP, ICMP_ERRORS, 1)
        control.settimeout(5)
        control.sendto(b"to nobody", ("127.0.0.1", 14518))
        with pytest.raises(ConnectionRefusedError):
            control.recv(100)

    async def play() -> None:
        told: list[bytes] = []
        sockets = UdpSockets(0, 1, lambda data, local, remote: told.append(data))
        here, nobody = Endpoint("127.0.0.1", 14517), Endpoint("127.0.0.1", 14518)
        sockets._plain[here] = sockets._open_plain(here)
        try:
            sockets._plain[here].setsockopt(socket.IPPROTO_IP, ICMP_ERRORS, 1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                for number in range(20):
                    sockets.send(Transmit(b"to nobody", here, nobody))
                    await asyncio.sleep(0)
                    peer.sendto(b"%d" % number, here)
                    await heard(number + 1, told)
            assert told == [b"%d" % number for number in range(20)]
        finally:
            sockets.close()

    asyncio.run(play())
