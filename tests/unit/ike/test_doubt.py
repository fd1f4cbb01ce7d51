"""What a peer may have lost is asked about at once, and another IKE_SA begun beside it; nobody's word in clear ends anything (RFC 7296
2.4, 2.21.4)."""

from __future__ import annotations

from collections import Counter

import pytest
from support.ike_pair import CHILD, NAME, Flight, Host, Pair, connection, in_clear, snapshot

from gateway.ike import doubt
from gateway.ike.commands import CheckLiveness, Configure, Rekey, TrafficSeen
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.events import IkeDown, IkeUp
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.sa import IkeSa

INFO = ExchangeType.INFORMATIONAL
AWAY = 60.0
SOON = 1.0 + 1.6 + 0.1
"""Seconds for the repetitions before another IKE_SA is begun."""


def crash(pair: Pair, host: Host) -> None:
    """It forgets everything, and has no token to show (RFC 6290)."""
    host.core = IkeEndpoint(host.random, host.core.key_exchanges)
    host.data_plane = type(host.data_plane)()
    host.random._random.seed(pair.now)
    pair.configure(host, dpd_delay=10.0)


def stands_still(pair: Pair, seconds: float = AWAY) -> None:
    """The left end does; the right one's time passes, and what it sends meanwhile waits in flight."""
    until = pair.now + seconds
    while (due := pair.right.core.next_deadline()) is not None and due <= until:
        pair.now = max(pair.now, due)
        pair.right.core.handle_deadline(pair.now)
    pair.now = until


def exchanges(pair: Pair) -> list[str]:
    """What the left end sent that is in flight still."""
    sent = [flight for flight in pair.in_flight if flight.transmit is not None and flight.receiver is pair.right]
    return [flight.message.header.exchange.name for flight in sent]


def begun(pair: Pair) -> int:
    """IKE_SAs of the left end that are not established yet."""
    return sum(not sa.established for sa in pair.left.sas)


def lost_while_away() -> tuple[Pair, int]:
    """The peer gave us up while we stood still. And the SPI of what it has lost."""
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    old = pair.left.sa.initiator_spi
    pair.now += AWAY
    crash(pair, pair.right)
    return pair, old


def test_what_was_lost_meanwhile_is_replaced_within_seconds() -> None:
    pair, old = lost_while_away()
    pair.fire()
    assert exchanges(pair) == ["INFORMATIONAL"]
    pair.run(SOON)
    assert pair.left.sa.initiator_spi != old
    assert pair.left.sa.initiator_spi == pair.right.sa.initiator_spi
    pair.assert_flowing()
    pair.run(60)
    pair.assert_agreed()
    assert [event.rekeyed for event in pair.left.seen(IkeUp)] == [False, False]
    # Of the old one nobody hears as a failure: the connection has another
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["DPD_TIMEOUT"]


def test_a_peer_that_has_it_still_answers_and_that_is_all() -> None:
    pair = Pair(dpd_delay=30.0)
    pair.establish()
    old = pair.left.sa.initiator_spi
    pair.now += AWAY
    pair.fire()
    assert exchanges(pair) == ["INFORMATIONAL"]
    pair.run(AWAY)
    pair.assert_agreed()
    assert pair.left.sa.initiator_spi == old
    assert len(pair.left.seen(IkeUp)) == 1


def test_less_than_a_stand_still_is_none() -> None:
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    pair.run(8.0)
    pair.now += doubt.STOOD_STILL + 1.0
    pair.fire()
    (sa,) = pair.left.sas
    assert sa.window.pending is not None  # the ordinary liveness check
    assert sa.window.pending.doubted_from is None


def test_a_quiet_time_without_anything_to_do_is_none() -> None:
    pair = Pair(dpd_delay=100.0)
    pair.establish()
    pair.now += 90.0
    pair.left.command(TrafficSeen(NAME))
    assert pair.in_flight == []
    assert not pair.left.sa.window.doubted


def test_what_the_peer_sent_before_it_gave_up_calms_nobody() -> None:
    """Its liveness checks and its ESP wait where they are read after the stand-still: we answer, and ask."""
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    old = pair.left.sa.initiator_spi
    stands_still(pair, 20.0)
    pair.drain()
    (waiting,) = {flight.octets: flight for flight in pair.in_flight if flight.receiver is pair.left}.values()
    pair.in_flight.clear()
    pair.now += AWAY
    crash(pair, pair.right)
    pair.receive(pair.left, waiting.octets)
    (child,) = pair.left.sa.children
    pair.left.command(TrafficSeen(NAME, frozenset({child})))
    assert pair.left.sa.last_heard == pair.now
    pair.in_flight.clear()
    pair.fire()
    pair.drain()
    assert exchanges(pair) == ["INFORMATIONAL"]
    pair.run(SOON)
    assert pair.left.sa.initiator_spi != old
    pair.assert_flowing()


@pytest.mark.parametrize("first", [CheckLiveness(NAME), Rekey(NAME), Rekey(NAME, CHILD)])
def test_whatever_is_asked_first_after_it_tells_as_much(first: CheckLiveness | Rekey) -> None:
    """A probe inside the tunnel that finds it silent asks for a check, or a rekey is due, before our own timer is served."""
    pair, old = lost_while_away()
    pair.left.command(first)
    pair.run(SOON)
    assert pair.left.sa.initiator_spi != old
    pair.assert_flowing()


def test_an_answer_from_before_is_followed_by_a_question_of_now() -> None:
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    pair.left.command(CheckLiveness(NAME))
    pair.drain()
    pair.deliver()  # the request; the answer waits
    (answer,) = pair.in_flight
    pair.in_flight.clear()
    pair.now += AWAY
    pair.receive(pair.left, answer.octets)
    pair.fire()
    pair.drain()
    (asked,) = [flight for flight in pair.in_flight if flight.receiver is pair.right]
    assert asked.message.header.message_id == answer.message.header.message_id + 1


def test_what_was_under_way_counts_from_the_stand_still() -> None:
    """A request that was repeated before is not yet one that nobody answers."""
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    pair.left.command(CheckLiveness(NAME))
    pair.silence(6.0)
    (sa,) = pair.left.sas
    assert sa.window.pending is not None
    before = sa.window.pending.tries
    assert before >= doubt.TRIES
    pair.now += AWAY
    pair.fire()
    assert sa.window.pending.tries == before + 1
    assert begun(pair) == 0
    pair.in_flight.clear()
    pair.silence(20.0)
    assert begun(pair) == 1


def test_without_a_peer_it_ends_when_it_would_have() -> None:
    """The other attempt goes on as the one to come back by."""
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    pair.now += AWAY
    pair.fire()
    pair.in_flight.clear()
    pair.silence(37.0)
    assert [event.reason for event in pair.left.seen(IkeDown)] == []
    pair.silence(6.0)
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["DPD_TIMEOUT"]
    assert begun(pair) == 1


def test_somebody_who_does_not_prove_himself_takes_no_place() -> None:
    pair, old = lost_while_away()
    pair.right.command(
        Configure((connection(pair.right.address, pair.left.address, psk=b"another secret", dpd_delay=10.0),))
    )
    pair.run(SOON)
    assert pair.left.sa.initiator_spi == old
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["AUTHENTICATION_FAILED_RECEIVED"]


# --- INVALID_IKE_SPI in clear -------------------------------------------------------------------------------------------------------


def denying(pair: Pair, theirs: IkeSa, *, answered: bool) -> Counter[str]:
    """Who is on the way says of each request of the left end that the IKE_SA is unknown; `theirs` is the peer's; whether it is reached all
    the same. Counts what the left end sends."""
    sent: Counter[str] = Counter()

    def deny(flight: Flight) -> Flight | None:
        header = flight.message.header
        if flight.receiver is pair.left or header.is_response:
            return flight if answered else None
        sent[header.exchange.name] += 1
        if header.exchange == INFO:
            pair.receive(
                pair.left,
                in_clear(theirs, INFO, (Notify(NotifyType.INVALID_IKE_SPI),), header.message_id, True),
            )
        return flight if answered else None

    pair.rewrite = deny
    return sent


def test_who_says_so_while_the_peer_answers_achieves_nothing() -> None:
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    old = pair.left.sa.initiator_spi
    sent = denying(pair, pair.right.sa, answered=True)
    pair.run(120)
    pair.assert_agreed()
    assert pair.left.sa.initiator_spi == old
    assert set(sent) == {"INFORMATIONAL"}


def test_who_says_so_of_a_silent_peer_has_one_attempt_made_and_ends_nothing_earlier() -> None:
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    denying(pair, pair.right.sa, answered=False)
    pair.left.command(CheckLiveness(NAME))
    pair.run(35.0)
    assert begun(pair) == 1
    assert pair.left.seen(IkeDown) == []
    pair.run(10.0)
    assert "DPD_TIMEOUT" in [event.reason for event in pair.left.seen(IkeDown)]


def test_a_peer_that_says_so_and_is_right_gets_a_new_one() -> None:
    """As peers do that know no RFC 6290."""
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    old = pair.left.sa.initiator_spi
    sent = denying(pair, pair.right.sa, answered=True)
    crash(pair, pair.right)
    pair.left.command(CheckLiveness(NAME))
    pair.run(SOON)
    assert pair.left.sa.initiator_spi != old
    assert sent["IKE_SA_INIT"] == 1
    pair.assert_flowing()


@pytest.mark.parametrize(("kind", "ahead", "response"), [
    (NotifyType.INVALID_IKE_SPI, 1, True),
    (NotifyType.INVALID_IKE_SPI, 0, False),
    (NotifyType.INVALID_SPI, 0, True),
])  # fmt: skip
def test_what_is_no_answer_to_what_we_ask_is_not_even_a_hint(kind: NotifyType, ahead: int, response: bool) -> None:
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    pair.left.command(CheckLiveness(NAME))
    pair.drain()
    (sa,) = pair.left.sas
    assert sa.window.pending is not None
    number = sa.window.pending.message_id + ahead
    before = snapshot(pair.left.core)
    pair.receive(pair.left, in_clear(pair.right.sa, INFO, (Notify(kind),), number, response))
    assert snapshot(pair.left.core) == before
