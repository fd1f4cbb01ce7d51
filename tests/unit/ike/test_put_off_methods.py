"""Methods of authentication that would make the answer to IKE_SA_INIT too large are told in IKE_INTERMEDIATE (RFC 9593 3.1)."""

from __future__ import annotations

from typing import Any

import pytest
from support.certified import CertifiedPair, ends
from support.ike_pair import NAME, Flight
from support.ike_stages import IKE_KE, NONCE, ask, ike_offer
from support.pki import Authority

from gateway.ike.commands import Initiate, Rekey
from gateway.ike.keymat import open_message, seal_message
from gateway.ike.message import Message
from gateway.ike.payloads import IdentificationInitiator, KeyExchange, Notify, Payload
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.signatures import methods_announced

ROOT = Authority("root", "ed25519")
LEFT_END, RIGHT_END = ends(ROOT, "ed25519")
METHODS, CAN = NotifyType.SUPPORTED_AUTH_METHODS, NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
INTERMEDIATE = ExchangeType.IKE_INTERMEDIATE
TOLD = Notify(METHODS, methods_announced(False))
HYBRID = make_offer(
    Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], (), [(1, ["ecp384"]), (2, ["ecp256"])]
)
SMALL = 560
"""Octets of a datagram: what is told just fits into one, but not beside what else stands in the answer to IKE_SA_INIT."""


def pair(size: int, **changes: Any) -> CertifiedPair:
    return CertifiedPair(LEFT_END, RIGHT_END, (ROOT,), fragment_size=size, **changes)


def played(two: CertifiedPair) -> list[tuple[Message, tuple[Payload, ...]]]:
    """Sets up the IKE_SA; every message with what is in it, as its receiver reads it."""
    found = []

    def read(flight: Flight) -> Flight:
        message = flight.message
        if message.encrypted is None:
            found.append((message, message.payloads))
        elif flight.receiver.sas:
            keys = flight.receiver.sas[-1].keys
            assert keys is not None
            found.append((message, open_message(keys, message).payloads))
        return flight

    two.rewrite = read
    two.left.command(Initiate(NAME))
    for _ in range(40):
        if two.in_flight and two.in_flight[0].message.header.exchange == ExchangeType.IKE_AUTH:
            break
        two.deliver()
    two.rewrite = lambda flight: flight
    two.settle()
    return found


def told_in(payloads: tuple[Payload, ...]) -> list[bytes]:
    return [one.data for one in payloads if isinstance(one, Notify) and one.type == METHODS]


def test_what_does_not_fit_comes_in_an_exchange_of_its_own() -> None:
    two = pair(SMALL)
    said = played(two)
    two.assert_agreed()
    (_, answer), (_, request), (_, response) = [
        one for one in said if one[0].header.exchange in (ExchangeType.IKE_SA_INIT, INTERMEDIATE)
    ][1:4]
    assert told_in(answer) == [b""]
    assert [one for one in answer if isinstance(one, Notify) and one.type == CAN]
    assert (request, response) == ((), (TOLD,))
    assert two.left.sa.methods_said == (TOLD.data,)
    assert two.right.sa.methods_owed is None
    two.left.command(Rekey(NAME))
    two.settle()
    two.assert_agreed()


def test_what_fits_is_told_at_once() -> None:
    two = pair(1280)
    said = played(two)
    two.assert_agreed()
    assert INTERMEDIATE not in {message.header.exchange for message, _ in said}
    assert told_in(said[1][1]) == [TOLD.data]
    assert [one.type for one in said[1][1] if isinstance(one, Notify) and one.type == CAN] == []


def test_with_additional_key_exchanges_it_comes_in_the_last_of_them() -> None:
    two = pair(SMALL, offers=(HYBRID,))
    said = played(two)
    two.assert_agreed()
    answers = [
        payloads for message, payloads in said
        if message.header.exchange == INTERMEDIATE and message.header.is_response
    ]  # fmt: skip
    assert [told_in(payloads) for payloads in answers] == [[], [TOLD.data]]
    assert all(any(isinstance(one, KeyExchange) for one in payloads) for payloads in answers)
    assert two.left.sa.methods_said == (TOLD.data,)


@pytest.mark.parametrize("more", [(), (Notify(CAN),)], ids=["cannot", "no fragments"])
def test_who_could_not_hear_it_later_is_told_at_once(more: tuple[Notify, ...]) -> None:
    able = () if more else (Notify(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED),)
    (answer,) = ask(pair(SMALL), ike_offer(b""), IKE_KE, NONCE, *able, *more)
    assert told_in(answer.payloads) == [TOLD.data]


def test_an_empty_list_alone_is_no_list() -> None:
    """A responder that puts it off and then says nothing takes what it took before it could say."""
    two = pair(SMALL)
    serve = two.right.core.serve

    def forget(sa: Any, message: Message, now: float) -> None:
        if message.header.exchange == INTERMEDIATE:
            sa.methods_owed = None
            sa.respond(INTERMEDIATE, (), now)
        else:
            serve(sa, message, now)

    two.right.core.serve = forget  # type: ignore[method-assign]
    two.begin()
    two.assert_agreed()
    assert two.left.sa.methods_said == ()


@pytest.mark.parametrize(
    "told", [(Notify(METHODS, bytes((3, 14, 0)) * 2),), (), (TOLD, TOLD)], ids=["others", "nothing", "twice"]
)
def test_what_is_bent_on_the_way_is_noticed(told: tuple[Notify, ...]) -> None:
    """Even by who could seal it: AUTH covers what was said."""
    two = pair(SMALL)

    def bend(flight: Flight) -> Flight:
        message, sent = flight.message, flight.transmit
        if message.header.exchange != INTERMEDIATE or not message.header.is_response or sent is None:
            return flight
        (sa,) = two.right.sas
        assert sa.keys is not None
        octets = seal_message(sa.keys, message.header, told, two.right.random)
        return Flight(flight.receiver, type(sent)(bytes(4) + octets, sent.local, sent.remote))

    two.rewrite = bend
    two.begin()
    two.run(60)
    assert two.left.sas == two.right.sas == []
    # Either end may see it first: who would have to sign as nobody can, or who checks
    assert {"WRONG_SIGNATURE", "NO_COMMON_SIGNATURE"} & set(two.failures())


@pytest.mark.parametrize("name", ["with our identity", "a second time", "with a key exchange", "nothing was put off"])
def test_who_asks_otherwise(name: str) -> None:
    two = pair(1280 if name == "nothing was put off" else SMALL)
    two.left.command(Initiate(NAME))
    while not two.left.sas or two.left.sas[0].keys is None:
        two.deliver()
    two.in_flight.clear()
    (sa,) = two.right.sas
    ours = two.left.sas[0]
    payloads: tuple[Payload, ...] = ()
    if name == "with our identity":
        settings = ours.settings
        payloads = (IdentificationInitiator(settings.local_id.type, settings.local_id.data),)
    elif name == "with a key exchange":
        payloads = (KeyExchange(31, bytes(32)),)
    answers = []
    for number in (1, 2) if name == "a second time" else (1,):
        octets = two.sealed(two.left, INTERMEDIATE, payloads, message_id=number)
        two.receive(two.right, octets, ours.local, ours.remote)
        answers.append(open_message(ours.keys, two.in_flight.pop().message).payloads)  # type: ignore[arg-type]
    refused = (Notify(NotifyType.INVALID_SYNTAX),)
    assert answers == {"with our identity": [(TOLD,)], "a second time": [(TOLD,), refused]}.get(name, [refused])
    assert (two.right.sas == [sa]) == (name == "with our identity")


def test_it_may_go_in_fragments_there() -> None:
    two = pair(200)
    two.begin()
    two.assert_agreed()
    assert two.left.sa.methods_said == (TOLD.data,)
    pieces = [one.message for one in two.sent if one.message.header.exchange == INTERMEDIATE and one.message.fragment]
    assert len(pieces) > 1
