"""A simulator is worth what it catches: one defect at a time, within so many schedules, by what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from simulation.world import SimulationFailure

SCHEDULES = 200

Play = Callable[[int], object]
"""Plays the schedule of a seed; SimulationFailure with the ladder when an invariant breaks."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """`apply` makes the defect, `caught_by` is a part of what the simulator must say."""

    apply: Callable[[pytest.MonkeyPatch], None]
    caught_by: str


def catch(mutation: Mutation, play: Play) -> None:
    """Fails unless the defect, made already, is caught for what it is."""
    for seed in range(SCHEDULES):
        if ladder := _failure(play, seed):
            why = ladder.splitlines()[0]
            assert re.search(mutation.caught_by, why), f"caught by something else: {why}"
            print(f"caught by schedule {seed}: {why}")
            return
    pytest.fail(f"not caught within {SCHEDULES} schedules")


def ladder_that_replays(play: Play) -> tuple[int, str]:
    """The first seed that fails, and its ladder, which is the same when it is played again."""
    seed, first = next((seed, found) for seed in range(SCHEDULES) if (found := _failure(play, seed)))
    assert first == _failure(play, seed)
    return seed, first


def _failure(play: Play, seed: int) -> str:
    try:
        play(seed)
    except SimulationFailure as failure:
        return str(failure)
    return ""
