"""Two liveness cores on a virtual clock, each with a probe in Python that does what native/probe.c does.

core A -- effects --> probe A == wire (delay, cut) == probe B <-- effects -- core B
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.bfd.packet import ControlPacket, parse
from gateway.bfd.probing import Arm, Changed, Disarm, Send
from gateway.bfd.session import Session, SessionSettings

DELAY = 0.002


class Seeded:
    """`gateway.contract.RandomSource`."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


@dataclass
class End:
    """A session with its probe, and what became of it. `sent`: (time, packet); `punted`: how many the core was told."""

    session: Session
    random: Seeded
    armed: Arm | None = None
    send_at: float | None = None
    detect_at: float | None = None
    cut: bool = False  # what it sends gets lost
    sent: list[tuple[float, bytes]] = field(default_factory=list)
    changes: list[tuple[float, Changed]] = field(default_factory=list)
    punted: int = 0

    @property
    def states(self) -> list[str]:
        return [change.state for _, change in self.changes]

    def packets(self, since: float = 0.0) -> list[tuple[float, ControlPacket]]:
        return [(at, parse(data)) for at, data in self.sent if at >= since]


class Pair:
    """`run(seconds)`; `a` and `b` are its ends."""

    def __init__(self, a: SessionSettings, b: SessionSettings, seed: int = 1) -> None:
        self.now = 1000.0
        self._flying: list[tuple[float, int, End, bytes]] = []
        self._count = 0
        self.a, self.b = (
            End(Session(settings, discriminator, Seeded(seed + discriminator)), Seeded(seed * 7 + discriminator))
            for settings, discriminator in ((a, 0x11), (b, 0x22))
        )

    def start(self) -> None:
        for end in (self.a, self.b):
            self.do(end, lambda session: session.path(True, self.now))

    def do(self, end: End, action: Callable[[Session], None]) -> None:
        """An input to one core, and all that follows at this moment."""
        action(end.session)
        for effect in end.session.poll():
            if isinstance(effect, Arm):
                self._arm(end, effect)
            elif isinstance(effect, Disarm):
                end.armed = end.send_at = end.detect_at = None
            elif isinstance(effect, Send):
                self._send(end, effect.octets)
            else:
                end.changes.append((self.now, effect))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self._next()) <= until:
            self.now = max(self.now, at)
            self._step()
        self.now = until

    def until(self, condition: Callable[[], bool], limit: float = 10.0) -> float:
        """Runs until it holds; says how long that took."""
        began = self.now
        while not condition():
            assert self.now - began < limit, "not in time"
            self.run(0.001)
        return self.now - began

    def deliver(self, end: End, data: bytes) -> None:
        """A packet arrives, whoever sent it."""
        armed = end.armed
        if armed is None:
            return
        if armed.counts(data) and armed.detection:
            end.detect_at = self.now + armed.detection
        if data != armed.expected:
            end.punted += 1
            self.do(end, lambda session: session.receive(data, self.now))

    def _arm(self, end: End, arm: Arm) -> None:
        end.armed = arm
        end.detect_at = self.now + arm.detection if arm.detection else None
        if not arm.octets:
            end.send_at = None
        elif arm.at_once or end.send_at is None:
            self._send_regularly(end)
        else:
            end.send_at = min(end.send_at, self.now + arm.interval[1])

    def _send_regularly(self, end: End) -> None:
        assert end.armed is not None
        end.send_at = self.now + end.random.uniform(*end.armed.interval)
        self._send(end, end.armed.octets)

    def _send(self, end: End, data: bytes) -> None:
        end.sent.append((self.now, data))
        if not end.cut:
            self._count += 1
            heapq.heappush(self._flying, (self.now + DELAY, self._count, self.b if end is self.a else self.a, data))

    def _next(self) -> float:
        times = [self._flying[0][0]] if self._flying else []
        for end in (self.a, self.b):
            times += [at for at in (end.send_at, end.detect_at, end.session.next_deadline()) if at is not None]
        return min(times, default=float("inf"))

    def _step(self) -> None:
        if self._flying and self._flying[0][0] <= self.now:
            _, _, end, data = heapq.heappop(self._flying)
            self.deliver(end, data)
            return
        for end in (self.a, self.b):
            deadline = end.session.next_deadline()
            if end.send_at is not None and end.send_at <= self.now:
                self._send_regularly(end)
            elif end.detect_at is not None and end.detect_at <= self.now:
                end.detect_at = None
                generation = end.armed.generation if end.armed is not None else -1
                self.do(end, lambda session, generation=generation: session.expired(generation, self.now))  # type: ignore[misc]
            elif deadline is not None and deadline <= self.now:
                self.do(end, lambda session: session.handle_deadline(self.now))
            else:
                continue
            return
