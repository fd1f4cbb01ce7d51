"""Two heartbeats on a virtual clock over a network that loses, delays, duplicates and reorders."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from gateway.contract import Endpoint
from gateway.ha.beating import Arm, Once, Rest
from gateway.ha.heartbeat import Heartbeat, PeerDown, PeerSaid, PeerUp, Settings
from gateway.ha.reference import Beats

SECRET = b"a secret of the pair, long enough"
ADDRESSES = {"a": Endpoint("10.0.0.4", 4780), "b": Endpoint("10.0.0.5", 4780)}
OTHER = {"a": "b", "b": "a"}


class SeededRandom:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def settings(name: str, **changes: object) -> Settings:
    values = {"local": ADDRESSES[name], "remote": ADDRESSES[OTHER[name]], "name": f"gw-{name}", "secret": SECRET}
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


class Network:
    """`passes` may be replaced to drop or record. `frozen` nodes neither read nor wake; of `busy` ones the beats go on, and what
    they hear waits."""

    def __init__(
        self, seed: int = 1, loss: float = 0.0, duplicate: float = 0.0, delay: tuple[float, float] = (0.001, 0.001)
    ) -> None:
        self.now = 1000.0
        self.random = random.Random(seed)
        self.loss, self.duplicate, self.delay = loss, duplicate, delay
        self.nodes: dict[str, Heartbeat] = {}
        self.beats: dict[str, Beats] = {}
        self.events: list[tuple[float, str, PeerUp | PeerDown]] = []
        self.heard: list[tuple[float, str, PeerSaid]] = []
        self.sent: list[tuple[str, bytes]] = []
        self.passes: Callable[[str, bytes], bool] = lambda sender, data: True
        self.frozen: set[str] = set()
        self.busy: set[str] = set()
        self._waiting: list[tuple[str, bytes, float]] = []
        self._queue: list[tuple[float, int, str, bytes]] = []
        self._count = 0
        self._boots = seed * 1000

    def boot(self, name: str, **changes: object) -> Heartbeat:
        self._boots += 1
        self.nodes[name] = Heartbeat(settings(name, **changes), SeededRandom(self._boots))
        self.beats[name] = Beats(SeededRandom(-self._boots))
        return self.nodes[name]

    def kill(self, name: str) -> None:
        del self.nodes[name], self.beats[name]

    def inject(self, target: str, data: bytes) -> None:
        self.beats[target].receive(data, self.now)
        if target in self.busy:
            self._waiting.append((target, data, self.now))
            return
        self.nodes[target].receive(data, self.now, self.now)
        self._drain(target)

    def go_on(self, name: str) -> None:
        """A busy one hears what waits, then looks at the clock (runtime/driver.py)."""
        self.busy.discard(name)
        for target, data, at in self._waiting:
            self.nodes[target].receive(data, self.now, at)
        self._waiting = []
        self.nodes[name].handle_deadline(self.now)
        self._drain(name)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            deadlines = [(at, name) for name in self.nodes if (at := self._deadline(name)) is not None]
            arrival = self._queue[0][0] if self._queue else end + 1
            at, name = min(deadlines, default=(end + 1, ""))
            if min(at, arrival) > end:
                break
            self.now = max(self.now, min(at, arrival))
            if arrival <= at:
                self._arrive()
            else:
                self._wake(name)
        self.now = end

    def _deadline(self, name: str) -> float | None:
        if name in self.frozen:
            return None
        beat = self.beats[name].next_deadline()
        if name in self.busy:
            return beat
        return min(self.nodes[name].next_deadline(), float("inf") if beat is None else beat)

    def _wake(self, name: str) -> None:
        self.beats[name].handle_deadline(self.now)
        if name not in self.busy and self.nodes[name].next_deadline() <= self.now:
            self.nodes[name].handle_deadline(self.now)
        self._drain(name)

    def said(self, name: str) -> list[str]:
        return [("up" if isinstance(e, PeerUp) else e.reason.value) for _, who, e in self.events if who == name]

    def _arrive(self) -> None:
        at, _, target, data = heapq.heappop(self._queue)
        if target in self.frozen:
            self._push(at + 0.05, target, data)  # waits in the socket buffer
        elif target in self.nodes:
            self.inject(target, data)

    def _drain(self, name: str) -> None:
        for effect in self.nodes[name].poll():
            if isinstance(effect, PeerSaid):
                self.heard.append((self.now, name, effect))
                continue
            if isinstance(effect, Arm | Once | Rest):
                self.beats[name].perform(effect, self.now)
            else:
                self.events.append((self.now, name, effect))
        for out in self.beats[name].poll():
            self.sent.append((name, out.data))
            copies = 1 + (self.random.random() < self.duplicate)
            for _ in range(copies):
                if self.passes(name, out.data) and self.random.random() >= self.loss:
                    self._push(self.now + self.random.uniform(*self.delay), OTHER[name], out.data)

    def _push(self, at: float, target: str, data: bytes) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, target, data))
