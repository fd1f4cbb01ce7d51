"""Whether the data plane's threads still turn: behind /healthz and the systemd watchdog.

A worker is stuck when it claims work (not `idle`) and its tick counter stood still for `patience` seconds.
That this code runs at all proves the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.observe.snapshot import WorkerStatus


class Liveness:
    """Remembers when each worker's ticks last moved."""

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self._moved: dict[int, tuple[int, float]] = {}

    def stuck(self, workers: Iterable[WorkerStatus], now: float) -> tuple[int, ...]:
        """The workers that stand still; empty is healthy. Feed it regularly."""
        found = []
        for worker in workers:
            ticks, since = self._moved.get(worker.worker, (-1, now))
            if worker.idle or worker.ticks != ticks:
                since = now
            self._moved[worker.worker] = (worker.ticks, since)
            if now - since > self._patience:
                found.append(worker.worker)
        return tuple(found)
