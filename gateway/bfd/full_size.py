"""Whether packets of a tunnel's whole MTU pass, where small ones do: an MTU black hole found, and how much passes.

    path up, moved, or another MTU -> ask for the whole size, TRIES times
        answered -> fine, asked again slowly
        silence, while small packets are answered -> halve between what passes and what vanishes -> the whole size once more

A part of echo.py, which knows the messages. Not path MTU discovery (RFC 4821): nothing is changed by what it finds, for who answers
pings badly would slow a tunnel down. It is RFC 4821 7's search for a person, who is told the value to configure.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

FLOOR = 508
"""Octets; who does not answer so short a packet does not answer longer echoes at all, and that says nothing of the path."""
STEP = 4  # octets: what ESP pads to
TRIES, TRIES_OF_WHOLE = 3, 5
LEAST_WAIT = 0.5
"""Seconds for an answer; more where the small packets are given more."""
SETTLE, AGAIN, SLOWLY = 1.0, 60.0, 600.0
"""Seconds: after the path came up; between two looks at a black hole, or at somebody who answers no long echo; at a good path."""


class Passage(Enum):
    """What is known of packets of the whole size."""

    UNKNOWN = ""
    WHOLE = "whole"
    BLACK_HOLE = "black-hole"


class FullSize:
    """See the module. `sizes()` are those to be asked for now, in octets of the inner packet."""

    def __init__(self) -> None:
        self.size = 0
        self.largest = 0  # of those answered
        self.passage = Passage.UNKNOWN
        self._alive = False
        self._wait = LEAST_WAIT
        self._asked, self._tries = 0, 0
        self._vanished = 0  # the smallest that did
        self._passed = 0  # the largest answered in this search
        self._due: float | None = None
        self._ready: list[int] = []

    def whole(self, size: int, now: float, *, moved: bool = False) -> None:
        """The tunnel's MTU; 0: it is down. `moved`: its path is another one."""
        if size == self.size and not moved:
            return
        if size != self.size:
            self.passage, self.largest = Passage.UNKNOWN, 0
        self.size = size
        self._begin(now)

    def small(self, answered: bool, wait: float, now: float) -> None:
        """Whether small packets are answered. As long as they are not, silence says nothing of sizes."""
        self._wait = max(wait, LEAST_WAIT)
        if answered != self._alive:
            self._alive = answered
            self._begin(now)

    def answer(self, size: int, now: float) -> None:
        """To an echo of this size."""
        if size != self._asked or self._due is None:
            return
        self._passed = size
        if size == self.size:
            self._conclude(Passage.WHOLE, size, now + SLOWLY)
        else:
            self._continue(now)

    def sizes(self) -> Iterator[int]:
        while self._ready:
            yield self._ready.pop(0)

    def next_deadline(self) -> float | None:
        return self._due

    def handle_deadline(self, now: float) -> None:
        if self._due is None or now < self._due:
            return
        if not self._asked:
            self._vanished = self._passed = 0
            self._ask(self.size, now)
        elif self._tries < (TRIES_OF_WHOLE if self._asked == self.size else TRIES):
            self._ask(self._asked, now)
        else:
            self._lost(now)

    # --- the search ---------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        self._asked, self._ready = 0, []
        self._due = now + SETTLE if self._alive and self.size > FLOOR else None

    def _ask(self, size: int, now: float) -> None:
        self._tries = self._tries + 1 if size == self._asked else 1
        self._asked = size
        self._ready.append(size)
        self._due = now + self._wait

    def _lost(self, now: float) -> None:
        """All tries of one size."""
        if self._asked == FLOOR:
            self._conclude(Passage.UNKNOWN, 0, now + AGAIN)
        elif self._asked == self.size and self._vanished:
            # Once more at the end: the search took a while, and a path that loses much is none that loses the long
            self._conclude(Passage.BLACK_HOLE, self._passed, now + AGAIN)
        else:
            self._vanished = self._asked
            self._continue(now)

    def _continue(self, now: float) -> None:
        self._tries = 0
        if not self._passed:
            self._ask(FLOOR, now)
        elif self._vanished - self._passed <= STEP:
            self._ask(self.size, now)
        else:
            self._ask(self._passed + max((self._vanished - self._passed) // 2 // STEP * STEP, STEP), now)

    def _conclude(self, passage: Passage, largest: int, again: float) -> None:
        self.passage, self.largest = passage, largest
        self._asked, self._tries, self._due = 0, 0, again
