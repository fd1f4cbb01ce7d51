"""Half-open IKE_SAs as responder: bounded, forgotten in time, and behind a cookie under a flood (RFC 7296 2.4, 2.6)."""

from __future__ import annotations

import pytest
from support.ike_pair import LEFT, NAME, Pair
from support.ike_stages import GOOD_REQUEST, NONCE, ask, ask_octets

from gateway.contract import Endpoint
from gateway.ike.commands import Initiate
from gateway.ike.cookies import HALF_OPEN_FREE, Cookies
from gateway.ike.events import IkeDown, IkeUp, Notice
from gateway.ike.half_open import HALF_OPEN_MAX
from gateway.ike.message import Header, Message, emit_message
from gateway.ike.payloads import KeyExchange, Nonce, Notify, Payload, SecurityAssociation
from gateway.ike.registry import ExchangeType, Flags, NotifyType

INIT = ExchangeType.IKE_SA_INIT


def test_the_responder_never_sends_on_its_own_and_forgets_in_time() -> None:
    """libreswan CVE-2016-5361: no amplification by retransmission."""
    pair = Pair()
    ask(pair, *GOOD_REQUEST)
    sent = len(pair.sent)
    pair.silence(29.9)
    assert pair.right.core.half_open == 1
    pair.silence(0.2)
    assert len(pair.sent) == sent
    assert (pair.right.sas, pair.right.core.half_open) == ([], 0)
    assert pair.right.seen(IkeDown)[0].reason == "HALF_OPEN_TIMEOUT"


def ask_with_cookie(pair: Pair, spi: int) -> list[Message]:
    """As an initiator that receives at its address does."""
    (answer,) = ask(pair, *GOOD_REQUEST, spi=spi)
    shown = answer.notify(NotifyType.COOKIE)
    return [answer] if shown is None else ask(pair, shown, *GOOD_REQUEST, spi=spi)


def flooded() -> Pair:
    """As many half open as get by without a cookie."""
    pair = Pair()
    for number in range(HALF_OPEN_FREE):
        ask(pair, *GOOD_REQUEST, spi=number + 1)
    assert pair.right.core.half_open == HALF_OPEN_FREE and pair.right.rejected == {}
    return pair


def test_half_open_ike_sas_are_bounded_and_the_limit_passes() -> None:
    pair = Pair()
    for number in range(HALF_OPEN_MAX):
        ask_with_cookie(pair, number + 1)
    assert pair.right.core.half_open == len(pair.right.sas) == HALF_OPEN_MAX
    for number in range(50):
        (answer,) = ask(pair, *GOOD_REQUEST, spi=0xBEEF00 + number) or [None]
        assert answer is None
    assert pair.right.rejected["half_open_limit"] == 50
    pair.silence(31)
    assert pair.right.core.half_open == 0
    pair.establish()


def test_a_flood_of_refused_requests_does_not_fill_the_log() -> None:
    pair, another_group = Pair(), (GOOD_REQUEST[0], KeyExchange(19, bytes(64)), NONCE)
    for number in range(100):
        ask(pair, *another_group, spi=number + 1)
    assert len([one for one in pair.right.seen(Notice) if one.event == "ike-init-refused"]) == 1


def test_under_a_flood_a_cookie_is_asked_for_statelessly_and_costs_less_than_the_request() -> None:
    pair = flooded()
    request = emit_message(Header(0xABC, 0, INIT, Flags.INITIATOR, 0), GOOD_REQUEST)
    for _ in range(500):
        (answer,) = ask_octets(pair, request)
        assert [type(payload) for payload in answer.payloads] == [Notify]
        assert answer.header.responder_spi == 0 and answer.header.is_response
        assert len(answer.octets) < len(request)
    assert pair.right.core.half_open == HALF_OPEN_FREE
    assert pair.right.rejected == {"no_cookie": 500}


def test_under_a_flood_what_shows_no_cookie_is_read_no_further_than_its_nonce() -> None:
    pair = flooded()
    offer, exchange, nonce = GOOD_REQUEST
    nothing_of_ours = (KeyExchange(19, bytes(7)), nonce, offer, offer)
    (answer,) = ask(pair, *nothing_of_ours, spi=0xABC)
    shown = answer.notify(NotifyType.COOKIE)
    assert shown is not None
    # With it, it is judged
    (refusal,) = ask(pair, shown, *nothing_of_ours, spi=0xABC)
    assert refusal.error() is not None
    assert pair.right.rejected == {"no_cookie": 1, "grammar": 1}
    assert ask(pair, offer, exchange, spi=0xABD)[0].error() is not None, "without a nonce there is no cookie"
    assert pair.right.core.half_open == HALF_OPEN_FREE


def test_what_a_stranger_asks_for_is_not_even_read() -> None:
    pair = Pair()
    good = emit_message(Header(0xABC, 0, INIT, Flags.INITIATOR, 0), GOOD_REQUEST)
    pair.receive(pair.right, good[:-1], Endpoint("192.0.2.9", 500))
    pair.receive(pair.right, good[:40] + b"\xff" * (len(good) - 40), Endpoint("192.0.2.9", 500))
    assert pair.right.rejected == {"unknown_peer": 2}
    pair.receive(pair.right, good[:-1], Endpoint(LEFT, 500))
    assert pair.right.rejected == {"unknown_peer": 2, "malformed": 1}
    assert not pair.sent


def test_the_true_peer_gets_through_a_flood_from_its_own_forged_address() -> None:
    pair = flooded()
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert len(pair.right.seen(IkeUp)) == len(pair.left.seen(IkeUp)) == 1
    pair.run(40)
    pair.assert_agreed()


def test_a_cookie_is_good_only_for_its_address_spi_and_nonce() -> None:
    pair = flooded()
    (answer,) = ask(pair, *GOOD_REQUEST, spi=0xABC)
    shown = answer.notify(NotifyType.COOKIE)
    assert shown is not None
    other_nonce = (*GOOD_REQUEST[:2], Nonce(b"\x78" * 32))
    bent = shown.data[:-1] + bytes((shown.data[-1] ^ 1,))
    forged: list[tuple[int, tuple[Payload, ...]]] = [
        (0xABD, (shown, *GOOD_REQUEST)),
        (0xABC, (shown, *other_nonce)),
        *(
            (0xABC, (Notify(NotifyType.COOKIE, octets), *GOOD_REQUEST))
            for octets in (bent, shown.data[:4], b"", bytes(20))
        ),
    ]
    for spi, payloads in forged:
        (again,) = ask(pair, *payloads, spi=spi)
        assert again.notify(NotifyType.COOKIE) is not None
    assert pair.right.core.half_open == HALF_OPEN_FREE
    (reply,) = ask(pair, shown, *GOOD_REQUEST, spi=0xABC)
    assert reply.first(SecurityAssociation) is not None


@pytest.mark.parametrize(("age", "good"), [(0, True), (59, True), (61, True), (119, True), (121, False), (600, False)])
@pytest.mark.parametrize("renewed", [True, False], ids=["others ask too", "nobody else asks"])
def test_a_cookie_is_good_for_one_to_two_lives_of_its_secret(age: int, good: bool, renewed: bool) -> None:
    cookies, remote = Cookies(Pair().right.core.random), Endpoint(LEFT, 500)
    made = cookies.make(b"n" * 32, 1, remote, 1000.0)
    for second in range(age if renewed else 0):
        cookies.make(b"m" * 32, 2, remote, 1000.0 + second)
    assert cookies.good(made, b"n" * 32, 1, remote, 1000.0 + age) is good
    if renewed:
        fresh = cookies.make(b"n" * 32, 1, remote, 1000.0 + age)
        assert cookies.good(fresh, b"n" * 32, 1, remote, 1000.0 + age + 59)


def test_half_open_strangers_do_not_hold_back_an_established_tunnel_nor_our_own_initiation() -> None:
    pair = Pair()
    for number in range(20):
        ask(pair, *GOOD_REQUEST, spi=number + 1)
    pair.in_flight.clear()
    pair.right.command(Initiate(NAME))
    pair.settle()
    assert len(pair.right.seen(IkeUp)) == len(pair.left.seen(IkeUp)) == 1
    pair.run(60)
    pair.assert_agreed()
