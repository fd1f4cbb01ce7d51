from __future__ import annotations

from gateway.observe.liveness import Liveness
from gateway.observe.snapshot import WorkerStatus


def workers(ticks: int, idle: bool = False) -> list[WorkerStatus]:
    return [WorkerStatus(0, 5, 0.0, idle=True), WorkerStatus(1, ticks, 0.0, idle=idle)]


def test_a_busy_worker_whose_ticks_stand_still_is_stuck_and_recovers():
    liveness = Liveness(patience=5)
    assert liveness.stuck(workers(10), now=0.0) == ()
    assert liveness.stuck(workers(10), now=5.0) == ()
    assert liveness.stuck(workers(10), now=5.1) == (1,)
    assert liveness.stuck(workers(11), now=6.0) == ()


def test_an_idle_worker_is_never_stuck_and_gets_full_patience_when_it_wakes():
    liveness = Liveness(patience=5)
    for now in (0.0, 50.0, 100.0):
        assert liveness.stuck(workers(10, idle=True), now=now) == ()
    assert liveness.stuck(workers(10, idle=False), now=104.0) == ()
    assert liveness.stuck(workers(10, idle=False), now=106.0) == (1,)
