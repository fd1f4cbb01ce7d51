"""Two leases over one record in a store that compares and sets, on virtual clocks of different speed.

The store's tags are of its content, as S3's are. What is between can be slow, lose a request or its answer, and carry one out twice.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass

from support.heartbeat_network import SeededRandom

from gateway.ha.recorded_lease import Conflict, Load, Loaded, Record, RecordedLease, Reply, Saved, Step, Steps
from gateway.ha.sealed import BOOT_OCTETS
from gateway.ha.witness import Ask, Failed, Lease, LeaseGranted, LeaseLost, LeaseRefused, Operation

Event = LeaseGranted | LeaseLost | LeaseRefused
PATIENCE = 4.0
"""How long a request is waited for. What it does it may do later all the same."""


class MemoryStore:
    """`compares` False is a store that cannot do what it should."""

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.compares = True
        self.history: list[Record] = []

    @property
    def tag(self) -> str:
        return "" if self.content is None else hashlib.md5(self.content).hexdigest()

    def do(self, step: Step) -> Reply:
        if isinstance(step, Load):
            return Loaded(self.content, self.tag)
        if self.compares and step.tag != self.tag:
            return Conflict()
        self.content = step.content
        self.history.append(Record.parse(step.content))
        return Saved(self.tag)


@dataclass(frozen=True)
class Fate:
    """Of one request: when it is carried out (None: never), again, and when the answer comes (None: never)."""

    there: float | None = 0.005
    back: float | None = 0.005
    again: float | None = None


class Contender:
    """One process. Its clock goes at its own rate from its own zero."""

    def __init__(self, name: str, seed: int, ttl: float, rate: float = 1.0, zero: float = 0.0) -> None:
        self.name, self.rate, self.zero = name, rate, zero
        random = SeededRandom(seed)
        self.lease = Lease(ttl)
        self.record = RecordedLease(f"gw-{name}", random.octets(BOOT_OCTETS), random)
        self.granted = 0
        self.frozen: list[Callable[[], None]] | None = None

    def clock(self, now: float) -> float:
        return self.zero + now * self.rate

    def world_time(self, own: float) -> float:
        return (own - self.zero) / self.rate


class RecordWorld:
    """`fate(name, step)` says what happens to a request; `checked` is called after everything that happens."""

    def __init__(self, ttl: float = 6.0) -> None:
        self.now, self.ttl = 1000.0, ttl
        self.store = MemoryStore()
        self.broken_below = 0
        """The highest epoch that was taken by BREAK: who has an earlier one may not know yet."""
        self.fate: Callable[[str, Step], Fate] = lambda name, step: Fate()
        self.checked: Callable[[], None] = lambda: None
        self.events: list[tuple[float, str, Event]] = []
        self.requests: list[tuple[float, str, Step]] = []
        self.contenders: dict[str, Contender] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def start(self, name: str, rate: float = 1.0, zero: float = 0.0) -> Contender:
        """Also in place of one that ran: a new process, which knows nothing."""
        self._count += 1
        self.contenders[name] = Contender(name, self._count, self.ttl, rate, zero)
        return self.contenders[name]

    def stop(self, name: str) -> None:
        del self.contenders[name]

    def freeze(self, name: str) -> None:
        """It stands still, and its clock goes on."""
        self.contenders[name].frozen = []

    def thaw(self, name: str) -> None:
        one = self.contenders[name]
        waiting, one.frozen = one.frozen or [], None
        for action in waiting:
            action()

    def command(self, name: str, command: object) -> None:
        one = self.contenders[name]
        if one.frozen is None:
            one.lease.command(command, one.clock(self.now))  # type: ignore[arg-type]
            self._drain(one)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            awake = [one for one in self.contenders.values() if one.frozen is None]
            timers = [(one.world_time(one.lease.next_deadline()), number) for number, one in enumerate(awake)]
            at, number = min(timers, default=(end + 1, 0))
            arrival = self._queue[0][0] if self._queue else end + 1
            if min(at, arrival) > end:
                break
            self.now = max(self.now, min(at, arrival))
            if arrival <= at:
                heapq.heappop(self._queue)[2]()
            else:
                one = awake[number]
                # A deadline converted there and back may lie a little before itself
                one.lease.handle_deadline(max(one.clock(self.now), one.lease.next_deadline()))
                self._drain(one)
            self.checked()
        self.now = end

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, action))

    def said(self, name: str) -> list[Event]:
        return [event for _, who, event in self.events if who == name]

    def holders(self) -> list[str]:
        return [name for name, one in self.contenders.items() if one.lease.valid(one.clock(self.now))]

    @property
    def stored(self) -> Record:
        assert self.store.content is not None
        return Record.parse(self.store.content)

    # --- inside -------------------------------------------------------------------------------------------------

    def _drain(self, one: Contender) -> None:
        for effect in one.lease.poll():
            if isinstance(effect, Ask):
                self._begin(one, effect)
                continue
            self.events.append((self.now, one.name, effect))
            if isinstance(effect, LeaseGranted):
                one.granted = effect.epoch

    def _begin(self, one: Contender, ask: Ask) -> None:
        steps = one.record.carry_out(ask, one.clock(self.now))
        self._advance(one, ask, steps, lambda: next(steps))

    def _advance(self, one: Contender, ask: Ask, steps: Steps, go: Callable[[], Step]) -> None:
        try:
            step = go()
        except StopIteration as done:
            one.lease.answered(ask.ticket, done.value, one.clock(self.now))
            self._drain(one)
            return
        self._request(
            one,
            ask,
            step,
            lambda reply: self._advance(one, ask, steps, lambda: steps.send((reply, one.clock(self.now)))),
        )

    def _request(self, one: Contender, ask: Ask, step: Step, answered: Callable[[Reply], None]) -> None:
        self.requests.append((self.now, one.name, step))
        fate = self.fate(one.name, step)
        open_ = [True]

        def answer(reply: Reply) -> None:
            if self.contenders.get(one.name) is not one or not open_[0]:
                return
            if one.frozen is not None:
                one.frozen.append(lambda: answer(reply))
                return
            open_[0] = False
            answered(reply)

        def arrive() -> None:
            reply = self.store.do(step)
            if isinstance(reply, Saved) and ask.operation is Operation.BREAK:
                self.broken_below = max(self.broken_below, self.stored.epoch)
            if fate.back is not None:
                self.later(fate.back, lambda: answer(reply))
            if fate.again is not None:
                self.later(fate.again, lambda: self.store.do(step))

        if fate.there is not None:
            self.later(fate.there, arrive)
        self.later(PATIENCE, lambda: answer(Failed("no answer")))
