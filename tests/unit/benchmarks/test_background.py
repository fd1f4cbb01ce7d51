"""The cores' use by others: read right, and told."""

from __future__ import annotations

import pytest

from benchmarks import background
from benchmarks.report import background as told
from benchmarks.result import Result

_BEFORE = """cpu  1000 0 500 9000 100 0 50 0 300 0
cpu0 600 10 300 4000 90 5 40 7 300 0
cpu1 400 0 200 5000 10 0 10 0 0 0
cpu2 0 0 0 9999 0 0 0 0 0 0
intr 12345 0 9
"""
_AFTER = """cpu  1000 0 500 9000 100 0 50 0 300 0
cpu0 603 11 301 4003 91 6 41 8 303 0
cpu1 400 0 200 5010 10 0 10 0 0 0
cpu2 700 0 0 9999 0 0 0 0 0 0
intr 99999 0 9
"""


def test_only_the_cores_in_use_count_and_waiting_is_idle() -> None:
    readings = [background._ticks(text, {0, 1}) for text in (_BEFORE, _AFTER)]
    assert readings[0] == (600 + 10 + 300 + 5 + 40 + 7 + 400 + 200 + 10, 600 + 10 + 300 + 4090 + 52 + 5620)
    # 3 user, 1 nice, 1 system, 1 irq, 1 softirq, 1 stolen of 12 + 10 ticks; guest time is in user time
    assert background.share(*readings) == pytest.approx(8 / 22)


def test_without_a_tick_between_nobody_was_busy() -> None:
    assert background.share((5, 10), (5, 10)) == 0.0


def test_the_real_machine_gives_a_share() -> None:
    assert 0.0 <= background.background_share() <= 1.0


def _result(*shares: float) -> Result:
    return Result("a", "", None, ((1.0, 1.0),), details=[{"machine": {"background": share}} for share in shares])


def test_a_busy_machine_is_told_beside_the_figures() -> None:
    assert told([_result(0.0, 0.02, 0.6)]) == "others took 2% of the cores before a round (median), 60% at most\n"
    assert "do not trust" in told([_result(0.5, 0.2, 0.6)])
    assert told([Result("a", "", None, status="failed", reason="why")]) == ""
