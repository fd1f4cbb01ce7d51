"""Quick crash detection (RFC 6290): tokens are exchanged, shown by who lost an IKE_SA, and never for one that lives."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Any

import pytest
from support.ike_pair import NAME, Flight, Host, Pair, header, in_clear, snapshot

from gateway.contract import Endpoint
from gateway.ike.commands import Initiate, Rekey, Terminate
from gateway.ike.crash_detection import AGAIN_WAIT, ANSWER_OCTETS, ANSWERS_AT_ONCE, ANSWERS_PER_SECOND, Tokens
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.events import IkeDown
from gateway.ike.message import emit_message, parse_message
from gateway.ike.payloads import Notify
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol
from gateway.ike.sa import IkeSa

LEFT_SECRET, RIGHT_SECRET = bytes(range(32)), bytes(range(1, 33))
INFO = ExchangeType.INFORMATIONAL
QCD = NotifyType.QUICK_CRASH_DETECTION
SUITES = {
    "gcm": make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["ecp384"]),
    "gcm8": make_offer(Protocol.IKE, [("aes-gcm-8", 128)], [], ["sha256"], ["ecp256"]),
    "chacha20": make_offer(Protocol.IKE, [("chacha20-poly1305", 256)], [], ["sha256"], ["x25519"]),
    "cbc-sha1": make_offer(Protocol.IKE, [("aes-cbc", 128)], ["sha1"], ["sha1"], ["ecp256"]),
    "cbc-sha256": make_offer(Protocol.IKE, [("aes-cbc", 256)], ["sha256"], ["sha256"], ["ecp256"]),
}


def make_pair(**changes: Any) -> Pair:
    pair = Pair(**changes)
    pair.left.core.tokens, pair.right.core.tokens = Tokens(LEFT_SECRET), Tokens(RIGHT_SECRET)
    return pair


def established(**changes: Any) -> Pair:
    pair = make_pair(**changes)
    pair.left.command(Initiate(NAME))
    pair.settle()
    pair.assert_agreed()
    return pair


def crash(pair: Pair, host: Host, **changes: Any) -> None:
    """It forgets everything but its secret."""
    secret = host.core.tokens
    host.core = IkeEndpoint(host.random, host.core.key_exchanges)
    host.core.tokens = Tokens(secret._secret)
    host.data_plane = type(host.data_plane)()
    host.random._random.seed(pair.now)
    pair.configure(host, **changes)


def token_of(secret: bytes, sa: IkeSa) -> bytes:
    return hmac.digest(secret, sa.spis, sha256)


def downs(host: Host) -> list[str]:
    return [event.reason for event in host.seen(IkeDown)]


def test_each_end_gets_the_others_token() -> None:
    pair = established()
    assert pair.left.sa.peer_token == token_of(RIGHT_SECRET, pair.left.sa)
    assert pair.right.sa.peer_token == token_of(LEFT_SECRET, pair.right.sa)


@pytest.mark.parametrize("by", ["left", "right"])
def test_a_rekeyed_ike_sa_has_new_tokens(by: str) -> None:
    """RFC 6290 4.3: the responder's goes with its answer, the initiator's in an INFORMATIONAL."""
    pair = established()
    before = pair.left.sa.peer_token
    getattr(pair, by).command(Rekey(NAME))
    pair.settle()
    pair.assert_agreed()
    assert pair.left.sa.peer_token == token_of(RIGHT_SECRET, pair.left.sa) != before
    assert pair.right.sa.peer_token == token_of(LEFT_SECRET, pair.right.sa)


def test_both_rekey_at_once_and_have_the_tokens_of_the_one_that_stays() -> None:
    pair = established()
    for host in pair.hosts:
        host.core.command(Rekey(NAME), pair.now)
    pair.drain()
    pair.settle()
    pair.assert_agreed()
    assert pair.left.sa.peer_token == token_of(RIGHT_SECRET, pair.left.sa)
    assert pair.right.sa.peer_token == token_of(LEFT_SECRET, pair.right.sa)


@pytest.mark.parametrize("secret", [b"", RIGHT_SECRET])
@pytest.mark.parametrize("switch", [True, False])
def test_no_secret_or_switched_off_no_token(secret: bytes, switch: bool) -> None:
    pair = make_pair()
    pair.right.core.tokens = Tokens(secret)
    pair.configure(pair.right, quick_crash_detection=switch)
    pair.left.command(Initiate(NAME))
    pair.settle()
    pair.assert_agreed()
    assert bool(pair.left.sa.peer_token) == (bool(secret) and switch)
    assert bool(pair.right.sa.peer_token) == switch


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("crashed", ["left", "right"])
def test_a_crash_is_noticed_at_the_first_message(crashed: str, suite: str) -> None:
    pair = established(offers=(SUITES[suite],))
    victim: Host = getattr(pair, crashed)
    witness = pair.peer_of(victim)
    crash(pair, victim, offers=(SUITES[suite],))
    pair.now += 1
    witness.command(Rekey(NAME, "net"))
    question = pair.in_flight[0].octets
    victim.core.stirred()
    pair.deliver()
    assert victim.core.stirred() == [NAME], "its picture has one notification more"
    (answer,) = pair.in_flight
    assert [Notify(one.type).name for one in answer.message.notifies()] == ["INVALID_IKE_SPI", QCD.name]
    assert len(answer.octets) == ANSWER_OCTETS <= len(question)
    assert victim.core.counts(NAME).notifies["QUICK_CRASH_DETECTION out"] == 1
    pair.deliver()
    assert downs(witness) == ["PEER_CRASHED"]
    assert (witness.sas, witness.data_plane.inbound, pair.in_flight) == ([], {}, [])
    witness.command(Initiate(NAME))
    pair.settle()
    pair.assert_agreed()


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("crashed", ["left", "right"])
def test_a_liveness_check_is_long_enough_to_be_answered(crashed: str, suite: str) -> None:
    """Nothing in it but padding: no answer is longer than what it answers."""
    pair = established(offers=(SUITES[suite],), dpd_delay=10.0)
    victim: Host = getattr(pair, crashed)
    witness = pair.peer_of(victim)
    crash(pair, victim, offers=(SUITES[suite],))
    pair.run(10.5)
    assert downs(witness) == ["PEER_CRASHED"]


def test_without_a_token_it_takes_the_time_of_the_retransmissions() -> None:
    pair = Pair(dpd_delay=10.0)
    pair.establish()
    crash(pair, pair.right)
    pair.run(40)
    assert downs(pair.left) == []
    pair.run(30)
    assert downs(pair.left) == ["DPD_TIMEOUT"]


def test_a_delete_that_finds_nobody_has_what_it_wanted() -> None:
    pair = established()
    crash(pair, pair.right)
    pair.left.command(Terminate(NAME))
    pair.settle()
    assert (downs(pair.left), pair.left.sas) == (["TERMINATED"], [])


# --- what is not believed -------------------------------------------------------------------------------------------


def forged(sa: IkeSa, tokens: list[bytes], *, response: bool = True, kind: ExchangeType = INFO) -> bytes:
    """In the name of the peer of `sa`."""
    flags = (Flags(0) if sa.is_initiator else Flags.INITIATOR) | (Flags.RESPONSE if response else Flags(0))
    head = header(sa, kind, sa.window.next_request, response)
    head = type(head)(head.initiator_spi, head.responder_spi, kind, flags, head.message_id)
    notifies = (Notify(NotifyType.INVALID_IKE_SPI), *(Notify(QCD, one, 1) for one in tokens))
    return emit_message(head, notifies)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "tokens", [[bytes(32)], [b""], [bytes(128)], [bytes(32)] * 4, [bytes(31)], [bytes(16)] * 40], ids=len
)
def test_a_forged_token_changes_nothing(side: str, tokens: list[bytes]) -> None:
    pair = established()
    host: Host = getattr(pair, side)
    before = snapshot(host.core)
    pair.receive(host, forged(host.sa, tokens))
    assert snapshot(host.core) == before
    assert (host.rejected, pair.in_flight) == ({"crash_token": 1}, [])


def test_our_own_token_is_not_the_peers() -> None:
    pair = established()
    pair.receive(pair.left, forged(pair.left.sa, [token_of(LEFT_SECRET, pair.left.sa)]))
    assert pair.left.sa.established
    assert pair.left.rejected == {"crash_token": 1}


def test_a_token_among_four_is_found_and_a_fifth_is_not_looked_at() -> None:
    """RFC 6290 4.5: of several generations of the maker's secret."""
    pair = established()
    good = pair.left.sa.peer_token
    pair.receive(pair.left, forged(pair.left.sa, [*[bytes(32)] * 4, good]))
    assert pair.left.sa.established
    pair.receive(pair.left, forged(pair.left.sa, [*[bytes(32)] * 3, good]))
    assert pair.left.sas == []


def test_a_token_in_a_request_is_none() -> None:
    pair = established()
    pair.receive(pair.left, forged(pair.left.sa, [pair.left.sa.peer_token], response=False))
    assert pair.left.sa.established
    assert pair.left.rejected == {"grammar": 1}


def test_the_token_of_another_ike_sa_is_not_taken() -> None:
    pair = established()
    old = pair.left.sa.peer_token
    pair.left.command(Rekey(NAME))
    pair.settle()
    pair.receive(pair.left, forged(pair.left.sa, [old]))
    assert pair.left.sa.established
    assert pair.left.rejected == {"crash_token": 1}


@pytest.mark.parametrize("octets", [0, 15, 129])
def test_tokens_of_no_good_length_are_not_taken(octets: int) -> None:
    """RFC 6290 4.1: an empty one would be anybody's."""
    pair = established()
    before = pair.left.sa.peer_token
    answer = pair.request(pair.right, INFO, (Notify(QCD, bytes(octets), 1),))
    assert answer is not None
    assert pair.left.sa.peer_token == before


def test_another_token_in_a_protected_message_replaces_the_first() -> None:
    """RFC 6290 4.4."""
    pair = established()
    assert pair.request(pair.right, INFO, (Notify(QCD, bytes(16), 1),)) is not None
    assert pair.left.sa.peer_token == bytes(16)


# --- to whom it is not shown ----------------------------------------------------------------------------------------


def asked(pair: Pair, host: Host, octets: bytes, remote: Endpoint | None = None) -> list[Flight]:
    """What `host` answers."""
    before = len(pair.in_flight)
    pair.receive(host, octets, remote)
    answers = pair.in_flight[before:]
    del pair.in_flight[before:]
    return answers


def lost(pair: Pair) -> bytes:
    """A protected request of the right host for an IKE_SA that the left one has lost."""
    question = pair.sealed(pair.right, INFO, (Notify(NotifyType.INITIAL_CONTACT, bytes(40)),))
    crash(pair, pair.left)
    return question


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_token_of_a_living_ike_sa_is_never_shown(side: str) -> None:
    """RFC 6290 9.2: also not to who turns the initiator flag, swaps the SPIs, or has only one of them right."""
    pair = established()
    host: Host = getattr(pair, side)
    sa = host.sa
    body = bytes(100)
    for spis in (
        (sa.initiator_spi, sa.responder_spi),
        (sa.responder_spi, sa.initiator_spi),
        (sa.initiator_spi, 7),
        (7, sa.initiator_spi),
        (sa.responder_spi, 7),
        (7, sa.responder_spi),
    ):
        for flags in range(0, 64, 8):
            for kind in (INFO, ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_AUTH, ExchangeType.IKE_SA_INIT):
                octets = sealed_nonsense(spis, kind, flags, body)
                for answer in asked(pair, host, octets):
                    assert answer.message.notify(QCD) is None
    assert sa.established


def sealed_nonsense(spis: tuple[int, int], kind: ExchangeType, flags: int, body: bytes) -> bytes:
    head = b"".join(spi.to_bytes(8, "big") for spi in spis) + bytes([46, 0x20, kind, flags]) + bytes(4)
    return head + (32 + len(body)).to_bytes(4, "big") + bytes(2) + (4 + len(body)).to_bytes(2, "big") + body


def test_a_token_of_an_ike_sa_to_be_is_not_shown() -> None:
    """The answer to our rekey is lost, and the peer already uses the new IKE_SA."""
    pair = established()
    pair.left.command(Rekey(NAME))
    pair.deliver()
    pair.drop()
    new = pair.right.sa
    assert new.initiator_spi not in {sa.initiator_spi for sa in pair.left.sas}
    octets = sealed_nonsense((new.initiator_spi, new.responder_spi), INFO, 0, bytes(100))
    # Our rekey is asked for again instead
    assert [flight.message.header.exchange.name for flight in asked(pair, pair.left, octets)] == ["CREATE_CHILD_SA"]
    pair.run(5)
    pair.assert_agreed()


def test_who_asks_in_clear_or_by_a_response_is_not_answered() -> None:
    pair = established()
    sa, question = pair.right.sa, lost(pair)
    clear = in_clear(sa, INFO, (Notify(NotifyType.INITIAL_CONTACT, bytes(60)),), 0)
    answer = question[:19] + bytes([question[19] | Flags.RESPONSE]) + question[20:]
    no_spi = question[:8] + bytes(8) + question[16:]
    for octets in (clear, answer, no_spi):
        assert asked(pair, pair.left, octets) == []
    assert len(asked(pair, pair.left, question)) == 1


def test_who_is_no_peer_is_not_answered() -> None:
    pair = established()
    question = lost(pair)
    assert asked(pair, pair.left, question, Endpoint("203.0.113.9", 4500)) == []
    assert pair.left.rejected == {"unknown_spi": 1}


def test_nothing_shorter_than_the_answer_is_answered() -> None:
    pair = established()
    lost(pair)
    short, long = (
        sealed_nonsense((1, 2), INFO, 8, bytes(octets)) for octets in (ANSWER_OCTETS - 33, ANSWER_OCTETS - 32)
    )
    assert asked(pair, pair.left, short) == []
    (answer,) = asked(pair, pair.left, long)
    assert len(answer.octets) == len(long)


def test_answers_are_rationed_by_ike_sa_and_altogether() -> None:
    tokens, local = Tokens(LEFT_SECRET), Endpoint("10.0.0.1", 500)
    remotes = [Endpoint(f"10.1.{n // 250}.{n % 250}", 500) for n in range(1000)]
    question = parse_message(sealed_nonsense((1, 2), INFO, 8, bytes(100)))
    assert len(tokens.answer(question, local, remotes[0], 10.0)) == 2
    assert tokens.answer(question, local, remotes[0], 10.4) == ()
    assert len(tokens.answer(question, local, remotes[0], 10.6)) == 2
    another = parse_message(sealed_nonsense((1, 3), INFO, 8, bytes(100)))
    assert len(tokens.answer(another, local, remotes[0], 10.6)) == 2
    assert sum(bool(tokens.answer(question, local, remote, 20.0)) for remote in remotes[1:]) == ANSWERS_AT_ONCE
    assert sum(bool(tokens.answer(question, local, remote, 20.1)) for remote in remotes[900:]) == 10


def test_who_writes_in_the_peers_name_keeps_no_token_from_it() -> None:
    """Fifty forged datagrams a second, about IKE_SAs that never were, came before each of the peer's own."""
    pair = established(dpd_delay=10.0)
    crash(pair, pair.left)
    pair.right.command(Rekey(NAME, "net"))
    pair.drop()
    for number in range(300):
        asked(pair, pair.left, sealed_nonsense((0xBAD, number + 1), INFO, 8, bytes(100)))
        pair.run(0.02)
    assert downs(pair.right) == ["PEER_CRASHED"]


def test_who_writes_in_one_peers_name_takes_no_token_from_the_others() -> None:
    tokens, local = Tokens(LEFT_SECRET), Endpoint("10.0.0.1", 500)
    flooded, told, asked_by = Endpoint("10.1.0.1", 500), 0, 0
    for number in range(5000):
        now = 10.0 + number / 250
        tokens.answer(parse_message(sealed_nonsense((number + 1, 2), INFO, 8, bytes(100))), local, flooded, now)
        if number % 125 == 7:
            asked_by += 1
            question = parse_message(sealed_nonsense((1, 2), INFO, 8, bytes(100)))
            told += bool(tokens.answer(question, local, Endpoint(f"10.2.0.{asked_by}", 500), now))
    assert told == asked_by == 40


def test_what_is_remembered_of_answers_is_bounded() -> None:
    tokens, local, remote = Tokens(LEFT_SECRET), Endpoint("10.0.0.1", 500), Endpoint("10.1.0.1", 500)
    most = answered = 0
    for number in range(5000):
        question = parse_message(sealed_nonsense((number + 1, 2), INFO, 8, bytes(100)))
        answered += bool(tokens.answer(question, local, remote, 10.0 + number / 1000))
        most = max(most, len(tokens._waiting))
    assert most <= ANSWERS_AT_ONCE + ANSWERS_PER_SECOND * AGAIN_WAIT
    assert answered <= ANSWERS_AT_ONCE + ANSWERS_PER_SECOND * 5


def test_a_token_is_of_both_spis_and_of_the_secret() -> None:
    makers = Tokens(LEFT_SECRET), Tokens(RIGHT_SECRET)
    made = {maker.make(*spis, "10.0.0.1") for maker in makers for spis in ((1, 2), (2, 1), (1, 3))}
    assert len(made) == 6
    assert {len(one) for one in made} == {32}


def test_both_gateways_of_a_pair_make_the_same_tokens_for_an_address_that_moves_and_for_no_other() -> None:
    """RFC 6290 9.2: only who has the address is asked."""
    left, right = Tokens(LEFT_SECRET), Tokens(RIGHT_SECRET)
    for one in (left, right):
        one.share(("10.0.0.1",), b"of both")
    assert left.make(1, 2, "10.0.0.1") == right.make(1, 2, "10.0.0.1")
    assert left.make(1, 2, "10.0.0.2") != right.make(1, 2, "10.0.0.2")
    left.share((), b"")
    assert left.make(1, 2, "10.0.0.1") != right.make(1, 2, "10.0.0.1")
