"""Prefixes learned in tunnels, between the FIB that keeps them closed, the speaker that must know, and the file that outlives us."""

from __future__ import annotations

from gateway.bgp.events import Close
from gateway.bgp.speaker import Speaker
from gateway.node.effects import SaveGuard
from gateway.routing.fib import Fib
from gateway.routing.model import Forget, Keep, Prefix

SAVE_DELAY = 1.0
"""Seconds between a change of the guard and its being written down; often many changes come together."""


class Learned:
    """`earlier`: what an earlier process learned. `save_at`: when the guard is to be written down, None: it is."""

    def __init__(self, fib: Fib, earlier: tuple[Prefix, ...]) -> None:
        self.save_at: float | None = None
        self._fib = fib
        self._earlier = earlier

    def begin(self, now: float) -> None:
        """Before the first route."""
        self._fib.command(Keep(self._earlier), now)

    def changed(self, now: float, delay: float = SAVE_DELAY) -> None:
        """The guard is another one than was written down."""
        if self.save_at is None:
            self.save_at = now + delay

    def take_news(self, speaker: Speaker | None, now: float) -> bool:
        """What led into a tunnel for the first time: no path in clear is to take its place."""
        news = tuple(self._fib.kept.news())
        if not news:
            return False
        if speaker is not None:
            speaker.command(Close(news), now)
        self.changed(now)
        return True

    def forget(self, prefixes: tuple[Prefix, ...], speaker: Speaker | None, now: float) -> None:
        self._fib.command(Forget(prefixes), now)
        if speaker is not None:
            speaker.command(Close(prefixes, closed=False), now)
        self.changed(now)

    def due(self, now: float) -> SaveGuard | None:
        """What is to be written down now."""
        if self.save_at is None or now < self.save_at:
            return None
        self.save_at = None
        return SaveGuard(self._fib.guard_entries, tuple(self._fib.kept))
