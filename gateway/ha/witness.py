"""The lease: the one thing of which a pair of gateways has only one, kept by a witness that both can ask.

A core (gateway/contract.py), and the small contract that every kind of witness keeps: our own witness node
(`witness_link.py` carries it there), and what a cloud has that can compare and set. It asks one thing at a time:

    Ask(ticket, READ | ACQUIRE | RENEW | RELEASE | BREAK, epoch, ttl)  ->  Granted | Held | Free | Failed

Whoever wants to act needs a lease that is valid, and "valid" is counted so that the witness is always later than we
are: from the moment the request was *sent*, on a clock that goes on while the machine is suspended (CLOCK_BOOTTIME is
the `now`), less a safety margin for clocks of different speed. The lease is void at that moment, whatever else is going
on: every entry looks at the clock first, also the first after a stand-still of hours.

    ACQUIRE -> Granted -> valid until sent + ttl - margin     RENEW every ttl / 3, again every ttl / 6 while nobody answers
            -> Held    -> again when the witness says so, or when it must be over
            -> nothing -> READ: was it granted?   then RENEW, which says until when

It renews by itself. When to acquire, break and release is the election's, and so is what follows from a loss.
Epochs only rise: what is asked for is above every epoch ever seen, and the witness grants nothing lower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from gateway.ha.message import Standing

RENEWALS = 3  # in one ttl
RETRIES = 6  # in one ttl, while nobody answers
MARGIN = 0.1  # of the ttl
REMEMBERED = 8  # tickets whose answers may come late
SILENT_AFTER = 1.5  # ttls without an answer


class Operation(IntEnum):
    """What a witness can be asked. A backend does each as one atomic step."""

    READ = 1
    ACQUIRE = 2  # granted under this epoch or a higher one, if nobody has a lease
    RENEW = 3  # ours of exactly this epoch goes on
    RELEASE = 4  # ours of exactly this epoch ends
    BREAK = 5  # as ACQUIRE, though another has it


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to the witness, to be sent now. Answered by `answered(ticket, ..., now)`, late, twice or never."""

    ticket: int
    operation: Operation
    epoch: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Granted:
    """To ACQUIRE, RENEW and BREAK: ours, for so long from when it was asked for."""

    epoch: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody has it; `ours` in the answer to a READ: it is us. `remaining` is what the witness thinks is left."""

    epoch: int
    holder: str
    remaining: float | None = None
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody has it, or not we any more. `epoch` is the last that was granted."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The witness or the way to it says why. Whether anything happened is not known."""

    reason: str


Answer = Granted | Held | Free | Failed


@dataclass(frozen=True, slots=True)
class Acquire:
    """A command: have it, under this epoch or a higher one; goes on until Release."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Break:
    """A command: as Acquire, and take it from whoever has it."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Release:
    """A command: we want it no more. Void from this moment."""


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """Ours now. `broken`: it was taken from somebody who may not know yet."""

    epoch: int
    broken: bool = False


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """Ours no more, from this moment."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """Another has it, under this epoch."""

    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class _Asked:
    operation: Operation
    epoch: int
    sent_at: float


class Lease:
    """What one gateway has of the lease. `epoch` is the highest it ever saw."""

    def __init__(self, ttl: float, margin: float | None = None, epoch: int = 0) -> None:
        self.configure(ttl, margin)
        self.epoch = epoch
        self.problem = ""
        """Why the witness does not answer as it should; "" while it does."""
        self.holder = ""
        self._held: int | None = None
        self._until = 0.0
        self._renew_at = 0.0
        self._wanted: Acquire | Break | None = None
        self._releasing: _Asked | None = None
        self._found: int | None = None  # an epoch that is ours, but of which we do not know until when
        self._over = 0  # the highest epoch that we know to be over: nothing said of it later brings it back
        self._breaking = False  # asked, and not answered yet
        self._doubt = False  # an ACQUIRE or BREAK whose answer never came
        self._asked: dict[int, _Asked] = {}
        self._pending: int | None = None
        self._tickets = 0
        self._again_at = 0.0
        self._free = False
        self._answered_at: float | None = None
        self._effects: deque[Ask | LeaseGranted | LeaseLost | LeaseRefused] = deque()

    def configure(self, ttl: float, margin: float | None = None) -> None:
        """From the next request on; seconds. The margin is for clocks of different speed."""
        self.ttl = ttl
        self.margin = ttl * MARGIN if margin is None else margin

    # --- what is asked of it ------------------------------------------------------------------------------------

    def command(self, command: Acquire | Break | Release, now: float) -> None:
        self.check(now)
        match command:
            case Release():
                self._wanted = None
                self._release(self._held, now)
            case Acquire() | Break():
                self._wanted = command
                if self._pending is not None and self._asked[self._pending].operation is Operation.READ:
                    self._pending = None  # what is urgent does not wait for it
        self._at_once(now)

    def answered(self, ticket: int, answer: Answer, now: float) -> None:
        """What the witness said to an Ask; also late, or twice."""
        self.check(now)
        asked = self._asked.pop(ticket, None)
        if asked is None:
            return
        if ticket == self._pending:
            self._pending = None
        if not isinstance(answer, Failed):
            self._answered_at, self.problem = now, ""
            self.epoch = max(self.epoch, answer.epoch)
        match answer:
            case Granted():
                self._granted(asked, answer, now)
            case Held():
                self._is_held(asked, answer, now)
            case Free():
                self._is_free(asked, now)
            case Failed(reason):
                self._failed(asked, reason, now)
        self._next(now)

    def noticed(self, now: float) -> None:
        """The witness says that something about the lease is another now; what, it is asked."""
        self.check(now)
        self._at_once(now)

    def check(self, now: float) -> None:
        """The lease is void when its time is over: looked at before anything else is done."""
        if self._held is not None and now >= self._until:
            self._lose("the lease could not be renewed in time")

    def poll(self) -> Iterator[Ask | LeaseGranted | LeaseLost | LeaseRefused]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float:
        deadlines = [self._timeout_at() if self._pending is not None else self._again_at]
        if self._held is not None:
            deadlines.append(self._until)
        return min(deadlines)

    def handle_deadline(self, now: float) -> None:
        self.check(now)
        if self._pending is not None and now >= self._timeout_at():
            asked = self._asked[self._pending]
            self._pending = None
            self._failed(asked, "the witness does not answer", now)
        self._next(now)

    def valid(self, now: float) -> bool:
        """Whether we may act."""
        return self._held is not None and now < self._until

    @property
    def until(self) -> float | None:
        """When it is void unless renewed; None: we have none. For those who must look at the clock themselves."""
        return self._until if self._held is not None else None

    def remaining(self, now: float) -> float | None:
        """Seconds until it is void unless renewed; None: we have none."""
        return max(0.0, self._until - now) if self._held is not None else None

    def standing(self, now: float) -> Standing:
        if self.valid(now):
            return Standing.OURS
        if self._answered_at is None or now - self._answered_at > SILENT_AFTER * self.ttl:
            return Standing.UNKNOWN
        return Standing.FREE if self._free else Standing.OTHER

    # --- answers ------------------------------------------------------------------------------------------------

    def _granted(self, asked: _Asked, answer: Granted, now: float) -> None:
        if answer.epoch <= self._over or answer.epoch < self.epoch:
            return  # late: since then it was released, or given to another
        if asked.operation is Operation.RENEW:
            if answer.epoch in (self._held, self._found):
                self._adopt(asked, answer, now)
            return
        self._doubt = False
        if self._held is not None and answer.epoch > self._held:
            self._lose(f"the witness granted epoch {answer.epoch} meanwhile")
        if self._wanted is None and answer.epoch != self._held:
            self._release(answer.epoch, now)  # an answer to what we had given up
        else:
            self._adopt(asked, answer, now)

    def _adopt(self, asked: _Asked, answer: Granted, now: float) -> None:
        until = self._until_of(asked, answer, now)
        if until <= now:
            self._found = answer.epoch  # the answer took too long to be worth anything; a renewal says until when
            return
        if self._held is None:
            self._held, self._until = answer.epoch, until
            self._effects.append(LeaseGranted(answer.epoch, self._breaking or asked.operation is Operation.BREAK))
            self._breaking = False
        self._until, self._found, self._free = max(self._until, until), None, False
        self.holder = ""
        self._renew_at = self._again_at = asked.sent_at + answer.ttl / RENEWALS

    def _until_of(self, asked: _Asked, answer: Granted, now: float) -> float:
        """From when it was sent: the witness counts from later. `now` is when the answer came, and no matter."""
        return asked.sent_at + min(answer.ttl, self.ttl) - self.margin

    def _is_held(self, asked: _Asked, answer: Held, now: float) -> None:
        if self._held is not None and answer.epoch <= self._held:
            return  # older than what we have
        self._doubt, self._free, self.holder = False, False, answer.holder
        if answer.ours:
            self._is_ours(answer.epoch, now)
            return
        self._found = None
        if self._held is not None:
            self._lose(f"the witness gave the lease to {answer.holder} as epoch {answer.epoch}")
        if asked.operation in (Operation.ACQUIRE, Operation.BREAK):
            self._effects.append(LeaseRefused(answer.epoch, answer.holder))
        if asked.operation is Operation.BREAK:
            self._breaking = False
            if isinstance(self._wanted, Break):
                self._wanted = Acquire(self._wanted.epoch)  # it may not be broken
        if self._wanted is None:
            self._again_at = now + self.ttl
        else:
            left = answer.remaining if answer.remaining is not None else self.ttl / RENEWALS
            self._again_at = now + min(max(left, self.ttl / RETRIES), self.ttl / RENEWALS)

    def _is_ours(self, epoch: int, now: float) -> None:
        """What a READ shows, and we may not have known."""
        if self._wanted is None or epoch <= self._over:
            self._release(epoch, now)  # who acts again does so under another epoch
        else:
            self._found = epoch
        self._again_at = now

    def _is_free(self, asked: _Asked, now: float) -> None:
        if asked.operation is Operation.RELEASE and self._releasing is not None:
            self._releasing = None if self._releasing.epoch == asked.epoch else self._releasing
        if self._held is not None:
            if (asked.operation, asked.epoch) != (Operation.RENEW, self._held):
                return  # older than what we have
            self._lose("the witness does not know of our lease any more")
        self._free, self.holder, self._doubt, self._found = True, "", False, None
        if self._wanted is None:
            self._again_at = now + self.ttl
        elif asked.operation in (Operation.READ, Operation.RELEASE):
            self._again_at = now

    def _failed(self, asked: _Asked, reason: str, now: float) -> None:
        self.problem = reason
        if asked.operation in (Operation.ACQUIRE, Operation.BREAK):
            self._doubt = True  # it may have been granted
        self._again_at = max(now, asked.sent_at + self.ttl / RETRIES)

    # --- asking -------------------------------------------------------------------------------------------------

    def _at_once(self, now: float) -> None:
        self._again_at = now
        self._next(now)

    def _next(self, now: float) -> None:
        """Asks what is to be asked now, one thing at a time."""
        if self._pending is not None or now < self._again_at:
            return
        operation, epoch = self._due(now)
        self._breaking = self._breaking or operation is Operation.BREAK
        self._tickets += 1
        self._pending = self._tickets
        self._asked[self._tickets] = _Asked(operation, epoch, now)
        for old in list(self._asked)[:-REMEMBERED]:
            del self._asked[old]
        self._effects.append(Ask(self._tickets, operation, epoch, self.ttl))
        self._again_at = now + self.ttl / RENEWALS if self._held or self._wanted else now + self.ttl

    def _due(self, now: float) -> tuple[Operation, int]:
        if self._releasing is not None and now >= self._releasing.sent_at + self.ttl:
            self._releasing = None  # it is over by itself
        if self._releasing is not None:
            return Operation.RELEASE, self._releasing.epoch
        if self._held is not None:
            return Operation.RENEW, self._held
        if self._found is not None and self._wanted is not None:
            return Operation.RENEW, self._found
        if self._doubt or self._wanted is None:
            return Operation.READ, 0
        operation = Operation.BREAK if isinstance(self._wanted, Break) else Operation.ACQUIRE
        return operation, max(self._wanted.epoch, self.epoch + 1)

    def _timeout_at(self) -> float:
        assert self._pending is not None
        return self._asked[self._pending].sent_at + self.ttl / RETRIES

    def _release(self, epoch: int | None, now: float) -> None:
        self._found = None
        if epoch is not None:
            self._over = max(self._over, epoch)
            self._held, self._releasing = None, _Asked(Operation.RELEASE, epoch, now)
            if self._pending is not None:
                self._pending = None  # its answer may still come, and is then an old one
                self._doubt = self._doubt or any(
                    one.operation in (Operation.ACQUIRE, Operation.BREAK) for one in self._asked.values()
                )
            self._again_at = now

    def _lose(self, reason: str) -> None:
        self._over = max(self._over, self._held or 0)
        self._held, self._wanted, self._found = None, None, None
        self._effects.append(LeaseLost(reason))
