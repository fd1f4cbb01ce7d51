"""Ids of our nexthop objects, out of a range of this FIB's own: those never used first, then those given back, the oldest first.

So an id has another meaning as late as can be, for whoever reads about it in a log. When one may be given back is the FIB's
to know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Identifiers:
    """From `first` up to `end`, that not included."""

    def __init__(self, first: int, end: int) -> None:
        self._next, self._end = first, end
        self._avoid: set[int] = set()  # of what is to come
        self._free: deque[int] = deque()

    def avoid(self, used: Iterable[int]) -> None:
        """Never to be handed out: in use by an earlier process of ours or by anyone."""
        self._avoid = {one for one in used if self._next <= one < self._end}

    def left(self, count: int) -> bool:
        """Whether there are so many."""
        return self._end - self._next - len(self._avoid) + len(self._free) >= count

    def take(self) -> int:
        """One that nobody has. There must be one `left`."""
        while self._next < self._end:
            self._next += 1
            if self._next - 1 not in self._avoid:
                return self._next - 1
            self._avoid.remove(self._next - 1)
        return self._free.popleft()

    def give_back(self, identifiers: Iterable[int]) -> None:
        """The kernel holds nothing by these."""
        self._free.extend(identifiers)
