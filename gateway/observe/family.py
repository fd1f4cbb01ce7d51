"""What a Prometheus series is made of: a family with its labels, and the samples a snapshot has for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gateway.observe.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram: how many were at most that large, for each bound, and the sum of all."""

    buckets: tuple[tuple[str, float], ...]
    total: float


Sample = tuple[tuple[str, ...], float | Distribution]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `samples` yields (label values, value) in the order of `labels`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Snapshot], Iterable[Sample]]


def wall(snapshot: Snapshot, at: float | None) -> float:
    """UNIX time of an instant of the node's clock; 0 for never. Tenths, so that two scrapes agree about one event."""
    if at is None:
        return 0.0
    return round(datetime.fromisoformat(snapshot.taken_at).timestamp() - (snapshot.now - at), 1)
