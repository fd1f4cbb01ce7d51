"""The command channel to ExaBGP: a credit window, and which answer belongs to which command.

ExaBGP answers every command with one `done` or `error`, in order, without a name. More than about 50
unanswered commands make it slow (its queue is scanned as a whole each turn). The relay makes a new link only when the
answers to the one before are through. A new relay does not know of them: the first command of a link is therefore
one whose answer has a body (`show neighbor json`), and answers before that body are nobody's.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from gateway.bgp.settings import Prefix

WINDOW = 50
ANSWER_TIMEOUT = 30.0


class Kind(Enum):
    NEIGHBORS = "show neighbor"
    DUMP_IN = "show adj-rib in"
    DUMP_OUT = "show adj-rib out"
    REFRESH = "route-refresh"
    SESSION = "teardown, end of RIB"
    ROUTE = "route"


class Command(NamedTuple):
    """A command ExaBGP has not answered yet, or that waits to be sent."""

    kind: Kind
    text: str
    neighbor: str = ""
    prefix: Prefix | None = None


class Link:
    """One connection to ExaBGP's API, through the relay. `synced`: both dumps were read, routes may be sent."""

    def __init__(self) -> None:
        self.up = False
        self.generation = 0
        self.synced = False
        self.listed = False
        self._body_seen = False
        self._waiting: deque[Command] = deque()
        self._unanswered: deque[Command] = deque()
        self._progress_at = 0.0
        self._missed = 0

    def open(self, generation: int) -> None:
        self.close()
        self.up = True
        self.generation = generation

    def close(self) -> None:
        self.up = self.synced = self.listed = self._body_seen = False
        self._waiting.clear()
        self._unanswered.clear()

    def ask(self, command: Command) -> None:
        """Queue a command that goes before any route."""
        self._waiting.append(command)

    def asking(self, kind: Kind) -> bool:
        return any(one.kind is kind for one in (*self._unanswered, *self._waiting))

    def next_waiting(self) -> Command | None:
        return self._waiting.popleft() if self._waiting else None

    @property
    def credit(self) -> int:
        return WINDOW - len(self._unanswered) if self.up else 0

    @property
    def answering(self) -> Kind | None:
        """The kind of the command whose answer is under way."""
        return self._unanswered[0].kind if self._unanswered else None

    def sent(self, command: Command, now: float) -> None:
        if not self._unanswered:
            self._progress_at = now
        self._unanswered.append(command)

    def body(self, now: float) -> None:
        """A line of an answer's body was read."""
        self._progress_at = now
        self._missed = 0
        self._body_seen = True

    def answered(self, now: float) -> Command | None:
        """The command a `done` or `error` belongs to; None for an answer to the link before this one."""
        if not self._unanswered or (self.answering is Kind.NEIGHBORS and not self._body_seen):
            return None
        self._progress_at = now
        self._missed = 0
        self._body_seen = False
        return self._unanswered.popleft()

    def missed(self, now: float) -> int:
        """The deadline passed without an answer: how often in a row, over all links. The next one is as far away."""
        self._progress_at = now
        self._missed += 1
        return self._missed

    def deadline(self) -> float | None:
        return self._progress_at + ANSWER_TIMEOUT if self._unanswered else None
