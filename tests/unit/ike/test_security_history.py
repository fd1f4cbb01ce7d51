"""Known attacks on IKE daemons, one test each by the name they became known by, and what stops them here.

What is walked in full elsewhere (states, mutation, retransmission) is played once here as its attacker did.
"""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import pytest
from support.ike_pair import LEFT, NAME, PSK, RIGHT, Pair, in_clear, snapshot
from support.ike_stages import (
    AUTH,
    ESP_KE,
    ID_I,
    ID_R,
    IKE_KE,
    KINDS,
    NONCE,
    ROLES,
    Stage,
    esp_offer,
    header_of,
    ike_offer,
    reach,
    selectors,
)
from support.work import calls_while

from gateway.contract import Endpoint
from gateway.ike.commands import Initiate
from gateway.ike.cookies import HALF_OPEN_FREE
from gateway.ike.events import ChildInstall, IkeDown, IkeUp, Notice
from gateway.ike.keymat import seal_fragments
from gateway.ike.message import Header, emit_header, emit_message
from gateway.ike.payloads import (
    Authentication,
    Delete,
    IdentificationInitiator,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
    Transform,
)
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol

CREATE, INFO, AUTH_EXCHANGE, INIT = (
    ExchangeType.CREATE_CHILD_SA,
    ExchangeType.INFORMATIONAL,
    ExchangeType.IKE_AUTH,
    ExchangeType.IKE_SA_INIT,
)
FATAL = (7, 24)
"""INVALID_SYNTAX and AUTHENTICATION_FAILED end an IKE_SA (RFC 7296 2.21.2, 2.21.3); see test_informational.py."""


def request(stage: Stage, exchange: ExchangeType, *payloads: Payload) -> None:
    stage.deliver(stage.encode(exchange, payloads, stage.request_id, False))


# --- authentication skipped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_cve_2014_2338_a_rekey_of_an_ike_sa_nobody_authenticated(role: str) -> None:
    stage = reach(role, "AUTH")
    before = snapshot(stage.host.core)
    for kind in ("REKEY IKE", "NEW CHILD", "REKEY CHILD"):
        request(stage, CREATE, *KINDS[kind].payloads(stage))
        assert stage.outcome() == "CONNECTING -out_of_state"
    assert snapshot(stage.host.core) == before


@pytest.mark.parametrize("role", ROLES)
def test_cve_2021_45079_success_said_before_it_was_proved(role: str) -> None:
    """There as an early EAP-Success; here every status the peer can claim instead of AUTH."""
    for status in NotifyType:
        if status.is_error:
            continue
        stage = reach(role, "AUTH")
        who = ID_R if role == "initiator" else ID_I
        number = stage.response_id if role == "initiator" else stage.request_id
        stage.deliver(stage.encode(AUTH_EXCHANGE, (who, Notify(status)), number, role == "initiator"))
        assert not stage.sa.established
        assert stage.host.seen(IkeUp) == []


def test_cve_2023_26463_no_trust_before_the_proof() -> None:
    """The right name, everything for a CHILD_SA, and a wrong proof: nothing of it was acted on."""
    stage = reach("responder", "AUTH")
    request(stage, AUTH_EXCHANGE, ID_I, AUTH, Notify(NotifyType.INITIAL_CONTACT), esp_offer(), *selectors())
    assert stage.outcome() == "DESTROYING <IKE_AUTH[AUTHENTICATION_FAILED] -authentication"
    assert stage.host.seen(IkeUp) == stage.host.seen(ChildInstall) == []


@pytest.mark.parametrize("role", ROLES)
def test_iked_2025_an_address_taken_from_a_packet_nobody_authenticated(role: str) -> None:
    stage = reach(role, "ESTABLISHED")
    before = snapshot(stage.host.core)
    good = stage.octets(KINDS["LIVENESS"], stage.request_id, False)
    forged = good[:-1] + bytes([good[-1] ^ 1])
    stage.pair.receive(stage.host, forged, Endpoint("203.0.113.66", 4500), stage.sa.local)
    assert snapshot(stage.host.core) == before


@pytest.mark.parametrize("proof", [b"", b"\0", bytes(47), bytes(48), bytes(49), b"\xff" * 48])
def test_cve_2013_2944_an_empty_or_wrong_proof(proof: bytes) -> None:
    for method in (2, 0, 9, 13, 14):
        stage = reach("responder", "AUTH")
        request(stage, AUTH_EXCHANGE, ID_I, Authentication(method, proof))
        why = "authentication" if method == 2 else "auth_method"
        assert stage.outcome() == f"DESTROYING <IKE_AUTH[AUTHENTICATION_FAILED] -{why}"


# --- lengths and legal values nobody expected -----------------------------------------------------------------------------------


@pytest.mark.parametrize("octets", [0, 1, 63, 65, 1000, 60000])
def test_cve_2023_41913_a_public_value_of_any_length(octets: int) -> None:
    stage = reach("responder", "ESTABLISHED")
    request(stage, CREATE, esp_offer(), NONCE, KeyExchange(19, bytes(octets)), *selectors())
    assert stage.outcome() == "DESTROYING <CREATE_CHILD_SA[INVALID_SYNTAX] -bad_key_exchange"


@pytest.mark.parametrize("octets", [0, 1, 19, 21, 200])
def test_vpp_2026_nat_detection_of_any_length(octets: int) -> None:
    pair = Pair()
    data = (
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, bytes(octets)),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, bytes(octets)),
    )
    octets_ = emit_message(Header(5, 0, INIT, Flags.INITIATOR, 0), (ike_offer(b""), IKE_KE, NONCE, *data))
    pair.receive(pair.right, octets_, Endpoint(LEFT, 500), Endpoint(RIGHT, 500))
    assert len(pair.in_flight) == 1
    assert pair.right.sas[0].nat.local
    assert pair.right.sas[0].nat.remote


@pytest.mark.parametrize("addresses", [b"", bytes(4), bytes(7), bytes(9), bytes(16), bytes(32)])
def test_cve_2023_23009_traffic_selectors_of_any_length(addresses: bytes) -> None:
    stage = reach("responder", "ESTABLISHED")
    odd = (TrafficSelector(7, 0, 0, 65535, addresses),)
    request(stage, CREATE, esp_offer(), NONCE, ESP_KE, TrafficSelectorsInitiator(odd), TrafficSelectorsResponder(odd))
    assert stage.outcome() == "DESTROYING <CREATE_CHILD_SA[INVALID_SYNTAX] -grammar"


@pytest.mark.parametrize("reverse", ["addresses", "ports"])
def test_traffic_selectors_that_end_before_they_begin(reverse: str) -> None:
    stage = reach("responder", "ESTABLISHED")
    ends = b"\xff" * 4 + bytes(4) if reverse == "addresses" else bytes(4) + b"\xff" * 4
    odd = (TrafficSelector(7, 0, *((9, 8) if reverse == "ports" else (0, 65535)), ends),)
    request(stage, CREATE, esp_offer(), NONCE, ESP_KE, TrafficSelectorsInitiator(odd), TrafficSelectorsResponder(odd))
    assert stage.outcome() == "ESTABLISHED <CREATE_CHILD_SA[TS_UNACCEPTABLE] -traffic_selectors"


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 99, 255])
def test_cve_2023_38710_a_rekey_with_a_protocol_nobody_expects(protocol: int) -> None:
    stage = reach("responder", "ESTABLISHED")
    (child,) = stage.sa.children.values()
    named = Notify(NotifyType.REKEY_SA, protocol=protocol, spi=child.spi_out.to_bytes(4, "big"))
    request(stage, CREATE, named, esp_offer(), NONCE, ESP_KE, *selectors())
    assert stage.outcome() == "ESTABLISHED <CREATE_CHILD_SA[CHILD_SA_NOT_FOUND] -child_not_found"
    assert list(stage.sa.children.values()) == [child]


def test_cve_2016_5391_and_2024_3652_proposals_without_what_they_need() -> None:
    """No DH for an IKE_SA; a cipher without its key length, or with 0."""
    good = ike_offer(b"\1" * 8).proposals[0].transforms
    for transforms in (
        tuple(one for one in good if one.type != 4),
        tuple(one for one in good if one.type != 1),
        tuple(one for one in good if one.type != 2),
        tuple(Transform(1, 20) if one.type == 1 else one for one in good),
        tuple(Transform.make(1, 20, 0) if one.type == 1 else one for one in good),  # type: ignore[arg-type]
        tuple(Transform(1, 20, b"\x80\x0e\x00\x00") if one.type == 1 else one for one in good),
        tuple(Transform(1, 20, b"\x80\x0e\xff\xff") if one.type == 1 else one for one in good),
        tuple(Transform(1, 20, b"\x00\x0e\x00\x02\x01\x00") if one.type == 1 else one for one in good),
    ):
        stage = reach("responder", "ESTABLISHED")
        offer = SecurityAssociation((Proposal(1, Protocol.IKE, b"\1" * 8, transforms),))
        request(stage, CREATE, offer, NONCE, IKE_KE)
        assert stage.outcome() == "ESTABLISHED <CREATE_CHILD_SA[NO_PROPOSAL_CHOSEN] -no_proposal", transforms


def test_cve_2014_9221_every_number_of_every_kind_once() -> None:
    """65536 transform ids and groups by strides that meet them all over the kinds, 256 transform types and payload types."""
    stage = reach("responder", "ESTABLISHED")
    for kind in range(256):
        for number in range(kind, 65536, 4099):
            offer = SecurityAssociation((Proposal(1, Protocol.ESP, b"\0\0\x10\0", (Transform(kind, number),)),))
            request(stage, CREATE, offer, NONCE, *selectors())
            assert len(stage.answers()) == 1
    assert stage.sa.established
    assert len(stage.sa.children) == 1


@pytest.mark.slow
def test_cve_2014_9221_all_notify_types_transform_ids_and_protocols_there_are() -> None:
    """65536 notifications by every protocol number, then 65536 ids of each of the transform types of an offer."""
    stage = reach("responder", "ESTABLISHED", fragment_size=0)
    for start in range(0, 65536, 96):
        kinds = [kind for kind in range(start, min(start + 96, 65536)) if kind not in FATAL]
        told = [Notify(kind, b"data", kind & 0xFF, b"\1\2\3\4") for kind in kinds]
        request(stage, INFO, *told, Delete(start & 0xFF or 1, (b"\1\2\3\4",)))
        assert len(stage.answers()) == 1
        if not stage.sa.established:
            # Only DELETE of the IKE_SA itself ends it
            assert start & 0xFF in (0, Protocol.IKE)
            stage = reach("responder", "ESTABLISHED", fragment_size=0)
    for kind in range(1, 6):
        for start in range(0, 65536, 250 * 2):
            numbers = range(start, min(start + 250 * 2, 65536))
            pieces = [numbers[at : at + 250] for at in range(0, len(numbers), 250)]
            offer = SecurityAssociation(
                tuple(
                    Proposal(place, Protocol.ESP, b"\0\0\x10\0", tuple(Transform(kind, one) for one in piece))
                    for place, piece in enumerate(pieces, 1)
                )
            )
            request(stage, CREATE, offer, NONCE, *selectors())
            assert stage.outcome() == "ESTABLISHED <CREATE_CHILD_SA[NO_PROPOSAL_CHOSEN] -no_proposal"


@pytest.mark.slow
def test_cve_2014_9221_all_groups_there_are() -> None:
    """As KE of a first request; as the group that an answer asks for, see test_sa_init.py."""
    pair = Pair()
    for group in range(65536):
        octets = emit_message(
            Header(group + 1, 0, INIT, Flags.INITIATOR, 0), (ike_offer(b""), KeyExchange(group, bytes(96)), NONCE)
        )
        pair.right.core.receive(octets, Endpoint(RIGHT, 500), Endpoint(LEFT, 500), pair.now)
        assert len(list(pair.right.core.poll())) <= 2
    assert pair.right.core.half_open == 1  # of the group that we have


# --- fragments ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("state", ["INIT", "AUTH", "ESTABLISHED"])
def test_cve_2026_12413_fragments_leave_nothing_behind(role: str, state: str) -> None:
    """RFC 7383 is not negotiated: an SKF payload is never stored, whatever it says."""
    stage = reach(role, state)
    before = snapshot(stage.host.core)
    for number in range(300):
        body = b"\0\0\0\x28" + number.to_bytes(2, "big") + b"\xff\xff" + bytes(32)
        flags = Flags.INITIATOR if role == "responder" else Flags(0)
        head = Header(stage.sa.initiator_spi, stage.sa.responder_spi, AUTH_EXCHANGE, flags, stage.request_id)
        stage.deliver(emit_header(head, 53, 28 + len(body)) + body)
        assert stage.answers() == []
    assert snapshot(stage.host.core) == before


@pytest.mark.parametrize("count", [100, 101, 4000])
def test_cve_2026_12413_more_payloads_in_fragments_than_there_is_room_for(count: int) -> None:
    """There an assertion; here the whole is refused like one that came in one piece, and nothing of it is kept."""
    stage = reach("responder", "ESTABLISHED", fragment_size=600)
    payloads = (Notify(40000),) * count
    head = header_of(stage, INFO, stage.request_id, False)
    keys = copy.deepcopy(stage.peer_keys)
    assert keys is not None
    pieces = seal_fragments(keys, head, payloads, stage.peer.random, 600)
    assert len(pieces) > 1
    stage.mark()
    for piece in pieces:
        stage.pair.receive(stage.host, piece, stage.sa.remote, stage.sa.local)
    good = "ESTABLISHED <INFORMATIONAL[]"
    assert stage.outcome() == (good if count <= 100 else "DESTROYING <INFORMATIONAL[INVALID_SYNTAX] -malformed")
    assert not any(one.plaintexts for one in stage.sa.reassembly.values())


# --- floods ---------------------------------------------------------------------------------------------------------------------------


def flood(pair: Pair, count: int, source: str) -> None:
    body = (ike_offer(b""), IKE_KE, NONCE)
    template = emit_message(Header(1, 0, INIT, Flags.INITIATOR, 0), body)
    for number in range(1, count + 1):
        pair.right.core.receive(
            number.to_bytes(8, "big") + template[8:], Endpoint(RIGHT, 500), Endpoint(source, 500), pair.now
        )
        for effect in pair.right.core.poll():
            if type(effect).__name__ == "Compute":
                pair._work(pair.right, effect)()  # type: ignore[arg-type]


def test_cve_2016_5361_a_flood_from_strangers_costs_no_memory_and_no_answers() -> None:
    pair = Pair()
    pair.establish()
    flood(pair, 1, "192.0.2.50")  # the address is kept for people, as one of a few
    before = snapshot(pair.right.core)
    flood(pair, 3000, "192.0.2.50")
    assert snapshot(pair.right.core) == before
    assert pair.right.rejected == {"unknown_peer": 3001}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["192.0.2.50", LEFT], ids=["strangers", "in a peer's name"])
def test_cve_2016_5361_a_hundred_thousand_and_the_peer_comes_up_behind_them(source: str) -> None:
    pair = Pair()
    flood(pair, 2000, source)
    before = len(repr(snapshot(pair.right.core)))
    flood(pair, 100_000, source)
    assert len(repr(snapshot(pair.right.core))) < before + 100_000
    begin = time.process_time()
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert pair.left.sa.state.name == pair.right.sa.state.name == "ESTABLISHED"
    assert time.process_time() - begin < 2


def test_strongswan_2791_half_open_ike_sas_in_a_peer_s_name_do_not_take_its_tunnel_down() -> None:
    pair = Pair()
    pair.establish()
    flood(pair, 1000, LEFT)
    assert pair.right.core.half_open == HALF_OPEN_FREE
    pair.assert_flowing()
    for host in pair.hosts:
        assert host.sa.state.name == "ESTABLISHED"
    pair.silence(31)
    assert len(pair.right.sas) == 1
    assert pair.right.core.half_open == 0
    reasons = {event.reason for event in pair.right.seen(IkeDown)}
    assert reasons == {"HALF_OPEN_TIMEOUT"}


@pytest.mark.parametrize("count", [HALF_OPEN_FREE - 1, HALF_OPEN_FREE, 1000])
def test_a_peer_comes_up_beside_a_flood_in_its_own_name(count: int) -> None:
    pair = Pair()
    flood(pair, count, LEFT)
    pair.left.command(Initiate(NAME))
    pair.settle()
    assert pair.left.sa.state.name == pair.right.sa.state.name == "ESTABLISHED"


# --- unauthenticated notifications, repetitions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kind", [4, 5, 7, 11, 14, 24])
def test_tahi_1_1_3_a_plain_notification_is_a_hint_at_most(role: str, kind: int) -> None:
    stage = reach(role, "ESTABLISHED")
    before = snapshot(stage.host.core)
    for exchange in (INFO, CREATE, AUTH_EXCHANGE, INIT):
        for response in (False, True):
            octets = in_clear(
                stage.peer.sas[-1], exchange, (Notify(kind), Delete(Protocol.IKE)), stage.request_id, response
            )
            stage.deliver(octets)
            assert stage.answers() == []
    assert snapshot(stage.host.core) == before


def test_cve_2024_2357_a_repetition_where_nobody_was_authenticated() -> None:
    """The same IKE_AUTH again and again, before and after it failed."""
    stage = reach("responder", "AUTH")
    octets = stage.octets(KINDS["IKE_AUTH"], stage.request_id, False)
    for _ in range(3):
        stage.deliver(octets)
    assert stage.host.sas == []
    assert len(stage.host.seen(IkeDown)) == 1


# --- work and words ---------------------------------------------------------------------------------------------------------------------


def test_cve_2026_35328_and_others_no_message_takes_long() -> None:
    """The largest offers, selectors and deletes that fit into a datagram, from a peer with the keys."""
    chance = random.Random(1)
    many = tuple(Transform(chance.randrange(1, 6), chance.randrange(40)) for _ in range(255))
    offers = SecurityAssociation(tuple(Proposal(number + 1, 3, b"\0\0\x10\0", many) for number in range(28)))
    wide = tuple(TrafficSelector(7, 0, number, number, bytes(4) + b"\xff" * 4) for number in range(255))
    worst: dict[str, tuple[ExchangeType, tuple[Any, ...]]] = {
        "offers": (CREATE, (offers, NONCE, ESP_KE, *selectors())),
        "selectors": (
            CREATE,
            (esp_offer(), NONCE, ESP_KE, TrafficSelectorsInitiator(wide), TrafficSelectorsResponder(wide)),
        ),
        "deletes": (INFO, (Delete(Protocol.ESP, tuple(number.to_bytes(4, "big") for number in range(15000))),)),
        "notifies": (INFO, tuple(Notify(chance.randrange(65536)) for _ in range(100))),
    }
    for name, (exchange, payloads) in worst.items():
        stage = reach("responder", "ESTABLISHED", fragment_size=0)
        octets = stage.encode(exchange, payloads, stage.request_id, False)
        assert len(octets) < 65535
        assert calls_while(lambda stage=stage, octets=octets: stage.deliver(octets)) < 500_000, name  # type: ignore[misc]
        assert len(stage.answers()) == 1


def test_cve_2022_23094_what_a_peer_says_stays_on_one_line_of_the_journal() -> None:
    evil = b"\n\x1b[31mgatewayd: tunnel up\r\0" + PSK[:0]
    stage = reach("responder", "AUTH")
    request(stage, AUTH_EXCHANGE, IdentificationInitiator(2, evil), AUTH)
    pair = Pair()
    odd = Proposal(1, 99, evil, (Transform(88, 77, evil),))
    octets = emit_message(
        Header(7, 0, INIT, Flags.INITIATOR, 0), (SecurityAssociation((odd,)), IKE_KE, Nonce(evil * 2))
    )
    pair.receive(pair.right, octets, Endpoint(LEFT, 500), Endpoint(RIGHT, 500))
    lines = [event.text for host in (stage.host, pair.right) for event in host.seen(Notice)]
    lines += [value for event in stage.host.seen(IkeDown) for value in event.context.values()]
    assert len(lines) >= 2
    assert all(line.isprintable() for line in lines), lines
    assert PSK.decode() not in " ".join(lines)
