"""Additional key exchanges before IKE_AUTH and after CREATE_CHILD_SA (RFC 9242, RFC 9370)."""

from __future__ import annotations

import hmac
import random
from typing import Any

import pytest
from support.ike_pair import CHILD, IKE_OFFERS, NAME, CheapExchanges, Flight, Pair

from gateway.ike.commands import Initiate, Rekey
from gateway.ike.events import ExchangeFailed, IkeDown
from gateway.ike.key_exchange import KeyPair, Libcrypto
from gateway.ike.keymat import IkeKeys
from gateway.ike.message import HEADER_OCTETS, PAYLOAD_HEADER_OCTETS
from gateway.ike.payloads import KeyExchange, Notify
from gateway.ike.proposal import Offer, make_offer
from gateway.ike.registry import ExchangeType, NotifyType, Protocol

IKE = (
    make_offer(
        Protocol.IKE,
        [("aes-gcm-16", 256)],
        [],
        ["sha384"],
        ["x25519"],
        additional=[(1, ["mlkem768"]), (3, ["mlkem1024"])],
    ),
)
ESP = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["x25519"], [False], [(1, ["mlkem768"])]),)
X25519, ML_KEM_768, ML_KEM_1024 = 31, 36, 37


class Recorded(CheapExchanges):
    """Remembers the secrets in the order in which an initiator gets them."""

    def __init__(self) -> None:
        self.secrets: list[bytes] = []

    def answer(self, method: int, peer_public: bytes, seed: bytes) -> tuple[bytes, bytes]:
        public, shared = super().answer(method, peer_public, seed)
        self.secrets.append(shared)
        return public, shared

    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes:
        return super().agree(pair, peer_public)


def hybrid(**changes: Any) -> Pair:
    return Pair(**({"offers": IKE, "esp": ESP, "fragment_size": 0} | changes))


def exchanges(pair: Pair) -> list[str]:
    return [flight.message.header.exchange.name for flight in pair.sent]


def is_kind(flight: Flight, kind: ExchangeType, response: bool) -> bool:
    header = flight.message.header
    return (header.exchange, header.is_response) == (kind, response)


# --- before IKE_AUTH ------------------------------------------------------------------------------------------------


def test_one_intermediate_exchange_for_each_additional_key_exchange() -> None:
    pair = hybrid()
    pair.establish()
    rounds = ["IKE_SA_INIT", "IKE_INTERMEDIATE", "IKE_INTERMEDIATE", "IKE_AUTH"]
    assert exchanges(pair) == [name for name in rounds for _ in (0, 1)]
    for host in pair.hosts:
        assert host.sa.keys is not None
        choice = host.sa.keys.choice
        assert (choice.key_exchange, choice.additional, choice.post_quantum) == (X25519, (36, 37), ML_KEM_768)
    assert list(dict.fromkeys(flight.message.header.message_id for flight in pair.sent)) == [0, 1, 2, 3]


def test_real_ml_kem() -> None:
    pair = hybrid(key_exchanges=Libcrypto())
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    pair.settle()
    pair.right.command(Rekey(NAME))
    pair.settle()
    pair.run(10)
    pair.assert_agreed()


def test_childless_the_ike_sa_does_all_of_its_own_and_the_first_child_sa_those_of_its_offer() -> None:
    """RFC 9370 2.2.5, RFC 6023."""
    pair = hybrid(childless=True)
    pair.establish()
    rounds = ["IKE_SA_INIT", "IKE_INTERMEDIATE", "IKE_INTERMEDIATE", "IKE_AUTH", "CREATE_CHILD_SA", "IKE_FOLLOWUP_KE"]
    assert exchanges(pair) == [name for name in rounds for _ in (0, 1)]
    for host in pair.hosts:
        (child,) = host.sa.children.values()
        assert (child.choice.key_exchange, child.choice.additional) == (X25519, (ML_KEM_768,))
    pair.assert_agreed()


def test_a_path_that_takes_only_short_messages_is_told_as_such() -> None:
    pair = hybrid()
    pair.rewrite = lambda flight: None if is_kind(flight, ExchangeType.IKE_INTERMEDIATE, False) else flight
    pair.left.command(Initiate(NAME))
    pair.run(60)
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["NO_ANSWER_TO_IKE_INTERMEDIATE"]


def test_the_keys_are_those_of_rfc_9370() -> None:
    """RFC 9370 2.2.2, here once more from nothing but HMAC."""
    exchanges_ = Recorded()
    pair = hybrid(key_exchanges=exchanges_)
    pair.establish()
    sa = pair.left.sa
    nonces, spis = sa.ni + sa.nr, sa.spis

    def prf(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "sha384")

    sk_d = b""
    for number, shared in enumerate(exchanges_.secrets):
        seed = prf(sk_d, shared + nonces) if number else prf(nonces, shared)
        sk_d = prf(seed, nonces + spis + b"\1")  # T1 of prf+, as long as SK_d
    assert len(exchanges_.secrets) == 3
    assert sa.keys is not None
    assert sa.keys.secrets_for_keylog()["SK_d"] == sk_d


def test_auth_covers_what_was_said_in_between() -> None:
    """RFC 9242 3.3.2: by the keys of the round before, both directions apart, and the message ID of IKE_AUTH."""
    pair = hybrid()
    pair.establish()
    keys = pair.left.sa.keys
    assert keys is not None
    fresh = IkeKeys.initial(keys.choice, b"s", b"n" * 16, b"r" * 16, bytes(16), True)
    assert fresh.signed_octets(b"", b"", b"", True) == fresh.signed_octets(b"", b"", b"", True)[:48]
    secrets = fresh.secrets_for_keylog()
    fresh.absorb(b"request", of_initiator=True)
    fresh.absorb(b"response", of_initiator=False)
    after = fresh.after_intermediate(b"S", b"n" * 16, b"r" * 16, bytes(16))
    later = after.secrets_for_keylog()
    after.absorb(b"request 2", of_initiator=True)
    after.absorb(b"response 2", of_initiator=False)
    last = after.after_intermediate(b"T", b"n" * 16, b"r" * 16, bytes(16))

    def prf(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "sha384")

    said_i = prf(later["SK_pi"], prf(secrets["SK_pi"], b"request") + b"request 2")
    said_r = prf(later["SK_pr"], prf(secrets["SK_pr"], b"response") + b"response 2")
    macked = prf(last.secrets_for_keylog()["SK_pi"], b"id")
    expected = b"message" + b"nonce" + macked + said_i + said_r + (3).to_bytes(4, "big")
    assert last.signed_octets(b"message", b"nonce", b"id", True) == expected
    # RFC 8784 mixes SK_p again, but not what was said
    assert last.mixed(b"ppk").signed_octets(b"", b"", b"", True)[48:] == said_i + said_r + (3).to_bytes(4, "big")


@pytest.mark.parametrize("suite", [("aes-gcm-16", []), ("aes-cbc", ["sha256"])], ids=["gcm", "cbc"])
@pytest.mark.parametrize("fragment_size", [1280, 576])
def test_what_is_absorbed_depends_neither_on_the_cipher_nor_on_fragments(
    suite: tuple[str, list[str]], fragment_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 9242 3.3.2: lengths as if there were no IV, padding, ICV or fragments."""
    absorbed: list[bytes] = []
    absorb = IkeKeys.absorb

    def spy(self: IkeKeys, message: bytes, of_initiator: bool) -> None:
        absorbed.append(message)
        absorb(self, message, of_initiator)

    monkeypatch.setattr(IkeKeys, "absorb", spy)
    offers = (make_offer(Protocol.IKE, [(suite[0], 256)], suite[1], ["sha384"], ["x25519"], (), [(1, ["mlkem768"])]),)
    pair = hybrid(offers=offers, fragment_size=fragment_size)
    pair.establish()
    assert len(absorbed) == 4
    assert absorbed[0::2] == absorbed[1::2]
    for octets, public in ((absorbed[0], 1184), (absorbed[2], 1088)):
        payload = PAYLOAD_HEADER_OCTETS + 4 + public  # KE: method, reserved, data
        assert len(octets) == HEADER_OCTETS + PAYLOAD_HEADER_OCTETS + payload
        assert int.from_bytes(octets[24:28], "big") == len(octets)
        assert octets[16] == 46  # SK, not SKF
        assert octets[28] == 34  # KE is the first inside
        assert int.from_bytes(octets[30:32], "big") == PAYLOAD_HEADER_OCTETS + payload


@pytest.mark.parametrize("fragment_size", [1280, 400])
@pytest.mark.parametrize("response", [False, True], ids=["request", "response"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lost_message_is_repeated_under_the_keys_it_was_made_with(
    number: int, response: bool, fragment_size: int
) -> None:
    """The responder has other keys already when the request comes again (RFC 9370 2.2.2, RFC 7296 2.1)."""
    pair = hybrid(fragment_size=fragment_size)
    lost: list[Flight] = []

    def lose(flight: Flight) -> Flight | None:
        header = flight.message.header
        if (header.message_id, header.is_response) == (number, response) and flight.message.octets not in [
            one.octets for one in lost
        ]:
            lost.append(flight)
            return None
        return flight

    pair.rewrite = lose
    pair.left.command(Initiate(NAME))
    pair.run(20)
    assert lost
    pair.assert_agreed()
    assert not pair.left.rejected
    assert not pair.right.rejected


def test_ike_auth_before_the_last_key_exchange_is_refused() -> None:
    """Else a peer could leave out what makes the keys safe."""
    pair = hybrid()
    pair.left.command(Initiate(NAME))
    pair.deliver()
    sa = pair.left.sas[0]
    pair.deliver()  # the answer to IKE_SA_INIT; the first IKE_INTERMEDIATE leaves
    pair.deliver()
    pair.drop()
    assert sa.exchange is not None
    pair.left.core.sas(NAME)[0].window.pending = None
    # A peer that goes on to IKE_AUTH after one of two rounds, with the right keys for that
    keys = pair.right.sas[0].keys
    assert keys is not None
    sa.keys = IkeKeys.initial(keys.choice, b"", b"n" * 16, b"r" * 16, bytes(16), True)
    sa.keys.sealing, sa.keys.opening = keys.opening, keys.sealing
    sa.queue.popleft()
    sa.finish(pair.now)
    pair.drain()
    pair.settle()
    assert pair.right.sas == []
    assert pair.right.rejected.get("out_of_state") == 1
    assert not pair.right.data_plane.inbound


def test_a_key_exchange_that_was_not_agreed_on_ends_the_attempt() -> None:
    pair = Pair(fragment_size=0)
    pair.left.command(Initiate(NAME))
    pair.deliver()
    sa = pair.left.sas[0]
    pair.deliver()
    pair.drop()
    sa.window.pending, sa.window.next_request = None, 1
    sa.request(ExchangeType.IKE_INTERMEDIATE, (KeyExchange(ML_KEM_768, bytes(1184)),), pair.now)
    pair.drain()
    pair.deliver()
    assert pair.right.sas == []
    assert pair.right.rejected == {"wrong_ke_group": 1}


def test_an_optional_one_is_left_out_where_the_peer_has_none() -> None:
    optional = (
        make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], (), [(1, ["mlkem768", "none"])]),
    )
    plain = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"]),)
    for first, second in ((optional, plain), (plain, optional)):
        pair = Pair()
        pair.configure(pair.left, offers=first)
        pair.configure(pair.right, offers=second)
        pair.establish()
        assert pair.left.sa.keys is not None
        assert pair.left.sa.keys.choice.additional == ()
        assert "IKE_INTERMEDIATE" not in exchanges(pair)


def test_a_peer_that_knows_no_additional_key_exchanges_takes_the_other_proposal() -> None:
    pair = Pair()
    pair.configure(pair.left, offers=(*IKE, *IKE_OFFERS))
    pair.establish()
    assert "IKE_INTERMEDIATE" not in exchanges(pair)
    assert len(pair.left.sas[0].init_request) > 0


def test_without_the_peers_word_that_it_can_nothing_is_agreed() -> None:
    """RFC 9370 2.2.1: additional key exchanges only with who says INTERMEDIATE_EXCHANGE_SUPPORTED."""

    def without(flight: Flight) -> Flight:
        octets = flight.octets
        marker = int(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED).to_bytes(2, "big")
        if flight.message.header.exchange == ExchangeType.IKE_SA_INIT and marker in octets:
            assert flight.transmit is not None
            changed = octets.replace(b"\0\0" + marker, b"\0\0" + (40000).to_bytes(2, "big"))
            return Flight(
                flight.receiver, type(flight.transmit)(changed, flight.transmit.local, flight.transmit.remote)
            )
        return flight

    pair = hybrid()
    pair.rewrite = without
    pair.left.command(Initiate(NAME))
    pair.run(200)
    assert pair.right.sas == []
    assert pair.left.seen(IkeDown)[0].reason == "NO_PROPOSAL_CHOSEN_IKE"


# --- after CREATE_CHILD_SA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("child", [CHILD, ""], ids=["CHILD_SA", "IKE_SA"])
def test_a_rekey_goes_on_with_ike_followup_ke(child: str) -> None:
    pair = hybrid()
    pair.establish()
    for host in pair.hosts:
        pair.sent.clear()
        before = [entry.spi_out for entry in host.sa.children.values()], host.sa.initiator_spi
        host.command(Rekey(NAME, child))
        pair.run(70)  # the responder of a rekey waits for proof before it rekeys itself
        followups = 1 if child else 2
        assert exchanges(pair) == ["CREATE_CHILD_SA"] * 2 + ["IKE_FOLLOWUP_KE"] * 2 * followups + ["INFORMATIONAL"] * 2
        pair.assert_agreed()
        after = [entry.spi_out for entry in host.sa.children.values()], host.sa.initiator_spi
        assert (after[0] != before[0]) == bool(child)
        assert (after[1] != before[1]) == (not child)
        counts = host.core.counts(NAME)
        assert counts.exchanges["IKE_FOLLOWUP_KE initiator ok"] == 1
    assert pair.left.sa.followup is None
    assert pair.right.sa.followup is None


def test_the_secrets_of_all_rounds_are_in_the_childs_keys() -> None:
    """RFC 9370 2.2.4: KEYMAT = prf+(SK_d, SK(0) | Ni | Nr | SK(1) ...)."""
    recorded = Recorded()
    pair = hybrid(key_exchanges=recorded)
    pair.establish()
    recorded.secrets.clear()
    pair.left.random.scripted[32] = [b"I" * 32]
    pair.right.random.scripted[32] = [b"R" * 32]
    pair.left.command(Rekey(NAME, CHILD))
    pair.settle()
    assert pair.left.sa.keys is not None
    sk_d = pair.left.sa.keys.secrets_for_keylog()["SK_d"]
    first, second = recorded.secrets
    block = hmac.digest(sk_d, first + b"I" * 32 + b"R" * 32 + second + b"\1", "sha384")
    child = next(iter(pair.left.sa.children.values()))
    assert pair.left.data_plane.outbound[child.spi_out].encryption_key_out == block[:36]


@pytest.mark.parametrize("response", [False, True], ids=["request", "response"])
@pytest.mark.parametrize("child", [CHILD, ""], ids=["CHILD_SA", "IKE_SA"])
def test_lost_rounds_are_repeated(child: str, response: bool) -> None:
    pair = hybrid()
    pair.establish()
    lost: list[bytes] = []

    def lose(flight: Flight) -> Flight | None:
        if is_kind(flight, ExchangeType.IKE_FOLLOWUP_KE, response) and flight.octets not in lost:
            lost.append(flight.octets)
            return None
        return flight

    pair.rewrite = lose
    pair.left.command(Rekey(NAME, child))
    pair.run(30)
    assert len(lost) == (1 if child else 2)
    pair.assert_agreed()


@pytest.mark.parametrize("child", [CHILD, ""], ids=["CHILD_SA", "IKE_SA"])
def test_a_responder_that_lost_the_state_is_asked_again(child: str) -> None:
    """RFC 9370 2.2.4: STATE_NOT_FOUND, and the initiator begins anew; the old SA carries on meanwhile."""
    pair = hybrid()
    pair.establish()
    pair.left.command(Rekey(NAME, child))
    while not is_kind(pair.in_flight[0], ExchangeType.IKE_FOLLOWUP_KE, False):
        pair.deliver()
    pair.right.sa.followup = None
    pair.settle()
    pair.assert_agreed()
    assert pair.left.core.counts(NAME).notifies["STATE_NOT_FOUND in"] == 1
    assert not pair.left.seen(ExchangeFailed)
    before = pair.left.sa.initiator_spi, [entry.spi_out for entry in pair.left.sa.children.values()]
    pair.run(10)
    pair.assert_agreed()
    assert (pair.left.sa.initiator_spi, [entry.spi_out for entry in pair.left.sa.children.values()]) != before


def test_a_round_that_comes_too_late_finds_nothing() -> None:
    pair = hybrid()
    pair.establish()
    pair.left.command(Rekey(NAME, CHILD))
    while not is_kind(pair.in_flight[0], ExchangeType.IKE_FOLLOWUP_KE, False):
        pair.deliver()
    assert pair.right.sa.followup is not None
    pair.right.sa.followup.until = pair.now - 1
    pair.settle()
    assert pair.left.core.counts(NAME).notifies["STATE_NOT_FOUND in"] == 1


def test_a_round_of_another_link_or_method_is_refused() -> None:
    for payloads, notify in (
        ((KeyExchange(ML_KEM_768, bytes(1184)), Notify(NotifyType.ADDITIONAL_KEY_EXCHANGE, b"x")), "STATE_NOT_FOUND"),
        ((KeyExchange(ML_KEM_768, bytes(1184)),), "INVALID_SYNTAX"),
    ):
        pair = hybrid()
        pair.establish()
        pair.left.command(Rekey(NAME, CHILD))
        while not is_kind(pair.in_flight[0], ExchangeType.IKE_FOLLOWUP_KE, False):
            pair.deliver()
        pair.drop()
        sa = pair.left.sa
        sa.window.pending, sa.window.next_request = None, sa.window.next_request - 1
        sa.request(ExchangeType.IKE_FOLLOWUP_KE, payloads, pair.now)
        pair.drain()
        pair.deliver()
        assert pair.right.core.counts(NAME).notifies[f"{notify} out"] == 1


def test_nothing_is_installed_before_the_last_round() -> None:
    pair = hybrid()
    pair.establish()
    installed = [len(host.data_plane.inbound) for host in pair.hosts]
    pair.left.command(Rekey(NAME, CHILD))
    while not is_kind(pair.in_flight[0], ExchangeType.IKE_FOLLOWUP_KE, False):
        pair.deliver()
    assert [len(host.data_plane.inbound) for host in pair.hosts] == installed


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("children", [(CHILD, CHILD), ("", ""), (CHILD, "")], ids=["CHILD_SA", "IKE_SA", "both kinds"])
def test_rekeys_by_both_at_once_in_any_order(children: tuple[str, str], seed: int) -> None:
    """RFC 7296 2.8.1, RFC 9370 2.2.4: the rounds of both lie between, and some are lost."""
    pair, dice = hybrid(seed=seed), random.Random(seed)
    pair.establish()
    pair.left.command(Rekey(NAME, children[0]))
    pair.right.command(Rekey(NAME, children[1]))
    for _ in range(200):
        if not pair.in_flight:
            break
        index = dice.randrange(len(pair.in_flight))
        if dice.random() < 0.1:
            pair.drop(index)
        else:
            pair.deliver(index)
        pair.assert_flowing()
    pair.run(60)
    pair.assert_agreed()


# --- proposals ------------------------------------------------------------------------------------------------------


def test_no_method_is_done_twice() -> None:
    """RFC 9370 2.2.1: where the first key exchange is one of the additional ones, another is taken."""
    two = [(1, ["mlkem768", "mlkem1024"]), (2, ["mlkem768", "mlkem1024"])]
    offers: tuple[Offer, ...] = (
        make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["mlkem768", "x25519"], (), two),
    )
    pair = hybrid(offers=offers)
    pair.left.command(Initiate(NAME))
    pair.run(10)
    # mlkem768 first, mlkem1024 second, nothing is left for the third
    assert pair.left.sas == []
    offers = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], (), two),)
    pair = hybrid(offers=offers)
    pair.establish()
    assert pair.left.sa.keys is not None
    assert pair.left.sa.keys.choice.additional == (ML_KEM_768, ML_KEM_1024)
