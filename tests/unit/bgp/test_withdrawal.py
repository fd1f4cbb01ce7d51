"""Withdrawing everything without a speaker: in order, only with answers of one's own, and never for ever."""

from __future__ import annotations

import json
from typing import Any

from support.exabgp_model import neighbor_row

from gateway.bgp.withdrawal import LOOK, PATIENCE, Withdrawal

NEIGHBORS, CLEAR = "show neighbor json", "clear adj-rib out"


def listed(sent: int, *, up: bool = True) -> str:
    row: dict[str, Any] = neighbor_row("10.9.0.2", up=up)
    row["messages"]["sent"]["total"] = sent
    return json.dumps([row])


def test_it_is_done_when_the_counters_of_the_sessions_rest() -> None:
    withdrawal = Withdrawal(0.0)
    assert withdrawal.begin(1, 0.0) == [NEIGHBORS]
    assert withdrawal.receive(listed(5), 0.0) == []
    assert withdrawal.receive("done", 0.0) == [CLEAR]
    assert withdrawal.receive("done", 0.0) == [NEIGHBORS]
    now = 0.0
    for sent in (6, 90, 120):
        withdrawal.receive(listed(sent), now)
        assert withdrawal.receive("done", now) == []
        assert withdrawal.next_deadline() == now + LOOK
        now += LOOK
        assert withdrawal.handle_deadline(now) == [NEIGHBORS]
        assert not withdrawal.done
    withdrawal.receive(listed(120), now)
    withdrawal.receive("done", now)
    assert withdrawal.done


def test_without_a_session_there_is_nobody_to_tell() -> None:
    withdrawal = Withdrawal(0.0)
    withdrawal.begin(1, 0.0)
    withdrawal.receive(listed(5, up=False), 0.0)
    assert withdrawal.receive("done", 0.0) == []
    assert withdrawal.done


def test_answers_to_somebody_elses_commands_and_events_count_for_nothing() -> None:
    withdrawal = Withdrawal(0.0)
    withdrawal.begin(1, 0.0)
    for line in ("done", "error", '{"type": "state"}', "nonsense", "done"):
        assert withdrawal.receive(line, 0.0) == []
    withdrawal.receive(listed(5), 0.0)
    assert withdrawal.receive("done", 0.0) == [CLEAR]


def test_a_new_link_begins_again_and_a_silent_exabgp_is_given_up() -> None:
    withdrawal = Withdrawal(0.0)
    withdrawal.begin(1, 0.0)
    withdrawal.receive(listed(5), 0.0)
    withdrawal.receive("done", 0.0)
    assert withdrawal.begin(2, 1.0) == [NEIGHBORS]
    withdrawal.receive(listed(5), 1.0)
    assert withdrawal.receive("done", 1.0) == [CLEAR]
    assert withdrawal.next_deadline() == PATIENCE
    assert withdrawal.handle_deadline(PATIENCE) == []
    assert withdrawal.done
