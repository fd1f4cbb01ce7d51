"""MOBIKE (RFC 4555): the IKE_SA follows an authenticated word, ESP only a proof; where we are ourselves; and NAT detection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.ike_pair import (
    LEFT,
    NAME,
    RIGHT,
    CheapExchanges,
    Flight,
    Host,
    Pair,
    connection,
    header,
    identity,
    in_clear,
)

from gateway.contract import Endpoint
from gateway.ike import keeping, nat
from gateway.ike.commands import CheckLiveness, Configure, Initiate, PeerMoved, Rekey, TrafficSeen
from gateway.ike.events import ChildInstall, ChildMoved, IkeDown
from gateway.ike.exchanges import mobike
from gateway.ike.keymat import seal_message
from gateway.ike.message import Message
from gateway.ike.payloads import Notify, Payload
from gateway.ike.registry import ExchangeType, NotifyType

INFO = ExchangeType.INFORMATIONAL
SOURCE, TARGET = NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP
UPDATE, COOKIE2 = Notify(NotifyType.UPDATE_SA_ADDRESSES), NotifyType.COOKIE2
HOME, OURS = Endpoint(LEFT, 4500), Endpoint(RIGHT, 4500)
AWAY, OTHER_PORT = Endpoint("203.0.113.77", 4500), Endpoint(LEFT, 61000)


def established(*, asks: bool = True, **changes: Any) -> Pair:
    """The left host initiates, and asks for MOBIKE."""
    changes = {"mobike": True} | changes
    pair = Pair(**changes)
    pair.configure(pair.left, **(changes | {"mobike": asks}))
    pair.left.command(Initiate(NAME))
    pair.settle()
    pair.assert_agreed()
    return pair


def moved(host: Host) -> set[Endpoint]:
    return {event.remote for event in host.seen(ChildMoved)}


def ask(pair: Pair, remote: Endpoint, *payloads: Payload, local: Endpoint = OURS) -> Message:
    """A request of the left host from `remote`; the answer must go there."""
    sa = pair.left.sa
    octets = pair.sealed(pair.left, INFO, payloads)
    sa.window.next_request += 1
    pair.receive(pair.right, octets, remote, local)
    answer = pair.in_flight.pop(0)
    assert answer.transmit is not None
    assert (answer.transmit.local, answer.transmit.remote) == (local, remote)
    return pair.opened(answer, sa)


def detection(pair: Pair, seen_by_peer: Endpoint) -> tuple[Notify, Notify]:
    sa = pair.left.sa
    return nat.notifications(sa.initiator_spi, sa.responder_spi, seen_by_peer, OURS, None)


def reply(pair: Pair, question: Flight, *payloads: Payload, remote: Endpoint = AWAY) -> None:
    """The left host's answer to a request of ours."""
    sa = pair.left.sa
    assert sa.keys is not None
    number = question.message.header.message_id
    octets = seal_message(sa.keys, header(sa, INFO, number, True), payloads, pair.left.random)
    sa.window.expected = number + 1
    pair.receive(pair.right, octets, remote, OURS)


@pytest.mark.parametrize(("switch", "asks"), [(True, True), (True, False), (False, True)])
def test_both_must_want_it(switch: bool, asks: bool) -> None:
    pair = established(mobike=switch, asks=asks)
    answer = next(
        f for f in pair.sent if f.receiver is pair.left and f.message.header.exchange == ExchangeType.IKE_AUTH
    )
    agreed = pair.opened(answer).notify(NotifyType.MOBIKE_SUPPORTED) is not None
    assert agreed == pair.right.sa.mobike == pair.left.sa.mobike == (switch and asks)


@pytest.mark.parametrize("there", [AWAY, OTHER_PORT])
def test_esp_follows_only_after_the_peer_answered_from_there(there: Endpoint) -> None:
    pair = established()
    answer = ask(pair, there, UPDATE, *detection(pair, there))
    assert {one.type for one in answer.notifies()} == {SOURCE, TARGET}
    (question,) = pair.in_flight
    pair.in_flight.clear()
    assert question.transmit is not None
    assert (question.transmit.remote, pair.right.sa.remote) == (there, there)
    cookie = pair.opened(question).notify(COOKIE2)
    assert cookie is not None
    assert len(cookie.data) == 32
    assert moved(pair.right) == set()
    reply(pair, question, Notify(COOKIE2, cookie.data), remote=there)
    assert moved(pair.right) == {there}
    assert pair.right.sa.established


@pytest.mark.parametrize("payloads", [(), (Notify(COOKIE2, bytes(32)),), (Notify(COOKIE2, b""),)])
def test_who_does_not_show_the_cookie_ends_it(payloads: tuple[Payload, ...]) -> None:
    """RFC 4555 3.7."""
    pair = established()
    ask(pair, AWAY, UPDATE, *detection(pair, AWAY))
    reply(pair, pair.drop(), *payloads)
    assert moved(pair.right) == set()
    pair.run(60)
    assert [event.reason for event in pair.right.seen(IkeDown)] == ["ADDRESS_CHECK_FAILED"]


def test_who_does_not_answer_from_there_is_dead() -> None:
    pair = established()
    ask(pair, AWAY, UPDATE, *detection(pair, AWAY))
    pair.silence(60)
    assert pair.right.sa.remote == HOME, "the last try is to where traffic is received"
    pair.silence(20)
    assert moved(pair.right) == set()
    assert [event.reason for event in pair.right.seen(IkeDown)] == ["DPD_TIMEOUT"]


@pytest.mark.parametrize("traffic", [False, True])
@pytest.mark.parametrize("dpd_delay", [10.0, 20.0, 60.0])
def test_a_copy_from_elsewhere_that_arrives_first_costs_nothing(dpd_delay: float, traffic: bool) -> None:
    """Anybody on the path can make one, without any key. With traffic the next liveness check is late."""
    pair = established(dpd_delay=dpd_delay)
    pair.rewrite = lambda flight: None if flight.transmit and flight.transmit.remote.host == AWAY.host else flight
    pair.left.command(CheckLiveness(NAME))
    pair.receive(pair.right, pair.in_flight[0].octets, AWAY, OURS)
    assert pair.right.sa.remote == AWAY
    pair.settle()
    for _ in range(120):
        pair.run(1)
        for host in pair.hosts if traffic else ():
            host.command(TrafficSeen(NAME, frozenset(host.sa.children)))
    assert pair.right.seen(IkeDown) == pair.left.seen(IkeDown) == []
    assert (pair.right.sa.remote, pair.right.sa.traffic_remote) == (HOME, None)
    pair.assert_agreed()


def test_a_peer_that_moves_on_and_on_is_asked_once_more_and_not_once_for_each() -> None:
    pair = established()
    for _ in range(30):
        octets = pair.sealed(pair.left, INFO, (UPDATE, *detection(pair, AWAY)))
        pair.left.sa.window.next_request += 1
        pair.receive(pair.right, octets, AWAY, OURS)
        pair.in_flight.clear()
    assert isinstance(pair.right.sa.exchange, mobike.CheckAddress)
    assert len(pair.right.sa.queue) == 1


def test_it_moves_on_while_it_is_asked() -> None:
    """The first address is not where ESP goes, though it proved that it was there."""
    pair = established()
    ask(pair, AWAY, UPDATE, *detection(pair, AWAY))
    first = pair.drop()
    ask(pair, OTHER_PORT, UPDATE, *detection(pair, OTHER_PORT))
    cookie = pair.opened(first, pair.left.sa).notify(COOKIE2)
    assert cookie is not None
    reply(pair, first, Notify(COOKIE2, cookie.data))
    assert moved(pair.right) == set()
    second = pair.drop()
    cookie = pair.opened(second, pair.left.sa).notify(COOKIE2)
    assert cookie is not None
    reply(pair, second, Notify(COOKIE2, cookie.data), remote=OTHER_PORT)
    assert moved(pair.right) == {OTHER_PORT}


def test_it_rekeys_while_it_is_asked() -> None:
    """The question was lost, and the IKE_SA that it was asked on is deleted: it is asked on the new one."""
    pair = established()
    ask(pair, AWAY, UPDATE, *detection(pair, AWAY))
    pair.drop()
    pair.left.command(Rekey(NAME))
    pair.run(10)
    assert moved(pair.right) == {AWAY}
    assert pair.right.sa.traffic_remote is None


def test_a_liveness_check_from_elsewhere_moves_nothing_and_is_answered_there() -> None:
    """RFC 4555 3.8: the peer sees by the answer that its NAT has another mapping, and says UPDATE_SA_ADDRESSES."""
    pair = established()
    answer = ask(pair, OTHER_PORT, *detection(pair, HOME))
    target = answer.notify(TARGET)
    sa = pair.right.sa
    assert target is not None
    assert target.data == nat.detection_hash(sa.initiator_spi, sa.responder_spi, OTHER_PORT)
    assert (sa.remote, moved(pair.right), pair.in_flight) == (HOME, set(), [])
    (child,) = sa.children
    pair.right.command(PeerMoved(NAME, child, OTHER_PORT))
    assert (sa.remote, moved(pair.right)) == (HOME, set())


def test_a_repeat_is_answered_to_where_it_came_from() -> None:
    """RFC 4555 3.5: the peer repeats one message from each of its addresses until it is answered."""
    pair = established()
    octets = pair.sealed(pair.left, INFO, (UPDATE, *detection(pair, AWAY)))
    for there in (AWAY, OTHER_PORT):
        pair.in_flight.clear()
        pair.receive(pair.right, octets, there, OURS)
        answers = [f.transmit.remote for f in pair.in_flight if f.transmit and f.message.header.is_response]
        assert answers == [there]
    assert pair.right.sa.remote == AWAY


@pytest.mark.parametrize(
    ("payloads", "local", "refusal"),
    [
        ((UPDATE,), Endpoint("10.0.0.3", 4500), NotifyType.UNACCEPTABLE_ADDRESSES),
        ((UPDATE, Notify(NotifyType.NO_NATS_ALLOWED, bytes(12))), OURS, NotifyType.UNEXPECTED_NAT_DETECTED),
    ],
)
def test_what_cannot_be_is_refused(payloads: tuple[Payload, ...], local: Endpoint, refusal: NotifyType) -> None:
    pair = established()
    answer = ask(pair, AWAY, *payloads, local=local)
    assert [one.type for one in answer.notifies()] == [refusal]
    assert (pair.right.sa.remote, pair.in_flight, moved(pair.right)) == (HOME, [], set())


def test_no_nats_allowed_is_met_where_there_is_none() -> None:
    pair = established()
    ends = bytes((203, 0, 113, 77, 10, 0, 0, 2)) + (4500).to_bytes(2, "big") * 2
    answer = ask(pair, AWAY, UPDATE, Notify(NotifyType.NO_NATS_ALLOWED, ends))
    assert (answer.payloads, pair.right.sa.remote) == ((), AWAY)


def test_without_mobike_an_update_is_nothing_and_a_cookie_is_not_echoed() -> None:
    pair = established(mobike=False)
    answer = ask(pair, HOME, UPDATE, Notify(COOKIE2, bytes(16)))
    assert (answer.payloads, pair.in_flight) == ((), [])


def test_only_the_original_initiator_moves() -> None:
    """RFC 4555 3.5. It stays the initiator after a rekey that we began."""
    pair = established()
    pair.right.command(Rekey(NAME))
    pair.settle()
    assert (pair.right.sa.is_initiator, pair.right.sa.mobike) == (True, True)
    ask(pair, AWAY, UPDATE, *detection(pair, AWAY))
    assert pair.right.sa.remote == AWAY
    # The other way round nobody moves
    sa = pair.left.sa
    octets = pair.sealed(pair.right, INFO, (UPDATE,), message_id=sa.window.expected)
    pair.in_flight.clear()
    pair.receive(pair.left, octets, Endpoint("203.0.113.66", 4500), HOME)
    assert sa.remote == OURS


def test_forged_updates_change_nothing() -> None:
    pair = established()
    sa = pair.left.sa
    good = pair.sealed(pair.left, INFO, (UPDATE,))
    for octets in (good[:-1] + bytes([good[-1] ^ 1]), in_clear(sa, INFO, (UPDATE,), sa.window.next_request)):
        pair.receive(pair.right, octets, AWAY, OURS)
        assert (pair.right.sa.remote, pair.right.sa.asked_at[1] == AWAY, pair.in_flight) == (HOME, False, [])


@pytest.mark.parametrize("mobike", [True, False])
@pytest.mark.parametrize("encap", [True, False])
def test_nat_detection_in_a_liveness_check_is_answered(mobike: bool, encap: bool) -> None:
    """With `encap` the source is made up, and the destination is true: by it the peer sees its own mapping."""
    pair = established(mobike=mobike, encap=encap)
    there = pair.left.sa.local
    ours = pair.right.sa.local
    answer = ask(pair, there, *nat.notifications(1, 2, there, ours, None), local=ours)
    found = {one.type: one.data for one in answer.notifies()}
    sa = pair.right.sa
    assert found[TARGET] == nat.detection_hash(sa.initiator_spi, sa.responder_spi, there)
    assert (found[SOURCE] == nat.detection_hash(sa.initiator_spi, sa.responder_spi, ours)) == (not encap)


def test_half_a_nat_detection_is_not_answered() -> None:
    pair = established()
    assert ask(pair, HOME, detection(pair, HOME)[0]).payloads == ()


@pytest.mark.parametrize("octets", [7, 8, 64, 65])
def test_cookies_of_the_peer_are_echoed_if_they_are_of_a_length(octets: int) -> None:
    """RFC 4555 4.2.5."""
    pair = established()
    sent = Notify(COOKIE2, bytes(range(octets)))
    assert ask(pair, HOME, sent).payloads == ((sent,) if 8 <= octets <= 64 else ())


def test_what_is_made_before_the_new_address_is_proven_goes_to_the_old_one() -> None:
    """RFC 4555 3.7: else a peer has us send to whomever it names."""
    pair = established()
    pair.right.sa.remote, before = AWAY, pair.right.sa.remote
    pair.right.sa.traffic_remote = before
    pair.left.command(Rekey(NAME, "net"))
    pair.settle()
    assert {event.remote for event in pair.right.seen(ChildInstall)} == {before}


# --- as the original initiator ------------------------------------------------------------------------------------------


def go(pair: Pair, host: str = AWAY.host, **changes: Any) -> None:
    """A reload of the left host's configuration, with another `local_addrs`."""
    settings = connection(LEFT, RIGHT, **({"mobike": True} | changes))
    pair.left.command(Configure((replace(settings, local=Endpoint(host, 500)),)))


def test_a_reload_with_another_address_takes_the_tunnel_along() -> None:
    pair = established()
    before = (pair.left.sa.spis, set(pair.left.sa.children))
    go(pair)
    (event,) = pair.left.seen(ChildMoved)
    assert (event.local, event.remote) == (AWAY, OURS)
    pair.settle()
    assert (pair.right.sa.remote, moved(pair.right)) == (AWAY, {AWAY})
    assert pair.left.seen(IkeDown) == pair.right.seen(IkeDown) == []
    pair.assert_agreed()
    assert (pair.left.sa.spis, set(pair.left.sa.children)) == before
    # What is made from now on is there, too
    pair.left.command(Rekey(NAME, "net"))
    pair.left.command(Rekey(NAME))
    pair.settle()
    assert pair.left.seen(ChildInstall)[-1].local == pair.left.sa.local == AWAY


@pytest.mark.parametrize("after", [2, 20, 28, 35, 40])
def test_a_reload_while_the_old_address_leads_nowhere_saves_the_tunnel(after: int) -> None:
    """However few repetitions the liveness check has left that nobody answers there."""
    pair = established(dpd_delay=10.0)
    pair.rewrite = lambda flight: (
        None if flight.transmit and LEFT in (flight.transmit.local.host, flight.transmit.remote.host) else flight
    )
    pair.run(10 + after)
    go(pair, dpd_delay=10.0)
    pair.run(1)
    assert (pair.right.sa.remote, moved(pair.right)) == (AWAY, {AWAY})
    pair.run(60)
    assert pair.left.seen(IkeDown) == pair.right.seen(IkeDown) == []
    pair.assert_agreed()


def test_what_comes_to_old_addresses_is_read_until_the_peer_has_moved_its_esp() -> None:
    """The sockets of hosts that are not `hosts` are closed. The peer moves it after its own question, which may be lost."""
    pair = established()
    go(pair, "203.0.113.99")
    pair.in_flight.clear()
    go(pair)
    assert pair.left.core.hosts == {LEFT, "203.0.113.99", AWAY.host}
    pair.left.command(Rekey(NAME))
    pair.run(mobike.LEFT_FOR - 1)
    assert pair.left.core.hosts == {LEFT, "203.0.113.99", AWAY.host}
    pair.run(300)
    pair.left.command(CheckLiveness(NAME))
    pair.settle()
    assert pair.left.core.hosts == {AWAY.host}
    go(pair, LEFT)
    assert pair.left.core.hosts == {LEFT, AWAY.host}


def test_behind_a_nat_other_answers_put_no_check_off() -> None:
    """They come to where the NAT has us now; the peer's ESP does not."""
    pair = established(dpd_delay=10.0)
    pair.left.sa.nat = replace(pair.left.sa.nat, local=True)
    for _ in range(8):
        pair.run(4)
        pair.left.command(Rekey(NAME, "net"))
        pair.settle()
    assert [line for line in pair.right.core.recorder.lines(NAME) if "N(UPDATE_SA_ADDRESSES)" in line.text]


def test_another_process_asks_and_says_what_the_one_before_was_to() -> None:
    """Else ESP goes to the old address for ever: the IKE_SA works, so nobody asks again."""
    pair = established()
    ask(pair, AWAY, UPDATE, *detection(pair, AWAY))
    kept = keeping.kept(pair.right.sa)
    assert kept is not None
    assert kept.traffic_remote == HOME
    pair.in_flight.clear()
    before, pair.right = pair.right, Host(pair, RIGHT, 77, CheapExchanges())
    pair.configure(pair.right, mobike=True)
    keeping.resume(pair.right.core, connection(RIGHT, LEFT, mobike=True), kept, pair.now, renew=False)
    pair.right.data_plane = before.data_plane
    pair.drain()
    pair.run(30)
    assert (moved(pair.right), pair.right.sa.traffic_remote) == ({AWAY}, None)


def test_crash_tokens_are_of_the_new_address() -> None:
    """RFC 6290 4.3: the peer would not believe one of another."""
    pair = established()
    go(pair)
    pair.settle()
    sa = pair.left.sa
    assert pair.right.sa.peer_token == pair.left.core.tokens.make(sa.initiator_spi, sa.responder_spi, AWAY.host)


@pytest.mark.parametrize("command", [Rekey(NAME), Rekey(NAME, "net")], ids=["IKE_SA", "CHILD_SA"])
@pytest.mark.parametrize("lost", range(6))
@pytest.mark.parametrize("side", ["left", "right"])
def test_it_goes_while_something_is_rekeyed(side: str, lost: int, command: Rekey) -> None:
    """Whichever message is lost: what was asked before is asked from there, and the peer learns it on the IKE_SA that stays."""
    pair = established()
    chain = pair.left.sa.origin.initiator_spi
    (pair.left if side == "left" else pair.right).command(command)
    go(pair)
    for _ in range(lost):
        if pair.in_flight:
            pair.deliver()
    if pair.in_flight:
        pair.drop()
    pair.run(30)
    pair.assert_agreed()
    assert pair.left.sa.origin.initiator_spi == chain
    assert (pair.left.sa.local, pair.right.sa.remote, pair.right.sa.traffic_remote) == (AWAY, AWAY, None)
    assert {event.remote for event in pair.right.seen(ChildMoved)} <= {AWAY}


def test_it_goes_on_before_the_peer_has_answered() -> None:
    """RFC 4555 3.5: what is said of the first address is not what counts."""
    pair = established()
    go(pair, "203.0.113.99")
    pair.drop()
    go(pair)
    pair.run(30)
    pair.assert_agreed()
    assert (pair.right.sa.remote, pair.left.seen(ChildMoved)[-1].local) == (AWAY, AWAY)


@pytest.mark.parametrize(
    "case",
    ["the peer has no MOBIKE", "no MOBIKE any more", "another identity", "the peer began it", "an address of the pair"],
)
def test_else_it_is_set_up_anew(case: str) -> None:
    pair = established(asks=True, mobike=case != "the peer has no MOBIKE")
    first = pair.left.sa.spis
    if case == "the peer began it":
        pair = Pair(mobike=True)
        pair.right.command(Initiate(NAME))
        pair.settle()
        first = pair.left.sa.spis
    other = {
        "another identity": {"local_id": identity("203.0.113.77")},
        "no MOBIKE any more": {"mobike": False},
        # Its SAs would be at both gateways, and nothing keep this one from sending with them when it is not active
        "an address of the pair": {"shared": True},
    }
    go(pair, **other.get(case, {}))
    pair.settle()
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["CONFIGURATION_CHANGED"]
    assert first not in [sa.spis for sa in pair.left.sas]


@pytest.mark.parametrize("refusal", ["UNACCEPTABLE_ADDRESSES", "UNEXPECTED_NAT_DETECTED"])
def test_a_peer_that_will_not_have_us_there(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = established()
    monkeypatch.setattr(mobike, "_refusal", lambda *_: NotifyType[refusal])
    go(pair)
    pair.settle()
    (event,) = pair.left.seen(IkeDown)
    assert (event.reason, event.context) == ("ADDRESS_REFUSED", {"local": str(AWAY), "theirs": refusal})


def test_each_liveness_check_says_where_we_are() -> None:
    """Behind a NAT that forgot us nothing comes any more, and the check does not come from where the last one did."""
    pair = established()
    pair.left.command(CheckLiveness(NAME))
    pair.deliver(remote=OTHER_PORT)
    pair.settle()
    assert (pair.right.sa.remote, moved(pair.right)) == (OTHER_PORT, {OTHER_PORT})
    assert pair.left.sa.nat.local
    # Where nothing has changed nothing is asked
    pair.left.command(CheckLiveness(NAME))
    pair.deliver(remote=OTHER_PORT)
    assert [flight.receiver for flight in pair.in_flight] == [pair.left]


def test_the_responder_says_nothing_of_it() -> None:
    pair = established()
    pair.right.command(CheckLiveness(NAME))
    assert pair.opened(pair.in_flight[0]).payloads == ()


def test_liveness_checks_do_not_push_the_negotiation_out_of_the_trace() -> None:
    pair = established()
    for _ in range(100):
        pair.left.command(CheckLiveness(NAME))
        pair.settle()
    assert "IKE_AUTH" in [line.exchange for line in pair.left.core.recorder.lines(NAME)]
