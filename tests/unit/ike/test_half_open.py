"""Half-open IKE_SAs as responder: bounded, forgotten in time, and behind a cookie under a flood (RFC 7296 2.4, 2.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.ike_pair import LEFT, NAME, RIGHT, Pair, connection
from support.ike_stages import GOOD_REQUEST, NONCE, ask, ask_octets

from gateway.contract import Endpoint
from gateway.ike import proposal
from gateway.ike.commands import Configure, Initiate
from gateway.ike.cookies import HALF_OPEN_FREE, Cookies
from gateway.ike.errors import Violation
from gateway.ike.events import IkeDown, IkeUp, Notice
from gateway.ike.half_open import HALF_OPEN_EACH, HALF_OPEN_MAX, TURN
from gateway.ike.message import INIT_REQUEST_MAX, Header, emit_message
from gateway.ike.payloads import KeyExchange, Nonce, Notify, Payload, SecurityAssociation, VendorId
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol

INIT = ExchangeType.IKE_SA_INIT
OTHER_SUITE = make_offer(Protocol.IKE, [("aes-cbc", 128)], ["sha1"], ["sha1"], ["ecp384"])
WITHOUT_SUITE: tuple[Payload, ...] = (proposal.payload((OTHER_SUITE,), b""), *GOOD_REQUEST[1:])


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


def ask_with_cookie(pair: Pair, spi: int, remote: Endpoint | None = None) -> bool:
    """As an initiator that receives at its address does; whether it is answered."""
    answers = ask(pair, *GOOD_REQUEST, spi=spi, remote=remote)
    shown = answers[0].notify(NotifyType.COOKIE) if answers else None
    if shown is not None:
        answers = ask(pair, shown, *GOOD_REQUEST, spi=spi, remote=remote)
    return any(answer.first(SecurityAssociation) is not None for answer in answers)


def flooded() -> Pair:
    """As many half open as get by without a cookie."""
    pair = Pair()
    for number in range(HALF_OPEN_FREE):
        ask(pair, *GOOD_REQUEST, spi=number + 1)
    assert pair.right.core.half_open == HALF_OPEN_FREE and pair.right.rejected == {}
    return pair


def fill(pair: Pair, count: int) -> None:
    """So many half-open IKE_SAs of somebody who receives at the left host's address."""
    for number in range(count):
        assert ask_with_cookie(pair, number + 1)
    pair.in_flight.clear()


def site(number: int) -> str:
    return f"10.9.{number >> 8}.{number & 255}"


def with_sites(count: int) -> Pair:
    """The right host has so many connections more."""
    pair, own = Pair(), connection(RIGHT, LEFT)
    others = (replace(own, name=site(one), remote=Endpoint(site(one), 500)) for one in range(count))
    pair.right.command(Configure((own, *others)))
    return pair


def asks(pair: Pair, number: int, spi: int = 0xABC) -> bool:
    """The gateway of that site does."""
    return ask_with_cookie(pair, spi, Endpoint(site(number), 500))


def test_half_open_ike_sas_of_one_peer_are_bounded_and_the_limit_passes() -> None:
    pair = Pair()
    fill(pair, HALF_OPEN_EACH)
    assert pair.right.core.half_open == len(pair.right.sas) == HALF_OPEN_EACH
    for number in range(50):
        assert ask(pair, *GOOD_REQUEST, spi=0xBEEF00 + number) == []
    assert pair.right.rejected["half_open_limit"] == 50
    pair.silence(31)
    assert pair.right.core.half_open == 0
    pair.establish()


def test_who_receives_at_one_peer_s_address_does_not_shut_out_the_others() -> None:
    """Any host behind that peer's NAT does, without a credential."""
    pair = with_sites(1)
    answered = [ask_with_cookie(pair, number + 1) for number in range(HALF_OPEN_MAX + 100)]
    assert answered == [number < HALF_OPEN_EACH for number in range(HALF_OPEN_MAX + 100)]
    assert asks(pair, 0)
    assert pair.right.core.half_open == HALF_OPEN_EACH + 1


def test_nor_that_peer_itself_beyond_its_retransmissions() -> None:
    pair = Pair()
    fill(pair, HALF_OPEN_EACH)
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert not pair.right.seen(IkeUp), "the places are taken"
    pair.run(2 * TURN)
    assert len(pair.right.seen(IkeUp)) == len(pair.left.seen(IkeUp)) == 1
    assert [event.reason for event in pair.right.seen(IkeDown)] == ["HALF_OPEN_LIMIT"], "one had its turn"
    assert pair.right.core.half_open == HALF_OPEN_EACH - 1


def test_a_connection_s_places_change_hands_no_faster_than_every_turn() -> None:
    """Whoever receives there makes us do so much public-key work, and no more."""
    pair = Pair()
    begin, answered = pair.now, 0
    for number in range(1200):
        answered += ask_with_cookie(pair, number + 1)
        pair.silence(0.01)
    turns = (pair.now - begin) / TURN
    assert HALF_OPEN_EACH * (turns - 1) <= answered <= HALF_OPEN_EACH * (turns + 1)
    assert pair.right.core.half_open == HALF_OPEN_EACH


def test_many_gateways_behind_one_address_all_get_in_after_an_outage() -> None:
    pair = Pair()
    gateways, settings = HALF_OPEN_FREE + HALF_OPEN_EACH + 20, connection(LEFT, RIGHT)
    for _ in range(gateways):
        pair.left.core.begin(settings, pair.now)
    pair.drain()
    most = 0
    for _ in range(100):
        for _ in range(len(pair.in_flight)):
            pair.deliver()
        most = max(most, pair.right.core.half_open)
        if not pair.in_flight:
            pair.run(0.5)
    assert most == HALF_OPEN_EACH, "there are more than places for them"
    assert len(pair.right.seen(IkeUp)) == gateways
    assert not [event for event in pair.right.seen(IkeDown) if event.reason.startswith("HALF_OPEN")]


def test_where_all_places_are_taken_whoever_has_the_most_makes_way() -> None:
    pair = with_sites(22)
    for number in range(10):
        for spi in range(HALF_OPEN_EACH):
            assert asks(pair, number, spi + 1)
    assert pair.right.core.half_open == HALF_OPEN_MAX
    assert all(asks(pair, number) for number in range(10, 22))
    assert pair.right.core.half_open == HALF_OPEN_MAX
    left = [len(pair.right.core.sas(site(number))) for number in range(22)]
    assert left == [98, 98, *[99] * 8, *[1] * 12], "the ten share in it"
    assert pair.right.core.sas(site(0))[0].initiator_spi == 3, "its oldest went"


def test_of_many_that_begin_at_once_with_one_each_none_makes_way() -> None:
    """Or a crowd after an outage would never get done."""
    pair = with_sites(HALF_OPEN_MAX + 10)
    answered = [asks(pair, number) for number in range(HALF_OPEN_MAX + 10)]
    assert answered == [True] * HALF_OPEN_MAX + [False] * 10
    assert not pair.right.seen(IkeDown)
    assert pair.right.core.half_open == HALF_OPEN_MAX


def test_a_flood_of_refused_requests_does_not_fill_the_log() -> None:
    pair = Pair()
    for number in range(100):
        ask(pair, *WITHOUT_SUITE, spi=number + 1)
    assert [(one.event, one.why) for one in pair.right.seen(Notice)] == [("ike-init-refused", Violation.NO_PROPOSAL)]


def test_a_group_guessed_wrong_is_asked_for_anew_without_a_word() -> None:
    """RFC 7296 1.2: what every initiator with another preference does first."""
    pair = Pair()
    (answer,) = ask(pair, GOOD_REQUEST[0], KeyExchange(19, bytes(64)), NONCE)
    assert [one.name for one in answer.notifies()] == ["INVALID_KE_PAYLOAD"]
    assert pair.right.rejected["wrong_ke_group"] == 1
    assert pair.right.seen(Notice) == []
    # Nor does it use up the word for what is refused right after it
    ask(pair, *WITHOUT_SUITE)
    assert [one.why for one in pair.right.seen(Notice)] == [Violation.NO_PROPOSAL]


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


def test_what_is_kept_of_a_first_request_is_bounded() -> None:
    """A thousand half-open ones of 64 KB each would be all the memory that a small machine has to spare."""
    pair = Pair()
    for number, extra in enumerate((60000, INIT_REQUEST_MAX)):
        assert ask(pair, *GOOD_REQUEST, VendorId(bytes(extra)), spi=number + 1) == []
    assert pair.right.rejected == {"malformed": 2}
    assert pair.right.sas == []
    room = INIT_REQUEST_MAX - len(emit_message(Header(1, 0, INIT, Flags.INITIATOR, 0), (*GOOD_REQUEST, VendorId(b""))))
    (answer,) = ask(pair, *GOOD_REQUEST, VendorId(bytes(room)), spi=3)
    assert answer.first(SecurityAssociation) is not None


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
