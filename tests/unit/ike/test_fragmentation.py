"""IKE fragmentation (RFC 7383): pieces of a sealed message, each sealed by itself."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from support.ike_pair import ESP_OFFERS, IKE_OFFERS, LEFT, NAME, RIGHT, Flight, Pair
from support.ike_stages import NONCE, reach

from gateway.contract import Endpoint
from gateway.ike.commands import Initiate, Rekey
from gateway.ike.errors import PeerError
from gateway.ike.events import IkeUp
from gateway.ike.fragments import FRAGMENTS_MAX, Reassembly
from gateway.ike.keymat import FRAGMENT_OCTETS, seal_fragments
from gateway.ike.message import Header, parse_message
from gateway.ike.payloads import EncryptedFragment, Notify, VendorId
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol

SMALL = 150
"""Octets of a datagram: IKE_AUTH takes three or four."""
SUITES = {
    "aead": IKE_OFFERS,
    "cbc": (make_offer(Protocol.IKE, [("aes-cbc", 256)], ["sha256"], ["sha256"], ["ecp384"]),),
}


def fragments(flights: list[Flight]) -> list[EncryptedFragment]:
    return [one.message.fragment for one in flights if one.message.fragment is not None]


@pytest.mark.parametrize("suite", SUITES)
def test_everything_works_in_pieces_none_of_which_is_too_large(suite: str) -> None:
    pair = Pair(fragment_size=SMALL, offers=SUITES[suite])
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert len(pair.left.seen(IkeUp)) == len(pair.right.seen(IkeUp)) == 1
    for host in pair.hosts:
        host.command(Rekey(NAME))
        pair.settle()
        host.command(Rekey(NAME, "net"))
        pair.settle()
    pair.assert_agreed()
    pieces = fragments(pair.sent)
    assert len(pieces) > 10
    assert {one.first_inner == 0 for one in pieces if one.number > 1} == {True}
    sealed = [one for one in pair.sent if one.message.header.exchange != ExchangeType.IKE_SA_INIT]
    assert all(one.transmit and len(one.transmit.data) + 28 <= SMALL for one in sealed)
    assert pair.left.rejected == pair.right.rejected == {}


@pytest.mark.parametrize(("left", "right"), [(SMALL, 0), (0, SMALL), (0, 0)])
def test_who_was_not_told_that_the_other_can_sends_whole(left: int, right: int) -> None:
    pair = Pair()
    pair.configure(pair.left, fragment_size=left)
    pair.configure(pair.right, fragment_size=right)
    pair.establish()
    assert fragments(pair.sent) == []
    said = [one.message.notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED) is not None for one in pair.sent[:2]]
    assert said == [left > 0, False]


@pytest.mark.parametrize("seed", range(20))
def test_pieces_lost_doubled_and_out_of_order(seed: int) -> None:
    """RFC 7383 2.6: what is missing comes with the next retransmission of all of them."""
    chance = random.Random(seed)
    pair = Pair(seed=seed + 1, fragment_size=SMALL)
    pair.left.command(Initiate(NAME))
    for _ in range(2000):
        if pair.left.seen(IkeUp) and pair.right.seen(IkeUp) and not pair.in_flight:
            break
        if not pair.in_flight:
            pair.hold(0.5)
            continue
        index = chance.randrange(len(pair.in_flight))
        what = chance.random()
        if what < 0.1:
            pair.drop(index)
        else:
            pair.deliver(index, keep=what < 0.25)
    pair.run(30)
    pair.assert_agreed()


def pieces_of_a_request(size: int = SMALL) -> tuple[Pair, list[Flight]]:
    """The left host's IKE_AUTH, not delivered."""
    pair = Pair(fragment_size=size)
    pair.left.command(Initiate(NAME))
    while not fragments(pair.in_flight):
        pair.deliver()
    assert len(pair.in_flight) == fragments(pair.in_flight)[0].total > 2
    held, pair.in_flight[:] = list(pair.in_flight), []
    return pair, held


def give(pair: Pair, octets: bytes) -> None:
    pair.receive(pair.right, octets, Endpoint(LEFT, 4500), Endpoint(RIGHT, 4500))


def test_nothing_counts_before_it_verified() -> None:
    pair, held = pieces_of_a_request()
    octets = held[0].octets
    for place in range(28, len(octets)):
        give(pair, octets[:place] + bytes((octets[place] ^ 1,)) + octets[place + 1 :])
    assert pair.right.sas[0].reassembly[False] == Reassembly()
    assert pair.right.sas[0].last_heard == pair.right.sas[0].created_at
    assert pair.in_flight == [] and sum(pair.right.rejected.values()) >= len(octets) - 40
    for one in held:
        give(pair, one.octets)
    assert len(pair.right.seen(IkeUp)) == 1


def test_an_answer_is_repeated_once_for_all_pieces_of_a_repeated_request() -> None:
    """RFC 7383 2.6.1."""
    pair, held = pieces_of_a_request()
    for one in held:
        give(pair, one.octets)
    answer = [one.octets for one in pair.in_flight]
    pair.in_flight.clear()
    for one in held:
        give(pair, one.octets)
    assert [one.octets for one in pair.in_flight] == answer


def test_smaller_pieces_of_a_request_begun_again_are_taken_and_the_larger_forgotten() -> None:
    """RFC 7383 2.6: the peer looks for the size that passes."""
    pair, held = pieces_of_a_request()
    left = pair.left.sas[0]
    assert left.keys is not None
    message = pair.opened_pieces(held)
    smaller = seal_fragments(left.keys, held[0].message.header, message.payloads, pair.left.random, 100)
    assert len(smaller) > len(held)
    give(pair, held[0].octets)
    give(pair, held[1].octets)
    for piece in smaller[:-1]:
        give(pair, piece)
    for one in held:
        give(pair, one.octets)  # older and larger ones: too late
    assert pair.right.seen(IkeUp) == []
    give(pair, smaller[-1])
    assert len(pair.right.seen(IkeUp)) == 1


def test_pieces_for_who_did_not_agree_to_them_are_refused() -> None:
    stage = reach("responder", "ESTABLISHED", fragment_size=0)
    assert stage.peer_keys is not None
    head = Header(
        stage.sa.initiator_spi, stage.sa.responder_spi, ExchangeType.INFORMATIONAL, Flags.INITIATOR, stage.request_id
    )
    for piece in seal_fragments(stage.peer_keys, head, (VendorId(bytes(300)),), stage.peer.random, 200):
        stage.deliver(piece)
    assert stage.answers() == []
    assert stage.sa.reassembly[False] == Reassembly()


HEAD = Header(1, 2, ExchangeType.INFORMATIONAL, Flags.INITIATOR, 3)


@pytest.mark.parametrize(("number", "total"), [(0, 1), (1, 0), (2, 1), (0, 0), (1, FRAGMENTS_MAX + 1), (65535, 65535)])
def test_numbers_that_cannot_be(number: int, total: int) -> None:
    with pytest.raises(PeerError, match=f"fragment {number} of {total}"):
        Reassembly().wanted(HEAD, EncryptedFragment(number, total, b""))


def test_memory_is_bounded_by_the_largest_message_and_freed_with_the_next() -> None:
    reassembly = Reassembly()
    for number in (1, 2, 3):
        assert reassembly.add(HEAD, EncryptedFragment(number, 128, b""), bytes(20000)) is None
    with pytest.raises(PeerError, match="largest message"):
        reassembly.add(HEAD, EncryptedFragment(4, 128, b""), bytes(20000))
    assert reassembly == Reassembly()
    reassembly.add(HEAD, EncryptedFragment(2, 3, b""), b"two")
    other = replace(HEAD, message_id=4)
    assert reassembly.wanted(other, EncryptedFragment(1, 2, b""))
    reassembly.add(other, EncryptedFragment(1, 2, b"", 41), b"one ")
    assert reassembly.plaintexts == {1: b"one "}
    assert not reassembly.wanted(other, EncryptedFragment(1, 2, b""))
    whole = reassembly.add(other, EncryptedFragment(2, 2, b""), b"two")
    assert whole is not None
    assert (whole.first_inner, whole.plaintext) == (41, b"one two")
    assert reassembly == Reassembly()


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("largest", [120, 121, 127, 137, 300, 1252])
def test_every_piece_but_the_last_is_as_large_as_may_be(suite: str, largest: int) -> None:
    pair = Pair(offers=SUITES[suite])
    pair.establish()
    keys = pair.left.sas[0].keys
    assert keys is not None
    payloads = (Notify(16384, bytes(range(256)) * 6), NONCE)
    pieces = seal_fragments(keys, HEAD, payloads, pair.left.random, largest)
    slack = 16 if suite == "cbc" else 1
    assert all(largest - slack < len(piece) <= largest for piece in pieces[:-1])
    assert 0 < len(pieces[-1]) <= largest
    assert [parse_message(piece).fragment.number for piece in pieces] == list(range(1, len(pieces) + 1))  # type: ignore[union-attr]
    (whole,) = seal_fragments(keys, HEAD, payloads, pair.left.random, 3000)
    assert parse_message(whole).encrypted is not None
    assert seal_fragments(keys, HEAD, payloads, pair.left.random, len(whole))[1:] == ()
    assert len(seal_fragments(keys, HEAD, payloads, pair.left.random, len(whole) - 1)) == 2
    assert FRAGMENT_OCTETS == 4 and ESP_OFFERS


def test_a_rekeyed_ike_sa_goes_on_in_pieces() -> None:
    pair = Pair(fragment_size=SMALL)
    pair.establish()
    pair.left.command(Rekey(NAME))
    pair.settle()
    assert all(host.sas[0].fragments for host in pair.hosts)
    before = len(pair.sent)
    pair.right.command(Rekey(NAME, "net"))
    pair.settle()
    assert fragments(pair.sent[before:])
    pair.assert_agreed()
