"""What the heartbeat wants sent: the program of native/probe.c, one for each path.

    core -- Arm --> beats: seal `body` anew and send it, again and again; open what arrives, and echo it
    core <-- receive(data, at) -- every datagram, and when it arrived

So the rhythm, the echo and the time of arrival are the business of a thread without an interpreter, and a busy loop is
no dead gateway. What a heartbeat says, whether one is a replay, and who is dead stay the core's. `reference.py` says the
same as the thread does in Python.

The beats hold for so long only, and the core arms them again well before: a gateway that nobody leads any more falls
silent, and is taken for dead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.ha.paths import Path

HOLD = 1.0
"""Seconds for which beats hold. Longer than a loop is ever busy with what it is here for (a reload of a thousand connections
is some tenths of a second), and no longer than the lease of a witness node lasts unless it is told otherwise
(config/derive.py): a gateway that hangs for good is silent when its lease is over, and the other takes it."""
REFRESH = HOLD / 4
"""Seconds after which they are armed again, also when nothing is new."""


@dataclass(frozen=True, slots=True)
class Arm:
    """The program of one path from now on.

    `prefix` are the 28 octets before the sequence, `seal` is key and salt (`sealed.py`). Of `body` the sender writes
    the clock, the hold time and the echo (`message.py`): that of the newest datagram of `peer`, opened with one of
    `opens`; the one that is in `body` arrived at `echoed_at`. `interval`: the shortest and the longest time between two,
    each time chosen anew. `hold`: seconds after which nothing is sent, unless it is armed again. `at_once`: the first goes now.
    """

    number: int
    path: Path
    prefix: bytes
    body: bytes
    seal: bytes = field(repr=False)
    interval: tuple[float, float]
    hold: float
    peer: bytes | None
    opens: tuple[bytes, ...] = field(repr=False)
    echoed_at: float
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class Once:
    """Another one, now; but for the clock it is sent as it is. Its path is armed."""

    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is sent on this path any more; its numbers go on when it is armed again."""

    number: int


Beat = Arm | Once | Rest
