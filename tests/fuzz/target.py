"""What is fuzzed: a function of octets, what to begin from, and how to alter it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzz.mutation import mutated

Feed = Callable[[bytes], float | None]
"""Raises on a defect. Says how much CPU time the part that counts took, where that is not all of it."""
LIMIT = 0.010
"""Seconds of CPU time that a single input may take."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    feed: Feed
    seeds: Callable[[], Sequence[bytes]]
    mutate: Callable[[bytes, random.Random], bytes] = mutated
    heavy: bool = False
    """Copies a world for each input: fewer of them go into the same time."""

    def __str__(self) -> str:
        return self.name

    def seconds(self, data: bytes) -> float:
        """Of CPU time, of one go."""
        begin = time.process_time()
        taken = self.feed(data)
        return time.process_time() - begin if taken is None else taken

    def judge(self, data: bytes) -> None:
        """One input. What is slow is tried again, so that neighbours on the machine and the garbage collector are not blamed."""
        try:
            taken = self.seconds(data)
            if taken > LIMIT:
                taken = min(self.seconds(data) for _ in range(15))
            assert taken <= LIMIT, f"{taken * 1000:.1f} ms"
        except Exception as error:
            error.add_note(
                f"input of {self.name}, {len(data)} octets, for tests/fuzz/corpus/{self.name}/: {data.hex()}"
            )
            raise
