"""Bounded, limited in rate by (event, tunnel), and nothing suppressed is forgotten."""

from __future__ import annotations

from gateway.observe.journal import Journal


def test_the_newest_entries_are_kept():
    journal = Journal(capacity=3)
    for n in range(5):
        journal.record(f"event-{n}", "text", now=float(n))
    assert [entry.event for entry in journal.entries()] == ["event-2", "event-3", "event-4"]


def test_a_flood_becomes_one_summary():
    journal = Journal(burst=2, interval=60)
    written = [journal.record("auth-failed", "bad", now=float(n), tunnel="a", level="warning") for n in range(10)]
    assert [len(entries) for entries in written] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert journal.next_deadline() == 60.0
    assert journal.flush(59.9) == []
    (summary,) = journal.flush(60.0)
    assert (summary.text, summary.event, summary.tunnel, summary.level) == (
        "suppressed 8 similar",
        "auth-failed",
        "a",
        "warning",
    )
    assert journal.next_deadline() is None
    assert len(journal.record("auth-failed", "bad", now=61.0, tunnel="a")) == 1, "a new window passes again"


def test_the_summary_comes_before_the_event_that_ends_the_window():
    journal = Journal(burst=1, interval=10)
    journal.record("e", "first", now=0.0)
    journal.record("e", "second", now=1.0)
    assert [entry.text for entry in journal.record("e", "third", now=11.0)] == ["suppressed 1 similar", "third"]


def test_tunnels_and_events_do_not_share_a_limit():
    journal = Journal(burst=1)
    assert journal.record("e", "x", now=0.0, tunnel="a")
    assert journal.record("e", "x", now=0.0, tunnel="b")
    assert journal.record("f", "x", now=0.0, tunnel="a")
    assert journal.record("e", "x", now=0.0, tunnel="a") == []


def test_one_failure_often_said_does_not_hide_another_one():
    journal = Journal(burst=1)
    assert journal.record("ike-down", "x", now=0.0, tunnel="a", kind="NO_PROPOSAL_CHOSEN")
    assert journal.record("ike-down", "x", now=0.0, tunnel="a", kind="NO_PROPOSAL_CHOSEN") == []
    assert journal.record("ike-down", "y", now=0.0, tunnel="a", kind="AUTHENTICATION_FAILED")


def test_memory_is_bounded_by_kinds_and_a_displaced_summary_is_kept():
    journal = Journal(burst=1, kinds=4)
    journal.record("e", "x", now=0.0, tunnel="t0")
    journal.record("e", "x", now=0.0, tunnel="t0")
    for n in range(1, 100):
        journal.record("e", "x", now=float(n) / 100, tunnel=f"t{n}")
    assert len(journal._windows) == 4
    assert [entry.tunnel for entry in journal.entries() if entry.text == "suppressed 1 similar"] == ["t0"]


def test_peer_text_is_escaped():
    journal = Journal()
    (entry,) = journal.record("e", "id \x1b[31m\u202e\nforged line", now=0.0)
    assert entry.text == "id \\x1b[31m\\u202e\\nforged line"
