"""The highest rate at which little enough is lost, found by trying. Pure: what is tried is given.

A rate that could not even be offered says nothing about the one who was to carry it. So the search goes on until packets
are lost; where the sender gives up first, what was carried is only a lower bound, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Quantities = dict[str, float]
Attempt = Callable[[float], "Quantities | None"]  # None: too much was lost at this rate

_LEAST = 500.0  # packets a second
_BACK = 0.7
_RISE = 1.02  # a higher rate asked for that raises what is offered by less is the sender's limit
_PATIENCE = 3  # such rates in a row


@dataclass(frozen=True, slots=True)
class Found:
    """`rate` was asked for; `quantities` are those of the best attempt, by `mpps`."""

    rate: float
    quantities: Quantities
    sender_bound: bool  # nothing was lost at any rate the sender managed: a lower bound


def highest_rate(attempt: Attempt, first: float, factors: Sequence[float]) -> Found | None:
    """From `first` upwards by each of the factors in turn, as long as it goes; None: even the least rate loses."""
    rate = first
    best = attempt(rate)
    lost = best is None
    while best is None:
        rate *= _BACK
        if rate < _LEAST:
            return None
        best = attempt(rate)
    for factor in factors:
        idle, tried = 0, rate
        while idle < _PATIENCE:
            tried *= factor
            higher = attempt(tried)
            if higher is None:
                lost = True
                break
            idle = 0 if higher["offered"] > best["offered"] * _RISE else idle + 1
            if higher["mpps"] > best["mpps"]:
                rate, best = tried, higher
    return Found(rate, best, not lost)
