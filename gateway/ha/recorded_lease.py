"""The lease as one record in a store that can compare and set: what makes a cloud's storage a witness (`witness.py`).

A core, used for every such store alike. All it needs of one: to load the record with a tag, and to save a record if the
tag is still that. Each `Ask` is a procedure of its own, a generator that says what to do to the store and is told how it
went; several may be under way at once, as late as they like, because every save names the tag it builds on.

    steps = lease.carry_out(ask, now)                  a store          lease.carry_out                  the asker
    step = next(steps)                                    |  <-- Load() -----  |  <-- ACQUIRE 7 ------------  |
    while True:                                           |  --- Loaded -----> |   is it over? then            |
        step = steps.send((reply, now))                   |  <-- Save(tag) --  |   epoch 7, our boot, ttl      |
    StopIteration.value is the Answer                     |  --- Saved ------> |  --- Granted(7) ----------->  |

A store has no clock that we could ask, and no clock of another machine is believed. So a record of another is over when
*we* have known it, under the same tag, for its ttl and a margin, by our own `now`; the save that takes it names this
tag, so it fails if there was a renewal in between. The holder counts from when it sent the renewal, which was before
the record was written, which was before anyone knew it: it is void there before it can be taken here.

    holder      sent |------- ttl - margin ------->|void
    store          written |
    another                   known |------- ttl + margin ------->| may take it, if the tag is still that one

What follows from it:
- Who starts anew knows nothing, and waits a ttl before it takes a record that is not released: also its own of before.
- No record at all may be one that was deleted under a holder: the same wait, once in the life of a store.
- A tag never comes twice (S3's and DynamoDB's are of the content): every save writes 16 random octets. By them a save is
  also known that took effect though the store refused it, because something on the way had sent it twice.
- A renewal never lowers the ttl in the record: an earlier one may still count.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gateway.contract import RandomSource
from gateway.ha.witness import Answer, Ask, Failed, Free, Granted, Held, Operation

MARGIN = 0.1  # of the ttl, for clocks of different speed; the holder has one of its own
LONGEST_TTL = 3600.0  # a record that says more is none of ours
LEAP = 1 << 32  # the most by which an asker may raise the epoch
LONGEST_NAME = 255
ATTEMPTS = 3  # of one Ask, while others write at the same time
REMEMBERED = 8  # tags
WRITE_OCTETS = 16
FORMAT = 1


class Unreadable(ValueError):
    """What is stored is no record of ours, and why."""


@dataclass(frozen=True, slots=True)
class Record:
    """The last grant. `boot` is the holder's process, `write` these very 16 octets' save; in hexadecimal, both."""

    epoch: int
    holder: str
    boot: str
    ttl: float
    held: bool
    write: str

    def emit(self) -> bytes:
        """JSON, for those who look at the store."""
        return json.dumps({"format": FORMAT, **asdict(self)}).encode()

    @classmethod
    def parse(cls, octets: bytes) -> Record:
        """Raises Unreadable."""
        try:
            content = json.loads(octets)
        except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise Unreadable("it is not JSON") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise Unreadable(f"it is not of format {FORMAT}")
        for name, is_good in _FIELDS.items():
            if not is_good(content.get(name)):
                raise Unreadable(f"its {name} is missing or out of bounds")
        return cls(**{name: content[name] for name in _FIELDS})


def _is_octets(value: object) -> bool:
    return isinstance(value, str) and len(value) == 2 * WRITE_OCTETS and set(value) <= set("0123456789abcdef")


_FIELDS: Mapping[str, Any] = {
    "epoch": lambda value: type(value) is int and 0 <= value < 1 << 64,
    "holder": lambda value: isinstance(value, str) and len(value) <= LONGEST_NAME,
    "boot": _is_octets,
    "ttl": lambda value: type(value) in (int, float) and 0 < value <= LONGEST_TTL,
    "held": lambda value: type(value) is bool,
    "write": _is_octets,
}


# --- what is said to a store, and by it ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """Answered by Loaded or Failed. Never from a cache or a replica."""


@dataclass(frozen=True, slots=True)
class Save:
    """Only if the tag is this one, "" for: only if there is nothing. Answered by Saved, Conflict or Failed."""

    content: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """`content` None: there is nothing, and `tag` is ""."""

    content: bytes | None
    tag: str


@dataclass(frozen=True, slots=True)
class Saved:
    """It is there now, under this tag."""

    tag: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The tag is another: this save changed nothing."""


Step = Load | Save
Reply = Loaded | Saved | Conflict | Failed
Steps = Generator[Step, tuple[Reply, float], Answer]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is in the store as far as we know; since when we know this tag, and when we were last told of it."""

    record: Record | None
    tag: str
    since: float
    told_at: float


class RecordedLease:
    """One process's view of the record. `boot` is 16 octets, its own and new with every process."""

    def __init__(self, name: str, boot: bytes, random: RandomSource) -> None:
        self._name = name[:LONGEST_NAME]
        self._boot = boot.hex()
        self._random = random
        self._seen: _Seen | None = None
        self._since: dict[str, float] = {}  # when each tag was first known
        self._epoch = 0  # the highest seen, also of a record that is gone
        self._ttl = 0.0  # the longest seen: of a record that is gone

    def carry_out(self, ask: Ask, now: float) -> Steps:
        """What to do to the store, until the Answer; see the drawing."""
        if not 0 < ask.ttl <= LONGEST_TTL:
            return Failed(f"the ttl is not in 0 to {LONGEST_TTL:g} s")
        seen = self._ours(ask, now)  # who renews knows the record: one request instead of two
        wanted: Record | None = None
        for _ in range(ATTEMPTS):
            if seen is None:
                asked_at = now
                reply, now = yield Load()
                loaded = self._loaded(reply, asked_at, now)
                if isinstance(loaded, Failed):
                    return loaded
                seen = loaded
                if seen is None:
                    continue
            if wanted is not None and seen.record == wanted:
                return _done(ask, wanted)
            decided = self._decided(ask, seen, now)
            if not isinstance(decided, Record):
                return decided
            wanted, asked_at = decided, now
            reply, now = yield Save(wanted.emit(), seen.tag)
            if isinstance(reply, Saved):
                self._know(wanted, reply.tag, asked_at, now)
                return _done(ask, wanted)
            if not isinstance(reply, Conflict):
                return _failure(reply)
            seen = None
        return Failed("others write the record again and again")

    # --- what is known ------------------------------------------------------------------------------------------

    def _ours(self, ask: Ask, now: float) -> _Seen | None:
        """The record, if this Ask is about ours and we need not look again."""
        seen = self._seen
        if ask.operation not in (Operation.RENEW, Operation.RELEASE) or seen is None:
            return None
        return seen if self._holds(seen, ask.epoch) and self._remaining(seen, ask, now) > 0 else None

    def _loaded(self, reply: Reply, asked_at: float, now: float) -> _Seen | Failed | None:
        """None: another answer overtook this one, and what is there now it does not say."""
        if not isinstance(reply, Loaded):
            return _failure(reply)
        try:
            record = None if reply.content is None else Record.parse(reply.content)
        except Unreadable as why:
            return Failed(f"what is stored is no record of a lease ({why}); it is left as it is")
        return self._know(record, reply.tag, asked_at, now)

    def _know(self, record: Record | None, tag: str, asked_at: float, now: float) -> _Seen | None:
        if record is not None:
            self._since.pop("", None)  # "nothing" is the one tag that comes again
            self._epoch, self._ttl = max(self._epoch, record.epoch), max(self._ttl, record.ttl)
        since = self._since.setdefault(tag, now)
        for old in list(self._since)[:-REMEMBERED]:
            del self._since[old]
        if self._seen is not None and asked_at < self._seen.told_at and tag != self._seen.tag:
            return None  # it may be older than what we know
        self._seen = _Seen(record, tag, since, now)
        return self._seen

    def _holds(self, seen: _Seen, epoch: int | None = None) -> bool:
        record = seen.record
        return record is not None and record.held and record.boot == self._boot and epoch in (None, record.epoch)

    def _remaining(self, seen: _Seen, ask: Ask, now: float) -> float:
        """Seconds until it is over, as far as we may say; 0: it is."""
        if seen.record is not None and not seen.record.held:
            return 0.0
        ttl = seen.record.ttl if seen.record is not None else max(ask.ttl, self._ttl)
        return max(0.0, seen.since + ttl * (1 + MARGIN) - now)

    # --- what is decided ----------------------------------------------------------------------------------------

    def _decided(self, ask: Ask, seen: _Seen, now: float) -> Record | Answer:
        """The record to write, or the answer where nothing is to be written."""
        left = self._remaining(seen, ask, now)
        match ask.operation:
            case Operation.RENEW if left > 0 and self._holds(seen, ask.epoch):
                assert seen.record is not None
                return self._next(seen.record, ttl=max(ask.ttl, seen.record.ttl))
            case Operation.RELEASE if self._holds(seen, ask.epoch):
                assert seen.record is not None
                return self._next(seen.record, held=False)
            case Operation.RELEASE:
                return Free(self._epoch)
            case Operation.BREAK:
                return self._grant(ask)
            case Operation.ACQUIRE if left == 0:
                return self._grant(ask)
        if seen.record is None:
            gone = left == 0 or ask.operation is Operation.RENEW
            return Free(self._epoch) if gone else Held(self._epoch, "", left)
        if left == 0:
            return Free(seen.record.epoch)
        return Held(seen.record.epoch, seen.record.holder, left, ours=self._holds(seen))

    def _grant(self, ask: Ask) -> Record | Failed:
        if ask.epoch > self._epoch + LEAP:
            return Failed("the epoch asked for is out of reach")
        return self._next(Record(max(self._epoch + 1, ask.epoch), self._name, self._boot, ask.ttl, True, ""))

    def _next(self, record: Record, **changes: Any) -> Record:
        return replace(record, **changes, write=self._random.octets(WRITE_OCTETS).hex())


def _done(ask: Ask, record: Record) -> Answer:
    return Granted(record.epoch, ask.ttl) if record.held else Free(record.epoch)


def _failure(reply: Reply) -> Failed:
    return reply if isinstance(reply, Failed) else Failed(f"the store gave an answer to another question: {reply}")
