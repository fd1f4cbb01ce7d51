"""How many IKE_SAs a connection may have, and which goes for another (RFC 7296 2.4, 2.8; RFC 8019 5)."""

from __future__ import annotations

import pytest
from support.ike_pair import LEFT, NAME, RIGHT, Flight, Host, Pair, connection

from gateway.ike.commands import CheckLiveness, Initiate
from gateway.ike.events import IkeDown, IkeUp
from gateway.ike.registry import ExchangeType
from gateway.ike.states import Standing
from gateway.ike.uniqueness import IKE_SAS_MAX

AUTH, INFO = ExchangeType.IKE_AUTH, ExchangeType.INFORMATIONAL


def set_up(pair: Pair, host: Host, times: int = 1) -> None:
    """Another IKE_SA beside those that there are: without INITIAL_CONTACT, for there is one."""
    for _ in range(times):
        settings = connection(host.address, pair.peer_of(host).address)
        host.core.begin(settings, pair.now)
        pair.drain()
        pair.settle()


def deaf(flight: Flight) -> Flight | None:
    """No INFORMATIONAL gets through: no liveness check, no DELETE."""
    return None if flight.transmit is not None and flight.message.header.exchange == INFO else flight


def is_answer_to_auth(flight: Flight) -> bool:
    header = flight.message.header
    return header.exchange == AUTH and header.is_response


def test_a_peer_that_never_answers_cannot_pile_up_ike_sas_by_ike_auth() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(CheckLiveness(NAME))
    pair.settle()
    carrying = pair.right.sa
    pair.rewrite = deaf
    set_up(pair, pair.left, 50)
    assert len(pair.right.sas) == len(pair.right.data_plane.inbound) == IKE_SAS_MAX
    # What it works on stays, and of the others the newest
    assert pair.right.sa is carrying
    assert carrying.standing is Standing.PROVEN
    newest = {sa.initiator_spi for sa in pair.left.sas[-IKE_SAS_MAX + 1 :]}
    assert {sa.initiator_spi for sa in pair.right.sas} == {carrying.initiator_spi, *newest}
    assert not pair.right.rejected


@pytest.mark.parametrize("lost", ["its answers", "nothing"])
def test_an_honest_peer_gets_in_after_as_many_attempts_as_it_takes(lost: str) -> None:
    """Our answers to its IKE_AUTH are lost for a while, or it uses each of the many for a while; then one is the one that both use."""
    pair = Pair()
    pair.establish()
    for _ in range(3 * IKE_SAS_MAX):
        pair.rewrite = (lambda flight: None if is_answer_to_auth(flight) else flight) if lost != "nothing" else deaf
        set_up(pair, pair.left)
        pair.now += 0.1
        assert len(pair.right.sas) <= IKE_SAS_MAX
    assert not [event for event in pair.left.seen(IkeDown) if "REFUSED" in event.reason or "FAILED" in event.reason]
    pair.rewrite = lambda flight: flight
    set_up(pair, pair.left)
    pair.run(120)
    pair.assert_agreed()


def test_a_peer_that_answers_cannot_pile_them_up_either() -> None:
    """All but the newest are closed after some seconds; until then they are as many."""
    pair = Pair()
    pair.establish()
    set_up(pair, pair.left, 50)
    assert len(pair.right.sas) == IKE_SAS_MAX
    assert {sa.standing for sa in pair.right.sas} == {Standing.PROVEN}
    pair.assert_flowing()
    pair.run(120)
    pair.assert_agreed()


def test_what_goes_for_another_is_no_news_and_takes_its_child_sas_along() -> None:
    pair = Pair()
    pair.establish()
    pair.rewrite = deaf
    set_up(pair, pair.left, 2 * IKE_SAS_MAX)
    gone = pair.right.seen(IkeDown)
    assert len(gone) == IKE_SAS_MAX + 1
    assert {event.reason for event in gone} == {""}
    held = {spi for sa in pair.right.sas for spi in sa.children}
    assert set(pair.right.data_plane.inbound) == held, "nor does it linger"
    assert not pair.right.sa.lingering


def test_where_none_can_go_the_new_one_is_refused() -> None:
    """Those that we initiated the peer holds: one of them is going to carry the connection."""
    pair = Pair()
    pair.rewrite = deaf
    set_up(pair, pair.right, IKE_SAS_MAX)
    assert {sa.standing for sa in pair.right.sas} == {Standing.HELD}
    before = pair.right.sas
    set_up(pair, pair.left)
    assert pair.right.sas == before
    assert pair.right.rejected == {"too_many_sas": 1}
    (event,) = [one for one in pair.left.seen(IkeDown) if one.initiated]
    assert event.reason != ""
    assert sum(sa.is_initiator for sa in pair.left.sas) == 0, "RFC 7296 2.21.2: it knows that there is none"
    pair.rewrite = lambda flight: flight
    pair.run(180)
    pair.assert_agreed()


def test_half_open_ike_sas_are_not_among_them() -> None:
    pair = Pair()
    pair.right.command(Initiate(NAME))
    pair.settle()
    pair.rewrite = lambda flight: None if flight.message.header.exchange == AUTH else flight
    for _ in range(2 * IKE_SAS_MAX):
        pair.left.core.begin(connection(LEFT, RIGHT), pair.now)
        pair.drain()
        pair.settle()
    assert pair.right.core.half_open == 2 * IKE_SAS_MAX
    pair.rewrite = lambda flight: flight
    set_up(pair, pair.left)
    assert len(pair.right.seen(IkeUp)) == 2
    assert not pair.right.seen(IkeDown)
