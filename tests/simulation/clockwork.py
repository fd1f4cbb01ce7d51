"""Virtual time of a simulated pair: what is to happen and when, the machines' own timers beside it, and faults that end together."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Self


class Clockwork:
    """`now` in seconds. Whoever derives says whose timers there are, what a timer does, and what is asked after each step."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def schedule(self, at: float, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, action))

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """An end of a fault: none of these is left when all faults are over."""
        self.schedule(self.now + seconds, _Fault(action))

    def drop_faults(self) -> None:
        """Nothing of what `later` was told comes any more."""
        self._queue = [entry for entry in self._queue if not isinstance(entry[2], _Fault)]
        heapq.heapify(self._queue)

    def run(self, seconds: float) -> Self:
        self.run_until(lambda: False, seconds)
        return self

    def run_until(self, condition: Callable[[], bool], within: float) -> bool:
        """Until the condition holds; False when the time is over before."""
        end = self.now + within
        while not condition():
            at, name = min(((at, name) for at, name in self._timers() if at is not None), default=(end + 1, ""))
            if self._queue and self._queue[0][0] <= at:
                at, name = self._queue[0][0], ""
            if at > end:
                self.now = end
                return condition()
            self.now = max(self.now, at)
            self.guarded(lambda name=name: self._ring(name) if name else heapq.heappop(self._queue)[2]())  # type: ignore[misc]
        return True

    def guarded(self, action: Callable[[], object]) -> None:
        """Does it, and looks whether all still holds."""
        raise NotImplementedError

    def _timers(self) -> Sequence[tuple[float | None, str]]:
        """Of each machine by name: when it wants to be woken, on this clock."""
        raise NotImplementedError

    def _ring(self, name: str) -> None:
        """That time has come."""
        raise NotImplementedError


class _Fault:
    """What is dropped when all faults are over."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def __call__(self) -> None:
        self._action()
