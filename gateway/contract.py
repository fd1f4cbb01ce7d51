"""The contract every protocol core keeps, and the few values all of them exchange.

A core is deterministic: it reads no clock, no socket and no random source of its own. The shell (or
the simulator) feeds it and then drains `poll()`; after *any* of `receive`, `command`, `computed` or
`handle_deadline`, poll until it is exhausted and ask `next_deadline()` again.

    receive(data, ..., now)        bytes or messages in; never raises for a peer's fault
    command(command, now)          operator or configuration intent
    computed(ticket, result, now)  the answer to an earlier Compute or Fetch
    poll() -> Iterator[effect]     what must happen
    next_deadline() -> float|None  CLOCK_BOOTTIME seconds; one timer in the shell serves all
    handle_deadline(now)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Endpoint(NamedTuple):
    """A UDP end point: `host` is a textual IPv4 or IPv6 address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RandomSource(Protocol):
    """Cryptographic randomness, injected so that a simulation replays from its seed."""

    def octets(self, count: int) -> bytes:
        """`count` unpredictable octets."""

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high), for jitter."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """One UDP datagram to send."""

    data: bytes
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class Compute:
    """Public-key work for the shell's thread pool (inline in the simulator).

    `job` takes nothing, touches no core state and returns a value; the shell hands that value, or the
    exception it raised, back as `computed(ticket, result, now)`.
    """

    ticket: int
    job: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Fetch:
    """Something to fetch by HTTP: with a `body` by POST, else by GET.

    Answered like a Compute, by `computed(ticket, octets, now)` with the body of a good answer, or with None: too late, too
    large (`limit` octets), anything else. The shell bounds the time, and goes nowhere else than where the URL says.
    """

    ticket: int
    url: str
    body: bytes
    media: str
    limit: int
