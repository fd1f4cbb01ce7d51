"""The machine of the witness on a virtual clock: its clock, its disk, and the process, if there is one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from support.heartbeat_network import SeededRandom

from gateway.contract import Endpoint, Transmit
from gateway.ha.witness_node import ClusterSettings, Persist, Record, WitnessNode

WRITING = (0.0, 0.05)
"""Seconds until a grant is on its disk."""


class Surroundings(Protocol):
    """What it needs of its world."""

    now: float
    seed: int
    chance: random.Random

    def note(self, who: str, text: str) -> None: ...
    def schedule(self, at: float, action: Callable[[], None]) -> None: ...
    def answer(self, datagram: Transmit) -> None:
        """It sends this."""

    def granted(self, record: Record) -> None:
        """It has written this down."""


class WitnessMachine:
    """One cluster, of number 0. `breaks`: whether it lets a lease be taken by force."""

    def __init__(self, world: Surroundings, local: Endpoint, secret: bytes, ttl: float, *, breaks: bool) -> None:
        self.node: WitnessNode | None = None
        self._world, self._local, self._ttl = world, local, ttl
        self._clusters = {0: ClusterSettings((secret,), ttl, breaks)}
        self._records: dict[int, Record] = {}
        self._offset = world.chance.uniform(0, 1e6)
        self._rate = world.chance.uniform(0.995, 1.005)
        self._boots = 0

    @property
    def now(self) -> float:
        return self._offset + self._rate * self._world.now

    def start(self, *, rested: bool = False) -> None:
        """`rested`: long after any lease."""
        if self.node is not None:
            return
        self._boots += 1
        self._world.note("w", "STARTS")
        chance = SeededRandom(self._world.seed * 1000 + self._boots * 10 + 7)
        now = self.now - (self._ttl if rested else 0.0)
        self.node = WitnessNode(self._local, self._clusters, self._records, chance, now)

    def crash(self) -> None:
        self._world.note("w", "CRASHES")
        self.node = None

    def receive(self, datagram: Transmit) -> None:
        if self.node is not None:
            self.node.receive(datagram.data, datagram.local, self.now)
            self._drain(self.node)

    @property
    def wake_at(self) -> float | None:
        """On the clock of the world."""
        due = self.node.next_deadline() if self.node is not None else None
        return None if due is None else max(self._world.now, (due - self._offset) / self._rate)

    def wake(self) -> None:
        assert self.node is not None
        # A clock read after the timer fired: never before what it was set for, whatever the rounding
        self.node.handle_deadline(self.now + 1e-6)
        self._drain(self.node)

    def _drain(self, node: WitnessNode) -> None:
        for effect in node.poll():
            if isinstance(effect, Persist):
                at = self._world.now + self._world.chance.uniform(*WRITING)
                self._world.schedule(at, lambda effect=effect: self._written(node, effect))  # type: ignore[misc]
            else:
                self._world.answer(effect)

    def _written(self, node: WitnessNode, effect: Persist) -> None:
        if node is self.node:
            self._world.note("w", f"grants epoch {effect.record.epoch} to {effect.record.name}")
            self._world.granted(effect.record)
            self._records = {**self._records, effect.cluster: effect.record}
            node.persisted(effect.ticket, self.now)
            self._drain(node)
