"""One path of the heartbeat: a pair of addresses, what was heard on it, and whether it carries both ways.

Each path has a sequence, a replay window, an echo and a round trip of its own, so that a path that is cut, slow or
lossy is seen as that while the others keep the peer alive.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.contract import Endpoint
from gateway.ha.message import Echo, Message
from gateway.ha.sealed import Window

_U32_MAX = 0xFFFFFFFF
_NEVER = float("-inf")


class Path(NamedTuple):
    """Where from and where to."""

    local: Endpoint
    remote: Endpoint


class PathStatus(NamedTuple):
    """What an operator sees of one path. `loss` is that of the last 64 datagrams of the peer, 0 to 1."""

    local: str
    remote: str
    up: bool
    heard_at: float | None
    round_trip: float | None
    loss: float


class Way:
    """The state of one path, for the boot of the peer that is followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        """The peer is another process now."""
        self.window = Window()
        self.heard_at = self.proven_at = _NEVER
        self.round_trip: float | None = None
        self._proven = -1  # highest of our sequence numbers the peer echoed
        self._newest: Message | None = None
        self.newest_at = 0.0

    def hear(self, message: Message, our_boot: bytes, at: float) -> None:
        """An authentic datagram whose number is new, and when it arrived."""
        self.heard_at = max(self.heard_at, at)
        if self._newest is None or message.sequence >= self._newest.sequence:
            self._newest, self.newest_at = message, at
        echo = message.echo
        if echo.boot == our_boot and echo.sequence > self._proven:
            self._proven, self.proven_at = echo.sequence, at
            # The echo carries our own clock back, and how long the peer held it
            self.round_trip = max(0, microseconds(at) - echo.sent_us - echo.held_us) / 1e6

    def echo(self) -> Echo:
        """What to give back on this path; it arrived at `newest_at`."""
        return Echo() if self._newest is None else echo_of(self._newest)

    def dead_at(self, interval: float, dead_time: float) -> float:
        """An echo may lag one interval behind, so silence is noticed first where both stop."""
        return min(self.heard_at, self.proven_at + interval) + dead_time

    def status(self, now: float, interval: float, dead_time: float) -> PathStatus:
        return PathStatus(
            str(self.path.local),
            str(self.path.remote),
            now < self.dead_at(interval, dead_time),
            self.heard_at if self._newest is not None else None,
            self.round_trip,
            self.window.loss,
        )


def echo_of(message: Message, held: float = 0.0) -> Echo:
    """The echo of a datagram."""
    return Echo(message.boot, message.sequence, message.sent_us, min(microseconds(held), _U32_MAX), message.challenge)


def microseconds(seconds: float) -> int:
    return max(0, int(seconds * 1e6))
