"""What differs between wanted and installed, kept in the order in which it is to be put right.

Sorting all that differs for every batch would cost more than the batch, so keys are filed as they come. A key stands once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.routing.model import Key


class Rank(NamedTuple):
    """Stage by stage (plan.py), and within a stage by `order`."""

    stage: int
    order: int = 0


class Dirty:
    """A set of keys, iterated by rank and then in order of insertion."""

    def __init__(self) -> None:
        self._ranks: dict[Key, Rank] = {}
        self._files: dict[Rank, dict[Key, None]] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._ranks

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[Key]:
        for rank in sorted(self._files):
            yield from self._files[rank]

    def put(self, key: Key, rank: Rank) -> None:
        known = self._ranks.setdefault(key, rank)
        if known is not rank:
            if known == rank:
                return
            self._take(key, known)
            self._ranks[key] = rank
        file = self._files.get(rank)
        if file is None:
            file = self._files[rank] = {}
        file[key] = None

    def discard(self, key: Key) -> None:
        known = self._ranks.pop(key, None)
        if known is not None:
            self._take(key, known)

    def of_stage(self, stage: int) -> Iterator[Key]:
        for rank in sorted(self._files):
            if rank.stage == stage:
                yield from self._files[rank]

    def keys(self) -> set[Key]:
        return set(self._ranks)

    def _take(self, key: Key, rank: Rank) -> None:
        file = self._files[rank]
        del file[key]
        if not file:
            del self._files[rank]
