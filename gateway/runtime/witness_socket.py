"""The witness's UDP socket: on one address or on all; an answer leaves from the address that was asked.

A host with several addresses would choose the source by its routes, and firewalls on the way know only the other one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

from gateway.contract import Endpoint, Transmit
from gateway.ha.sealed import LONGEST
from gateway.runtime.faults import explained, listening

TURN = 64  # datagrams read before something else may have its turn
_IP_PKTINFO = 8  # ip(7): struct in_pktinfo { int ifindex; in_addr spec_dst; in_addr addr; }; socket has no name for it
_INDEX, _IPV4, _IPV6 = 4, 4, 16  # octets
_ANCILLARY = socket.CMSG_SPACE(_IPV6 + _INDEX)

Received = Callable[[bytes, Endpoint, Endpoint], None]
"""Data, local, remote."""


class WitnessSocket:
    """One socket, of either family; "::" is both."""

    def __init__(self, local: Endpoint, received: Received) -> None:
        self._local = local
        self._received = received
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Binds. `Unavailable`: the address is not ours or taken."""
        with explained(f"witness {self._local}", listening("witness")):
            self._socket = _bound(self._local)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable, self._socket)

    def send(self, datagram: Transmit) -> None:
        """OSError: it cannot be sent; who asked asks again."""
        if self._socket is not None:
            remote = (datagram.remote.host, datagram.remote.port)
            self._socket.sendmsg([datagram.data], _source(self._socket, datagram.local), 0, remote)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _readable(self, bound: socket.socket) -> None:
        for _ in range(TURN):
            if self._socket is None:
                return
            try:
                data, ancillary, _, remote = bound.recvmsg(LONGEST + 1, _ANCILLARY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error, which anybody can send
            host = next(filter(None, map(_destination, ancillary)), self._local.host)
            self._received(data, Endpoint(host, self._local.port), Endpoint(remote[0], remote[1]))


def _bound(local: Endpoint) -> socket.socket:
    ipv6 = ":" in local.host
    bound = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        bound.setblocking(False)
        if ipv6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        bound.bind((local.host, local.port))
    except OSError:
        bound.close()
        raise
    return bound


def _destination(item: tuple[int, int, bytes]) -> str | None:
    """Our own address, of a control message that says which (RFC 3542 6.2)."""
    level, kind, data = item
    if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
        return socket.inet_ntop(socket.AF_INET, data[_INDEX : _INDEX + _IPV4])
    if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
        return socket.inet_ntop(socket.AF_INET6, data[:_IPV6])
    return None


def _source(bound: socket.socket, local: Endpoint) -> list[Any]:
    """The control message that makes a datagram leave from this address."""
    address = ipaddress.ip_address(local.host).packed
    if bound.family == socket.AF_INET6:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, address + bytes(_INDEX))]
    return [(socket.IPPROTO_IP, _IP_PKTINFO, bytes(_INDEX) + address + bytes(_IPV4))]
