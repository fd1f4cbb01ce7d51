"""When how many routes were in this machine's kernel: a line for every change, until killed.

    route_watch.py TABLE [INTERVAL]      prints: when (monotonic)  how many of 20.0.0.0/7 lead somewhere

It listens to rtnetlink and reads every few milliseconds, so it takes little of the cores that are measured, and what it
says is no more than that late. It needs only the standard library.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator

INTERVAL = 0.002
MEASURED = (20, 21)  # first octets of the routes that count
_IPV4_ROUTES = 7  # RTNLGRP_IPV4_ROUTE
_NEW, _DELETED, _UNICAST = 24, 25, 1
_RECEIVE_BUFFER_FORCED = 33
_HEADER, _ROUTE, _ATTRIBUTE, _U32 = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI"), struct.Struct("=HH"), "=I"
_DST, _PRIORITY, _TABLE, _NEXTHOP = 1, 6, 15, 30


def watch(table: int, interval: float) -> Iterator[tuple[float, int]]:
    """A prefix counts as long as it has a unicast route."""
    listening = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    listening.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCED, 64 << 20)
    listening.bind((0, 0))
    listening.setsockopt(270, 1, _IPV4_ROUTES)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
    held: dict[bytes, int] = {}
    yield time.monotonic(), 0
    while True:
        time.sleep(interval)
        before = len(held)
        with contextlib.suppress(BlockingIOError):
            while True:
                _take(listening.recv(1 << 16, socket.MSG_DONTWAIT), table, held)
        if len(held) != before:
            yield time.monotonic(), len(held)


def _take(datagram: bytes, table: int, held: dict[bytes, int]) -> None:
    offset = 0
    while offset < len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, offset)
        if kind in (_NEW, _DELETED):
            _route(kind, datagram[offset + _HEADER.size : offset + length], table, held)
        offset += (length + 3) & ~3


def _route(kind: int, body: bytes, wanted_table: int, held: dict[bytes, int]) -> None:
    _, _, _, _, table, _, _, what, _ = _ROUTE.unpack_from(body)
    found = dict(_attributes(body))
    destination = found.get(_DST, b"")
    if _TABLE in found:
        table = struct.unpack(_U32, found[_TABLE])[0]
    # A blackhole of ours stands behind a route; but the route of a tunnel that is down is shown as one too
    leads = what == _UNICAST or _NEXTHOP in found
    if table != wanted_table or not destination or destination[0] not in MEASURED or (kind == _NEW and not leads):
        return
    if kind == _NEW:
        held[destination] = 1
    elif struct.unpack(_U32, found.get(_PRIORITY, bytes(4)))[0] != 0xFFFFFFFF:
        held.pop(destination, None)


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    offset = _ROUTE.size
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        yield kind, body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


if __name__ == "__main__":
    for when, count in watch(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else INTERVAL):
        sys.stdout.write(f"{when:.6f} {count}\n")
        sys.stdout.flush()
