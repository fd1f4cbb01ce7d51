"""What a liveness core wants sent and listened for: the program of native/probe.c, and the verdict that comes of it.

    core -- Arm --> probe: sends `octets` again and again, compares what arrives
    core <-- receive(octets) -- what differs from `expected`         core <-- expired(generation) -- silence

So the core hears of news only, and 50 ms are the business of a thread without an interpreter. What is sent and what
counts as a sign of life are values, for the probe knows no protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

SILENT = (0.0, 0.0)
"""The interval of a program that sends nothing by itself."""


class Verdict(Enum):
    """What clients may conclude (RFC 5882 3.2)."""

    UNKNOWN = "unknown"  # never up, or somebody wanted it down: as if there were no session
    UP = "up"
    DOWN = "down"  # it was up, and failed


@dataclass(frozen=True, slots=True)
class Arm:
    """The program from now on; detection begins anew.

    `interval`: the shortest and the longest time between two packets, each time chosen anew. A packet that arrives is
    alive, and begins detection anew, if it has the bits of `alive` as `expected` has them. One that is not equal to
    `expected` in every bit and in length is told. `detection`: how long without a packet that is alive before
    `expired(generation)`; 0.0: for ever. `at_once`: the first packet goes now.
    """

    octets: bytes
    interval: tuple[float, float]
    expected: bytes
    alive: bytes
    detection: float
    generation: int
    at_once: bool = False

    def counts(self, data: bytes) -> bool:
        """Whether the probe takes this packet for a sign of life; the meaning of `alive`, as native/probe.c has it."""
        return (
            bool(self.expected)
            and len(data) >= len(self.expected)
            and all(
                (got ^ wanted) & mask == 0 for got, wanted, mask in zip(data, self.expected, self.alive, strict=False)
            )
        )


@dataclass(frozen=True, slots=True)
class Disarm:
    """Nothing is sent or listened for any more."""


@dataclass(frozen=True, slots=True)
class Send:
    """One packet now, beside the regular ones."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """The state or the verdict is another one; `reason` in words."""

    verdict: Verdict
    before: Verdict
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """Whether packets of the tunnel's whole MTU pass where small ones do; `largest` of those answered, in octets."""

    whole: bool
    full_size: int
    largest: int


Effect = Arm | Disarm | Send | Changed | Passed


@dataclass(frozen=True, slots=True)
class LivenessStatus:
    """One session, as status shows it. Times are seconds; `interval` between our packets, 0.0 when there are none."""

    state: str
    verdict: str
    remote_state: str
    diagnostic: str
    remote_diagnostic: str
    reason: str
    changed_at: float | None
    flaps: int
    interval: float
    detection: float
    refused: dict[str, int]
    full_size: int = 0  # the tunnel's MTU, where a probe looks whether it passes
    largest: int = 0  # the largest inner packet answered when it last looked
    passage: str = ""  # whole, black-hole, or not known
