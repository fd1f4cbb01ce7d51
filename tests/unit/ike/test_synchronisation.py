"""The other end of an IKE_SA is a cluster, or we are a member of one (RFC 6311)."""

from __future__ import annotations

import pytest
from support.ike_pair import CHILD, ESP_OFFERS, LEFT, NAME, RIGHT, CheapExchanges, Flight, Host, Pair, connection

from gateway.contract import Endpoint
from gateway.ike import keeping
from gateway.ike.commands import Configure, Rekey
from gateway.ike.events import ChildAdvance, ChildMoved, IkeDown
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.recovered import Recovered
from gateway.ike.exchanges.synchronise import AHEAD, Synchronise
from gateway.ike.payloads import Notify
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.synchronisation import DELTA_MOST, ESN_DELTA_MOST, LAST_ID, Counters
from gateway.ike.window import LAST_BEGUN

HOUR_OF_PACKETS = 1_000_000


def _takes_over(host: Host, behind: int = 3, delta: int = 0) -> None:
    """`host` is another member from now on, which missed the last exchanges of its predecessor."""
    window = host.sa.window
    window.next_request, window.expected = max(0, window.next_request - behind), max(0, window.expected - behind)
    window.pending, window.cached_response, window.cached_id = None, None, -1
    host.sa.enqueue(Synchronise(delta), host.pair.now)
    host.pair.drain()


def _busy(pair: Pair, rounds: int = 5) -> None:
    for _ in range(rounds):
        for host in pair.hosts:
            host.sa.enqueue(Liveness(), pair.now)
            pair.drain()
        pair.settle()


def _agree(pair: Pair) -> None:
    left, right = pair.left.sa.window, pair.right.sa.window
    assert (left.next_request, right.next_request) == (right.expected, left.expected)


def _works(pair: Pair) -> None:
    """Both ends can still ask for everything, on the same IKE_SA."""
    first = pair.left.sa.initiator_spi
    for host in pair.hosts:
        host.command(Rekey(NAME, CHILD))
        pair.settle()
        host.sa.enqueue(Liveness(), pair.now)
        pair.drain()
        pair.settle()
    pair.assert_agreed()
    pair.assert_flowing()
    assert pair.left.sa.initiator_spi == first
    assert not [event.reason for host in pair.hosts for event in host.seen(IkeDown) if event.reason]


@pytest.mark.parametrize("who", ["left", "right"])
@pytest.mark.parametrize("behind", [0, 1, 3, 100])
def test_a_new_member_that_missed_the_last_exchanges_goes_on_with_the_same_ike_sa(who: str, behind: int) -> None:
    pair = Pair()
    pair.establish()
    _busy(pair)
    _takes_over(getattr(pair, who), behind)
    pair.settle()
    _agree(pair)
    _works(pair)


def test_it_holds_for_an_ike_sa_that_a_rekey_made() -> None:
    pair = Pair()
    pair.establish()
    pair.left.command(Rekey(NAME))
    pair.settle()
    _busy(pair)
    _takes_over(pair.right)
    pair.settle()
    _agree(pair)
    _works(pair)


@pytest.mark.parametrize("lost", [1, 2, 3])
@pytest.mark.parametrize("what", ["request", "answer"])
def test_lost_ones_are_asked_anew_with_higher_numbers(lost: int, what: str) -> None:
    """RFC 6311 5.1: the same one again would be dropped by a peer whose answer was lost."""
    pair = Pair()
    pair.establish()
    _busy(pair)
    left = lost

    def network(flight: Flight) -> Flight | None:
        nonlocal left
        header = flight.message.header
        if header.message_id or header.exchange != ExchangeType.INFORMATIONAL:
            return flight
        hit = left > 0 and header.is_response == (what == "answer")
        left -= hit
        return None if hit else flight

    pair.rewrite = network
    _takes_over(pair.left)
    pair.run(60)
    assert left == 0
    _agree(pair)
    _works(pair)


def test_a_recorded_one_is_dropped_without_a_word() -> None:
    pair = Pair()
    pair.establish()
    _busy(pair)
    _takes_over(pair.left)
    (recorded,) = pair.in_flight
    pair.settle()
    _busy(pair)
    sent, window = len(pair.sent), pair.right.sa.window
    counters, heard = (window.next_request, window.expected), pair.right.sa.last_heard
    pair.now += 100
    pair.receive(pair.right, recorded.octets)
    assert len(pair.sent) == sent
    assert (window.next_request, window.expected) == counters
    assert pair.right.sa.last_heard == heard, "a replay is no sign of life"
    assert pair.right.rejected["message_id"] == 1


@pytest.mark.parametrize(("send", "receive"), [(LAST_ID + 1, 0), (0xFFFFFFFF, 0xFFFFFFFF), (100, LAST_ID + 1)])
def test_the_message_ids_are_not_used_up_by_one_request(send: int, receive: int) -> None:
    pair = Pair()
    pair.establish()
    before = pair.right.sa.window.next_request, pair.right.sa.window.expected
    pair.left.sa.request_outside((Counters(b"once", send, receive).notify(),), pair.now)
    pair.drain()
    pair.settle()
    assert (pair.right.sa.window.next_request, pair.right.sa.window.expected) == before


@pytest.mark.parametrize("octets", [0, 1, 11, 13])
def test_one_that_cannot_be_read_is_dropped(octets: int) -> None:
    pair = Pair()
    pair.establish()
    sent = len(pair.sent)
    pair.left.sa.request_outside((Notify(NotifyType.IKEV2_MESSAGE_ID_SYNC, bytes(octets)),), pair.now)
    pair.drain()
    pair.settle()
    assert len(pair.sent) == sent + 1
    assert sum(pair.right.rejected.values()) == 1


def _asks(pair: Pair, send: int, receive: int, remote: Endpoint | None = None) -> None:
    """What the left host's new member says, whatever it says; what comes of it is lost."""
    pair.left.sa.window.pending = None
    pair.left.sa.request_outside((Counters(b"once", send, receive).notify(),), pair.now)
    pair.drain()
    (flight,) = pair.in_flight
    pair.receive(pair.right, flight.octets, remote)
    pair.in_flight.clear()


def test_nor_by_many_that_make_one_request_be_sent_again_and_again() -> None:
    """Each of them uses up one of ours."""
    pair = Pair()
    pair.establish()
    pair.right.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.in_flight.clear()
    window = pair.right.sa.window
    for number in range(50, 60):
        _asks(pair, number, LAST_ID)
    assert window.next_request == LAST_ID + 1
    assert pair.right.rejected["message_id"] == 9


def test_who_is_left_without_message_ids_ends() -> None:
    """RFC 7296 2.2: they never wrap."""
    pair = Pair()
    pair.establish()
    sa = pair.right.sa
    sa.window.next_request = LAST_BEGUN
    sa.enqueue(Liveness(), pair.now)
    sa.enqueue(Liveness(), pair.now)
    pair.drain()
    (asked,) = pair.in_flight
    assert asked.message.header.message_id == LAST_BEGUN
    pair.left.sa.window.expected = LAST_BEGUN
    pair.settle()
    assert [event.reason for event in pair.right.seen(IkeDown)] == ["PROTOCOL_VIOLATION"]
    assert not pair.right.data_plane.outbound


def test_with_mobike_it_is_answered_where_it_was_asked_from() -> None:
    """RFC 4555 3.5: as every other request is."""
    pair = Pair()
    pair.establish()
    elsewhere, sa = Endpoint("10.0.0.9", 500), pair.right.sa
    before, sa.mobike = sa.remote, True
    _asks(pair, 50, 0, elsewhere)
    sent = pair.sent[-1]
    assert sent.message.header.is_response
    assert sent.transmit is not None
    assert sent.transmit.remote == elsewhere
    assert sa.remote == before


def test_a_recorded_answer_of_message_id_zero_is_none_to_a_new_member() -> None:
    """It verifies. It must be no sign of life, nor say where the peer is."""
    pair = Pair()
    pair.establish()
    pair.right.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.deliver()
    (recorded,) = pair.in_flight
    assert recorded.message.header.is_response
    assert recorded.message.header.message_id == 0
    _busy(pair)
    _takes_over(pair.right)
    held, sa = pair.in_flight[:], pair.right.sa
    before = sa.remote, sa.last_heard
    pair.now += 0.5
    pair.receive(pair.right, recorded.octets, Endpoint("10.0.0.9", 500))
    assert (sa.remote, sa.last_heard) == before
    assert not pair.right.seen(ChildMoved)
    assert pair.in_flight == held
    pair.settle()
    _agree(pair)
    _works(pair)


def test_the_trace_shows_every_try_once() -> None:
    """What is asked anew is another message, not a repetition."""
    pair = Pair()
    pair.establish()
    _takes_over(pair.left)
    pair.silence(5)
    lines = [line for line in pair.left.core.recorder.lines(NAME) if "MESSAGE_ID_SYNC)" in line.text]
    tries = [flight for flight in pair.sent if flight.message.header.message_id == 0][-len(lines) :]
    assert len(lines) > 2
    assert all(not line.repeated for line in lines)
    assert all(flight.message.header.exchange == ExchangeType.INFORMATIONAL for flight in tries)


def test_an_ordinary_request_of_message_id_zero_is_what_it_was() -> None:
    """The responder of an IKE_SA begins with message ID 0 too."""
    pair = Pair()
    pair.establish()
    assert pair.left.sa.window.expected == 0
    pair.right.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.settle()
    assert pair.left.sa.window.expected == 1
    _works(pair)


def test_a_request_that_the_old_member_never_answered_is_asked_of_the_new_one() -> None:
    pair = Pair()
    pair.establish()
    _busy(pair)
    children = set(pair.right.sa.children)
    pair.right.command(Rekey(NAME, CHILD))
    pair.in_flight.clear()
    assert pair.right.sa.window.pending is not None
    _takes_over(pair.left, behind=0)
    pair.settle()
    pair.run(20)
    assert set(pair.right.sa.children).isdisjoint(children), "the rekey was not lost"
    _agree(pair)
    _works(pair)


def test_what_a_process_before_this_one_asked_of_the_old_member_is_not_asked_of_the_new_one() -> None:
    """What it was is not known any more: an empty request would end the IKE_SA."""
    pair = Pair()
    pair.establish()
    _busy(pair)
    pair.right.command(Rekey(NAME, CHILD))
    pair.in_flight.clear()
    kept = keeping.kept(pair.right.sa)
    assert kept is not None
    before, pair.right = pair.right, Host(pair, RIGHT, 77, CheapExchanges())
    pair.configure(pair.right)
    keeping.resume(pair.right.core, connection(RIGHT, LEFT), kept, pair.now, renew=False)
    pair.right.data_plane = before.data_plane
    pair.drain()
    pair.in_flight.clear()
    assert isinstance(pair.right.sa.exchange, Recovered)
    _takes_over(pair.left, behind=0)
    pair.settle()
    pair.run(20)
    assert pair.right.seen(IkeDown) == pair.left.seen(IkeDown) == []
    _agree(pair)


def test_both_ends_are_clusters_and_both_change_their_members() -> None:
    """RFC 6311 6.1."""
    pair = Pair()
    pair.establish()
    _busy(pair)
    _takes_over(pair.left)
    _takes_over(pair.right)
    pair.settle()
    pair.run(30)
    _agree(pair)
    _works(pair)


def test_a_peer_that_cannot_is_never_asked() -> None:
    pair = Pair()
    pair.establish()
    pair.left.sa.agreement.message_ids = False
    sent = len(pair.sent)
    _takes_over(pair.left, behind=0)
    assert len(pair.sent) == sent


def test_our_own_first_number_is_beyond_what_our_predecessor_may_have_used() -> None:
    pair = Pair()
    pair.establish()
    _busy(pair)
    used = pair.left.sa.window.next_request - 1
    _takes_over(pair.left, behind=AHEAD - 1)
    pair.settle()
    assert pair.left.sa.window.next_request > used


@pytest.mark.parametrize("esn", [False, True])
def test_the_peer_leaves_out_sequence_numbers(esn: bool) -> None:
    """RFC 6311 5.2."""
    pair = Pair()
    if esn:
        offers = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["ecp256"], [True]),)
        for host in pair.hosts:
            pair.configure(host, esp=offers)
    pair.establish()
    _takes_over(pair.left, delta=HOUR_OF_PACKETS)
    pair.settle()
    (child,) = pair.right.sa.children.values()
    assert pair.right.seen(ChildAdvance) == [ChildAdvance(NAME, child.spi_out, HOUR_OF_PACKETS)]
    assert not pair.left.seen(ChildAdvance)


def test_what_would_use_them_up_is_rekeyed_instead() -> None:
    pair = Pair()
    pair.establish()
    before = set(pair.right.sa.children)
    _takes_over(pair.left, delta=DELTA_MOST + 1)
    pair.settle()
    pair.run(10)
    assert not pair.right.seen(ChildAdvance)
    assert set(pair.right.sa.children).isdisjoint(before)
    pair.assert_flowing()


def test_many_changes_of_members_do_not_use_them_up_either() -> None:
    """Sequence numbers left out are no packets: no limit of the data plane sees them go."""
    pair = Pair()
    pair.establish()
    (child,) = pair.right.sa.children.values()
    for _ in range(3):
        _takes_over(pair.left, delta=DELTA_MOST // 2)
        pair.settle()
    assert sum(event.by for event in pair.right.seen(ChildAdvance) if event.spi_out == child.spi_out) == DELTA_MOST
    pair.run(10)
    assert child.spi_in not in pair.right.sa.children
    _takes_over(pair.left, delta=DELTA_MOST // 2)
    pair.settle()
    assert pair.right.seen(ChildAdvance)[-1].spi_out != child.spi_out, "the new one has all of its own"


@pytest.mark.parametrize("delta", [ESN_DELTA_MOST, ESN_DELTA_MOST + 1, 2**64 - 1])
def test_extended_ones_keep_what_the_receiver_can_infer(delta: int) -> None:
    """RFC 4303 A2.2: after a gap of 2^32 nothing would be opened any more."""
    pair = Pair()
    for host in pair.hosts:
        pair.configure(host, esp=(make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["ecp256"], [True]),))
    pair.establish()
    before = set(pair.right.sa.children)
    _takes_over(pair.left, delta=delta)
    pair.settle()
    pair.run(10)
    fits = delta <= ESN_DELTA_MOST
    assert [event.by for event in pair.right.seen(ChildAdvance)] == ([delta] if fits else [])
    assert (set(pair.right.sa.children) == before) == fits
    pair.assert_flowing()


def test_a_reload_does_not_unsay_it() -> None:
    """What both said stays said."""
    pair = Pair()
    pair.establish()
    changed = connection(pair.left.address, pair.right.address, esp=(*ESP_OFFERS,))
    pair.left.command(Configure((changed,)))
    _busy(pair)
    _takes_over(pair.left)
    pair.settle()
    _agree(pair)
