"""Who calls without being a peer is remembered within bounds, and is news when it shows and at most once a second."""

from __future__ import annotations

from gateway.ike.strangers import RECENT, Strangers


def test_a_call_is_news_once_and_forgotten_later() -> None:
    strangers = Strangers()
    assert strangers.called("10.0.0.1", "192.0.2.7", 5.0)
    assert not strangers.called("10.0.0.1", "192.0.2.7", 7.0)
    assert strangers.caller("10.0.0.1", 8.0) == "192.0.2.7"
    assert strangers.caller("10.0.0.2", 8.0) == ""
    assert strangers.until("10.0.0.1") == 7.0 + RECENT
    assert strangers.caller("10.0.0.1", 7.0 + RECENT) == ""
    assert strangers.called("10.0.0.1", "192.0.2.7", 8.0 + RECENT)


def test_a_flood_of_addresses_is_bounded_and_news_once_a_second() -> None:
    strangers = Strangers()
    news = sum(strangers.called("10.0.0.1", f"192.0.2.{number}", 1.0 + number / 100) for number in range(250))
    assert news <= 4
    assert list(strangers._callers) == ["10.0.0.1"]


def test_who_is_shown_changes_only_with_news() -> None:
    strangers, shown = Strangers(), {"10.0.0.1": "", "10.0.0.2": ""}
    for step in range(400):
        now, local = 1.0 + step * 0.13, f"10.0.0.{1 + step % 2}"
        if strangers.called(local, f"192.0.2.{step % 3}", now):
            shown[local] = strangers.caller(local, now)
        assert shown == {one: strangers.caller(one, now) for one in shown}
    assert all(shown.values()), "each was told at last, though the other one came first"
