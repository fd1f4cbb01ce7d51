"""A copy of the active gateway's SAs at the standby, and when it may be used.

    the active: Source                          the standby: Holder
        Begin(epoch, at)                -->       what it had is over
        Record(number, name, content)   -->       one connection as it is now, or no more
        Whole(number)                   -->       that was everything there is
                              <--  Ping(ping, number, lasts)   all records up to `number` are kept
                              <--  Gone                        it has none any more
        Pong(ping)                      -->       the copy is good for `lasts` seconds from when it sent that ping

Nothing that depends on a record is done before the record is kept here and there: so whoever goes on from the copy repeats no IV and no
message ID. A standby that is not heard holds nothing up for long: what the Holder believes is bounded by the last Pong, and the Source
waits until after that, on a clock that need not agree with the other's, only run about as fast (`DRIFT`).

The copy of epoch E is for whoever is granted E + 1: then nobody was active in between. Not here: the way there
(`replica_channel.py`), what a content is, who is active.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf

DRIFT = 1.02
SLACK = 0.05
"""Seconds, beside the drift."""
PINGS_KEPT = 64
LONGEST = 150.0
"""Seconds; a copy is never good for longer, and nothing waits for longer."""


@dataclass(frozen=True, slots=True)
class Begin:
    """`at`: the source's clock now, of which all times in the records are."""

    epoch: int
    at: float


@dataclass(frozen=True, slots=True)
class Record:
    """`content`: None for a connection that is no more."""

    number: int
    name: str
    content: object = field(repr=False)


@dataclass(frozen=True, slots=True)
class Whole:
    """`number`: of the last record, also of one that is not among them."""

    number: int


@dataclass(frozen=True, slots=True)
class Ping:
    """`lasts`: for how long the copy may be used from now on, in seconds, where a Pong comes back."""

    ping: int
    number: int
    lasts: float


@dataclass(frozen=True, slots=True)
class Pong:
    ping: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The holder ends, and its copy with it."""


Said = Begin | Record | Whole | Ping | Pong | Gone


class Source:
    """The active gateway's end. Outlives its sessions with the other: what was promised to one holds after it."""

    def __init__(self) -> None:
        self.number = self.acked = 0
        """The last record, and the last that the other keeps."""
        self.until = -inf
        """When nobody has a copy any more that may be used, unless a ping comes before."""
        self.attached = False
        self.heard_at: float | None = None
        self._said: deque[Said] = deque()

    def attach(self, epoch: int, now: float, contents: Mapping[str, object]) -> None:
        """A new session with the other gateway: all there is."""
        self.attached = True
        self._said.clear()
        self._said.append(Begin(epoch, now))
        for name, content in contents.items():
            self._record(name, content)
        self._said.append(Whole(self.number))

    def detach(self) -> None:
        """The session is over."""
        self.attached = False
        self._said.clear()

    def changed(self, name: str, content: object) -> int:
        """The number of the record on which depends what follows."""
        self._record(name, content)
        return self.number

    def pinged(self, ping: Ping, now: float) -> None:
        if not self.attached:
            return
        self.heard_at = now
        self.acked = max(self.acked, min(ping.number, self.number))
        self.until = max(self.until, now + min(ping.lasts, LONGEST) * DRIFT + SLACK)
        self._said.append(Pong(ping.ping))

    def released(self) -> None:
        """The holder has no copy any more, and gets none in this session."""
        self.until = -inf
        self.detach()

    def settled(self, number: int, now: float) -> bool:
        """Whether what depends on this record may be done."""
        return number <= self.acked or now >= self.until

    def poll(self) -> Iterator[Said]:
        while self._said:
            yield self._said.popleft()

    def _record(self, name: str, content: object) -> None:
        self.number += 1
        if self.attached:
            self._said.append(Record(self.number, name, content))


@dataclass(slots=True)
class Copy:
    """What the other had under `epoch`; to be used before `until`."""

    epoch: int = 0
    contents: dict[str, object] = field(default_factory=dict, repr=False)
    until: float = -inf


class Holder:
    """The standby's end. `lasts`: seconds for which the copy may be used after the other was last heard."""

    def __init__(self, lasts: float) -> None:
        self.lasts = min(lasts, LONGEST)
        self.copy = Copy()
        self.number = 0
        """Of the last record."""
        self.heard_at: float | None = None
        self._begun = self._whole = False
        self._pings = 0
        self._sent: dict[int, tuple[float, float]] = {}  # pings: when, and for how long the copy may be used then
        self._said: deque[Said] = deque()

    def opened(self) -> None:
        """A session begins; what the one before brought may still be used for a while."""
        self._begun = self._whole = False
        self._sent.clear()
        self._said.clear()

    def receive(self, said: Said, now: float) -> None:
        self.heard_at = now
        match said:
            case Begin(epoch, _):
                # One that was active before what is here does not know yet that it is no more
                self._begun, self._whole, self.number = epoch >= self.copy.epoch, False, 0
                self.copy = Copy(epoch) if self._begun else self.copy
            case Record(number, name, content) if self._begun:
                if self.number and number != self.number + 1:
                    # Something was not sent: nothing of this session is a copy
                    self.opened()
                    self.copy = Copy(self.copy.epoch)
                    return
                self.number = number
                if content is None:
                    self.copy.contents.pop(name, None)
                else:
                    self.copy.contents[name] = content
                if self._whole:
                    self.ping(now)
            case Whole(number) if self._begun and number >= self.number:
                self.number, self._whole = number, True
                self.ping(now)
            case Pong(ping) if self._whole and ping in self._sent:
                self.copy.until = max(self.copy.until, sum(self._sent.pop(ping)))
            case _:
                pass

    def ping(self, now: float) -> None:
        """Now and then, and for each record."""
        if not self._whole:
            return
        self._pings += 1
        if len(self._sent) >= PINGS_KEPT:
            del self._sent[min(self._sent)]
        self._sent[self._pings] = now, self.lasts
        self._said.append(Ping(self._pings, self.number, self.lasts))

    def inherit(self, copy: Copy) -> None:
        """What this gateway had itself, when it was active last."""
        self.copy, self._begun, self._whole = copy, False, False

    def end(self) -> None:
        """Nobody goes on from it."""
        self.inherit(Copy())
        self._said.append(Gone())

    def usable(self, now: float) -> bool:
        """Whether there is a copy from which somebody could go on, were the lease his."""
        return bool(self.copy.contents) and now < self.copy.until

    def fit(self, epoch: int, now: float) -> Mapping[str, object]:
        """For who was granted `epoch` just now; nothing where somebody may have been active since the copy."""
        fits = self.copy.epoch > 0 and epoch == self.copy.epoch + 1 and now < self.copy.until
        return self.copy.contents if fits else {}

    def poll(self) -> Iterator[Said]:
        while self._said:
            yield self._said.popleft()
