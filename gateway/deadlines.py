"""The earliest of many deadlines, for cores that hold thousands of things with a timer each.

The owner says `touch(key)` whenever the deadline of `key` may have changed; it is computed again only then, and only
when somebody asks. Not a clock and not a scheduler: nothing happens here by itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """A heap whose outdated entries are dropped when they come up; `of` gives a key's deadline, None for none."""

    def __init__(self, of: Callable[[Key], float | None]) -> None:
        self._of = of
        self._touched: dict[Key, None] = {}  # a set in order of insertion
        self._at: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._entries = 0

    def touch(self, key: Key) -> None:
        """Its deadline may be another one now."""
        self._touched[key] = None

    def earliest(self) -> float | None:
        """The first deadline of all."""
        self._follow()
        while self._heap and self._at.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, now: float, limit: int | None = None) -> list[Key]:
        """What is due, earliest first, at most so many; due again at the next call unless its deadline changed."""
        found: dict[Key, None] = {}
        while len(found) != limit and (at := self.earliest()) is not None and at <= now:
            key = heapq.heappop(self._heap)[2]
            del self._at[key]
            found[key] = None
        self._touched.update(found)
        return list(found)

    def _follow(self) -> None:
        for key in self._touched:
            at = self._of(key)
            if at is None:
                self._at.pop(key, None)
            elif self._at.get(key) != at:
                self._at[key] = at
                self._entries += 1  # breaks ties in order of arrival: keys need no order
                heapq.heappush(self._heap, (at, self._entries, key))
        self._touched.clear()
        if len(self._heap) > 64 + 2 * len(self._at):
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
