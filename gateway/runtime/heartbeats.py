"""The heartbeats' thread with its sockets: `effects.PairBeat` in production (native/probe.h, gateway/ha/beating.py).

A thread of its own, not that of the other probes: whatever a thousand of them do, the two gateways of a pair see each other.
It lives as long as the daemon once there is a pair: it counts what was sealed, and no number may come twice.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from gateway import _native
from gateway.contract import Endpoint
from gateway.ha.beating import Arm, Beat, Once, Rest
from gateway.ha.sealed import BOOT_OCTETS
from gateway.runtime.faults import explained, listening
from gateway.runtime.ha_link import bound

_NANOSECONDS = 1e9


class Heartbeats:
    """`received` takes a datagram and when it arrived, in seconds of CLOCK_BOOTTIME. Sockets are marked like everything of ours
    that must leave by the main table."""

    def __init__(self, received: Callable[[bytes, float], None]) -> None:
        self._received = received
        self._native: _native.Probes | None = None
        self._sockets: dict[Endpoint, socket.socket] = {}
        self._armed: dict[int, Endpoint] = {}
        """By number of the path: the socket by which it sends."""

    def open(self, local: Endpoint, mark: int | None) -> None:
        """Binds. OSError: the address is not ours or taken."""
        with explained(f"heartbeat {local}", listening("ha", "local_address")):
            made = bound(local, mark)
        try:
            self._thread().listen(made.fileno(), "heartbeat")
        except OSError:
            made.close()
            raise
        self._sockets[local] = made

    def close(self, local: Endpoint) -> None:
        """Nothing is sent by this socket any more."""
        for number in [number for number, by in self._armed.items() if by == local]:
            self._rest(number)
        one = self._sockets.pop(local, None)
        if one is not None:
            self._thread().unlisten(one.fileno())
            one.close()

    def perform(self, beat: Beat) -> None:
        """What a path that has no socket has to say is not said: a moment after a reload the core knows better."""
        match beat:
            case Arm(path=path) if path.local in self._sockets:
                self._arm(beat, self._sockets[path.local])
            case Once(number, body) if number in self._armed:
                self._thread().beat_once(number, body)
            case Arm(number) | Rest(number):
                self._rest(number)

    def drain(self) -> None:
        """Hears what arrived until now. Also called before anybody is declared dead."""
        if self._native is not None:
            for _, _, at, data in self._native.news():
                if data is not None:
                    self._received(data, at)

    @property
    def sent(self) -> int:
        """Datagrams, since the daemon started."""
        return sum(row[1] for row in self._native.statistics()[0]) if self._native is not None else 0

    async def stop(self) -> None:
        """Joins the thread; idempotent."""
        if self._native is None:
            return
        native, self._native = self._native, None
        asyncio.get_running_loop().remove_reader(native.event_fd())
        await asyncio.to_thread(native.stop)
        for one in self._sockets.values():
            one.close()
        self._sockets.clear()
        self._armed.clear()

    def _thread(self) -> _native.Probes:
        if self._native is None:
            self._native = _native.Probes()
            asyncio.get_running_loop().add_reader(self._native.event_fd(), self.drain)
        return self._native

    def _arm(self, arm: Arm, by: socket.socket) -> None:
        shortest, longest = arm.interval
        self._thread().beat(
            arm.number,
            by.fileno(),
            (arm.path.remote.host, arm.path.remote.port),
            arm.prefix,
            arm.body,
            arm.seal,
            arm.peer or bytes(BOOT_OCTETS),
            b"".join(arm.opens),
            int(arm.echoed_at * _NANOSECONDS),
            int(shortest * _NANOSECONDS),
            int(longest * _NANOSECONDS),
            int(arm.hold * _NANOSECONDS),
            arm.at_once,
        )
        self._armed[arm.number] = arm.path.local

    def _rest(self, number: int) -> None:
        if self._armed.pop(number, None) is not None:
            self._thread().beat_rest(number)
