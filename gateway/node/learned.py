"""Prefixes learned in tunnels, between the FIBs that keep them closed, the speaker that must know, and the file that outlives us."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.bgp.events import Close
from gateway.bgp.speaker import Speaker
from gateway.node.effects import SaveGuard, TableGuard
from gateway.node.instances import InstanceSettings
from gateway.node.tables import OWN, Tables
from gateway.routing.model import Forget, Keep, Prefix

SAVE_DELAY = 1.0
"""Seconds between a change of the guard and its being written down; often many changes come together."""


class Learned:
    """`earlier`: what an earlier process learned, by instance. `save_at`: when the guard is to be written down, None: it is."""

    def __init__(self, tables: Tables, earlier: Mapping[str, tuple[Prefix, ...]]) -> None:
        self.save_at: float | None = None
        self._tables = tables
        self._earlier = dict(earlier)

    def adopt(self, instances: Iterable[InstanceSettings], now: float) -> None:
        """The tables there shall be. An instance that comes back finds what it had learned before it went."""
        self._earlier |= self._tables.kept()
        for name in self._tables.adopt(instances, now):
            self._begin(name, now)

    def start(self, instances: Iterable[InstanceSettings], now: float) -> None:
        """Before the first route of any table."""
        self._begin(OWN, now)
        for name in self._tables.adopt(instances, now):
            self._begin(name, now)

    def _begin(self, instance: str, now: float) -> None:
        self._tables[instance].command(Keep(self._earlier.get(instance, ())), now)

    def changed(self, now: float, delay: float = SAVE_DELAY) -> None:
        """The guard is another one than was written down."""
        if self.save_at is None:
            self.save_at = now + delay

    def take_news(self, speaker: Speaker | None, now: float) -> bool:
        """What led into a tunnel for the first time: no path in clear is to take its place."""
        taken = False
        for instance in self._tables:
            news = tuple(self._tables[instance].kept.news())
            if news:
                taken = True
                if speaker is not None:
                    speaker.command(Close(news, instance=instance), now)
                self.changed(now)
        return taken

    def forget(self, prefixes: tuple[Prefix, ...], instance: str, speaker: Speaker | None, now: float) -> None:
        fib = self._tables.get(instance)
        if fib is None:
            return
        fib.command(Forget(prefixes), now)
        if speaker is not None:
            speaker.command(Close(prefixes, closed=False, instance=instance), now)
        self.changed(now)

    def due(self, now: float) -> SaveGuard | None:
        """What is to be written down now."""
        if self.save_at is None or now < self.save_at:
            return None
        if not self._tables.synchronised:
            # A new instance's: before its table is read its guard is empty, and nobody would say when it is not
            self.save_at = now + SAVE_DELAY
            return None
        return self._save()

    def last(self) -> SaveGuard | None:
        """What is to be written down sooner or later, and there is no later."""
        return self._save() if self.save_at is not None and self._tables.synchronised else None

    def _save(self) -> SaveGuard:
        self.save_at = None
        return SaveGuard(tuple(self._guard_of(name, instance) for name, instance in self._tables.settings.items()))

    def _guard_of(self, name: str, instance: InstanceSettings | None) -> TableGuard:
        fib = self._tables[name]
        return TableGuard(fib.guard_entries, tuple(fib.kept), instance)
