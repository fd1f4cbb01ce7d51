"""IKE_AUTH with a pre-shared key: who is let in, and how each failure ends (RFC 7296 2.15, 2.21.2; strongSwan's log).

Vectors of AUTH itself are in test_keymat.py; here `verify` is held against them too, and against everything near them.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from support.ike_pair import LEFT, NAME, PSK, RIGHT, Pair, identity
from support.ike_stages import AUTH, ID_I, ID_R, Stage, esp_offer, header_of, reach, selectors

from gateway.ike.authentication import AuthenticatedPeer, describe_identity, psk_signature, verify
from gateway.ike.commands import Initiate
from gateway.ike.errors import AUTHENTICATION_REASONS, LocalError, PeerError, Violation
from gateway.ike.events import ExchangeFailed, IkeDown, IkeUp
from gateway.ike.exchanges.auth import establish
from gateway.ike.keymat import IkeKeys
from gateway.ike.message import sealed_prefix
from gateway.ike.payloads import (
    Authentication,
    IdentificationInitiator,
    IdentificationResponder,
    Notify,
    Payload,
    Unknown,
)
from gateway.ike.proposal import ENCRYPTION_NAMES, INTEGRITY_NAMES, PRF_NAMES, Choice, make_offer
from gateway.ike.registry import AuthMethod, ExchangeType, IdType, NotifyType, Protocol
from gateway.ike.settings import Identity

RECORDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[2] / "vectors" / "ike_keymat").glob("*.json"))
}

# --- the octets, against strongSwan ---------------------------------------------------------------------------------------


def material(record: dict[str, Any]) -> tuple[IkeKeys, list[dict[str, Any]], bytes, bytes]:
    first, names = record["ike_sas"][0], record["ike"]
    choice = Choice(
        ENCRYPTION_NAMES[names["encryption"]],
        names["key_bits"],
        INTEGRITY_NAMES[names["integrity"]] if "integrity" in names else 0,
        PRF_NAMES[names["prf"]],
    )
    shared, ni, nr, spi_i, spi_r = (
        bytes.fromhex(first[name]) for name in ("shared", "ni", "nr", "initiator_spi", "responder_spi")
    )
    return IkeKeys.initial(choice, shared, ni, nr, spi_i + spi_r, True), first["auth"], ni, nr


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
@pytest.mark.parametrize("of_initiator", [True, False])
def test_what_strongswan_sent_verifies_and_nothing_near_it_does(record: dict[str, Any], of_initiator: bool) -> None:
    keys, auth, ni, nr = material(record)
    entry = auth[0 if of_initiator else 1]
    peer_nonce = nr if of_initiator else ni
    octets = bytes.fromhex(entry["octets"])
    id_octets, data = bytes.fromhex(entry["identity"]), bytes.fromhex(entry["auth"])
    kind = IdentificationInitiator if of_initiator else IdentificationResponder
    who = kind(id_octets[0], id_octets[4:])
    expected = Identity(who.type, who.data, "peer")
    psk = record["psk"].encode()
    # strongSwan logs message | nonce | prf(SK_p, ID); `verify` puts the last two there itself
    message = octets[: octets.index(peer_nonce)] if peer_nonce in octets else octets

    def attempt(secret: bytes = psk, nonce: bytes = peer_nonce, body: bytes = message, proof: bytes = data) -> object:
        return verify(keys, secret, expected, body, nonce, who, Authentication(2, proof), of_initiator)

    assert attempt() == AuthenticatedPeer(expected)
    changed = bytes([data[0] ^ 1]) + data[1:]
    for wrong in (
        {"secret": psk + b"x"},
        {"secret": psk[:-1]},
        {"secret": b""},
        {"nonce": peer_nonce[:-1] + b"\0\0"},
        {"body": message[:-1]},
        {"proof": changed},
        {"proof": data[:-1]},
        {"proof": data + b"\0"},
        {"proof": b""},
        {"proof": b"\0"},
    ):
        with pytest.raises(PeerError) as refused:
            attempt(**wrong)  # type: ignore[arg-type]
        assert (refused.value.why, refused.value.notify) == (
            Violation.AUTHENTICATION,
            NotifyType.AUTHENTICATION_FAILED,
        )
    with pytest.raises(PeerError):
        verify(keys, psk, expected, message, peer_nonce, who, Authentication(2, data), not of_initiator)


def keys() -> IkeKeys:
    return IkeKeys.initial(Choice(20, 256, 0, 6), b"g^ir", b"ni", b"nr", b"spis", True)


@pytest.mark.parametrize("method", [number for number in range(256) if number != AuthMethod.SHARED_KEY_MIC])
def test_another_method_is_refused_by_its_name_even_with_the_right_octets(method: int) -> None:
    """NULL (13) above all."""
    right = psk_signature(keys(), PSK, b"m", b"n", ID_I, True)
    with pytest.raises(PeerError, match=AuthMethod(method).name) as refused:
        verify(keys(), PSK, identity(LEFT), b"m", b"n", ID_I, Authentication(method, right.data), True)
    # Not that the keys differ
    assert AUTHENTICATION_REASONS[refused.value.why] == "WRONG_AUTH_METHOD"


def test_without_a_key_nobody_is_authenticated() -> None:
    """Where a certificate is asked for there is none, and everybody could compute with none."""
    empty = psk_signature(keys(), b"", b"m", b"n", ID_I, True)
    with pytest.raises(PeerError, match="differ"):
        verify(keys(), b"", identity(LEFT), b"m", b"n", ID_I, empty, True)


@pytest.mark.parametrize("octets", range(0, 100, 7))
def test_authentication_data_of_any_length_but_the_prf_s(octets: int) -> None:
    with pytest.raises(PeerError):
        verify(keys(), PSK, identity(LEFT), b"m", b"n", ID_I, Authentication(2, bytes(octets)), True)


@pytest.mark.parametrize(("who", "auth"), [(None, AUTH), (ID_I, None), (None, None)])
def test_half_a_proof_is_none(who: Any, auth: Any) -> None:
    with pytest.raises(PeerError, match="no identity or no AUTH") as refused:
        verify(keys(), PSK, identity(LEFT), b"m", b"n", who, auth, True)
    assert AUTHENTICATION_REASONS[refused.value.why] == "WRONG_AUTH_METHOD"


@pytest.mark.parametrize(
    "who",
    [
        IdentificationInitiator(IdType.IPV4_ADDR, b"\x0a\0\0\3"),
        IdentificationInitiator(IdType.IPV4_ADDR, b""),
        IdentificationInitiator(IdType.FQDN, b"\x0a\0\0\1"),
        IdentificationInitiator(IdType.KEY_ID, b"\x0a\0\0\1"),
        IdentificationInitiator(IdType.FQDN, LEFT.encode()),
        IdentificationInitiator(0, b"\x0a\0\0\1"),
        IdentificationInitiator(IdType.IPV4_ADDR, b"\x0a\0\0\1\0"),
    ],
    ids=str,
)
def test_the_identity_is_compared_with_its_type(who: IdentificationInitiator) -> None:
    """The proof itself is good: only the name is another."""
    right = psk_signature(keys(), PSK, b"m", b"n", who, True)
    with pytest.raises(PeerError) as refused:
        verify(keys(), PSK, identity(LEFT), b"m", b"n", who, right, True)
    assert (refused.value.why, refused.value.notify) == (Violation.IDENTITY, NotifyType.AUTHENTICATION_FAILED)


@pytest.mark.parametrize(
    ("kind", "data", "shown"),
    [
        (IdType.IPV4_ADDR, b"\x0a\0\0\1", "10.0.0.1"),
        (IdType.IPV6_ADDR, bytes(15) + b"\1", "::1"),
        (IdType.FQDN, b"vpn.example", "vpn.example"),
        (IdType.FQDN, b"a\nb", b"a\nb".hex()),
        (IdType.FQDN, b"a\x1b[31m", b"a\x1b[31m".hex()),
        (IdType.FQDN, b"\xff\xfe", "\\xff\\xfe"),
        (IdType.IPV4_ADDR, b"abc", "abc"),
        (77, b"", ""),
    ],
)
def test_what_a_peer_calls_itself_is_safe_to_print(kind: int, data: bytes, shown: str) -> None:
    """strongSwan CVE-2022-23094 in its class: no newline and no escape sequence reaches a log."""
    text = describe_identity(IdentificationInitiator(kind, data))
    assert text == shown
    assert text.isprintable()


def test_nobody_is_established_by_a_proof_for_somebody_else() -> None:
    stage = reach("responder", "AUTH")
    with pytest.raises(LocalError, match="another peer"):
        establish(stage.sa, AuthenticatedPeer(identity("10.9.9.9")), False, stage.pair.now)
    assert stage.sa.state.name == "CONNECTING"


# --- both roles, every way to fail ------------------------------------------------------------------------------------------


def failing(**right: Any) -> Pair:
    pair = Pair()
    pair.configure(pair.right, **right)
    pair.left.command(Initiate(NAME))
    pair.settle()
    return pair


@pytest.mark.parametrize(
    "right",
    [
        {"psk": b"another secret"},
        {"psk": PSK + b"x"},
        {"remote_id": identity("10.0.0.9")},
        {"remote_id": Identity(IdType.FQDN, b"\x0a\0\0\1", "odd")},
        {"remote_id": Identity(IdType.FQDN, LEFT.encode(), LEFT)},
    ],
    ids=str,
)
def test_the_responder_refuses_and_both_are_without(right: dict[str, Any]) -> None:
    """RFC 7296 2.21.2: AUTHENTICATION_FAILED in the answer, and no IKE_SA on either side."""
    pair = failing(**right)
    assert pair.left.sas == pair.right.sas == []
    reason = "WRONG_PEER_IDENTITY" if "remote_id" in right else "AUTHENTICATION_FAILED_SENT"
    assert [event.reason for event in pair.right.seen(IkeDown)] == [reason]
    assert [event.reason for event in pair.left.seen(IkeDown)] == ["AUTHENTICATION_FAILED_RECEIVED"]
    assert pair.left.seen(IkeUp) == pair.right.seen(IkeUp) == []
    assert pair.left.data_plane.inbound == pair.right.data_plane.inbound == {}
    assert pair.right.rejected == {"identity" if "remote_id" in right else "authentication": 1}
    assert (pair.left.core.next_deadline(), pair.right.core.next_deadline()) == (None, None)


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        ({"local_id": identity("10.0.0.9")}, "WRONG_PEER_IDENTITY"),
        ({"local_id": Identity(IdType.FQDN, b"\x0a\0\0\2", "odd")}, "WRONG_PEER_IDENTITY"),
        ({"local_id": Identity(IdType.KEY_ID, RIGHT.encode(), RIGHT)}, "WRONG_PEER_IDENTITY"),
    ],
    ids=str,
)
def test_the_initiator_refuses_says_so_and_both_are_without(right: dict[str, Any], reason: str) -> None:
    """RFC 7296 2.21.2: the responder believes in the IKE_SA until the initiator tells it in an INFORMATIONAL."""
    pair = failing(**right)
    assert pair.left.sas == pair.right.sas == []
    assert [event.reason for event in pair.left.seen(IkeDown)] == [reason]
    assert [event.reason for event in pair.right.seen(IkeDown)] == ["AUTHENTICATION_FAILED_RECEIVED"]
    assert pair.left.seen(IkeUp) == []
    assert pair.left.data_plane.inbound == pair.right.data_plane.inbound == {}
    assert pair.left.rejected == {"identity": 1}


def forged_answer(stage: Stage, *payloads: Payload) -> None:
    stage.deliver(stage.encode(ExchangeType.IKE_AUTH, payloads, stage.response_id, True))


def test_a_responder_without_the_secret_is_refused() -> None:
    """It knows all of SK_*, as whoever answers IKE_SA_INIT does, and nothing else."""
    for proof in (AUTH, Authentication(2, b""), Authentication(13, b""), Authentication(2, bytes(48) + b"\0")):
        stage = reach("initiator", "AUTH")
        forged_answer(stage, ID_R, proof, esp_offer(), *selectors())
        why = "authentication" if proof.method == 2 else "auth_method"
        assert stage.outcome() == f"DELETING >INFORMATIONAL[AUTHENTICATION_FAILED] -{why}"
        assert stage.host.seen(IkeUp) == []
        assert stage.host.data_plane.inbound == {}
        stage.pair.silence(60)
        reason = "AUTHENTICATION_FAILED_SENT" if proof.method == 2 else "WRONG_AUTH_METHOD"
        assert [event.reason for event in stage.host.seen(IkeDown)] == [reason]


def own_auth(stage: Stage) -> tuple[Payload, ...]:
    """What the initiator under attack has just sent, as its (false) responder reads it."""
    request = next(f for f in reversed(stage.pair.sent) if f.message.header.exchange == ExchangeType.IKE_AUTH)
    return stage.pair.opened(request, stage.peer.sas[-1]).payloads


@pytest.mark.parametrize("same_identity", [False, True])
def test_our_own_authentication_sent_back_to_us_proves_nothing(same_identity: bool) -> None:
    """Reflection: as a request it carries a good AUTH of ours, which an initiator must never be asked to judge."""
    changes = {"local_id": identity(LEFT), "remote_id": identity(LEFT)} if same_identity else {}
    for response in (False, True):
        stage = reach("initiator", "AUTH", **changes)
        mine = own_auth(stage)
        if response:
            found = {type(payload): payload for payload in mine}
            who = found[IdentificationInitiator]
            mine = (IdentificationResponder(who.type, who.data), found[Authentication])  # type: ignore[union-attr]
        number = stage.response_id if response else stage.request_id
        stage.deliver(stage.encode(ExchangeType.IKE_AUTH, mine, number, response))
        assert stage.host.seen(IkeUp) == []
        assert stage.host.data_plane.inbound == {}
        assert not stage.sa.established
        if not response:
            assert stage.outcome() == "CONNECTING -out_of_state"


def test_an_old_ike_auth_of_another_ike_sa_proves_nothing() -> None:
    """The octets signed hold both nonces and SPIs: what was good once is good once."""
    first = reach("responder", "AUTH")
    recorded = own_auth_of_left(first)
    second = reach("responder", "AUTH", seed=99)
    second.deliver(second.encode(ExchangeType.IKE_AUTH, recorded, second.request_id, False))
    assert second.outcome() == "DESTROYING <IKE_AUTH[AUTHENTICATION_FAILED] -authentication"
    first.deliver(first.encode(ExchangeType.IKE_AUTH, recorded, first.request_id, False))
    assert first.sa.established


def own_auth_of_left(stage: Stage) -> tuple[Payload, ...]:
    request = next(f for f in reversed(stage.pair.sent) if f.message.header.exchange == ExchangeType.IKE_AUTH)
    return stage.pair.opened(request, stage.sa).payloads


# --- errors in and around IKE_AUTH --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [NotifyType.AUTHENTICATION_FAILED, NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.INVALID_SYNTAX, NotifyType(8191)],
)
def test_an_error_without_auth_ends_the_attempt_by_its_name(error: NotifyType) -> None:
    """Sealed, so it comes from whoever answered IKE_SA_INIT."""
    stage = reach("initiator", "AUTH")
    forged_answer(stage, Notify(error))
    assert stage.outcome() == "DESTROYING"
    assert [event.reason for event in stage.host.seen(IkeDown)] == [f"{error.name}_RECEIVED"]


@pytest.mark.parametrize("error", [NotifyType.AUTHENTICATION_FAILED, NotifyType.NO_PROPOSAL_CHOSEN])
@pytest.mark.parametrize("response", [False, True])
def test_an_error_in_clear_during_ike_auth_is_nothing(error: NotifyType, response: bool) -> None:
    """RFC 7296 2.21.2: only inside SK."""
    stage = reach("initiator", "AUTH")
    sealed = stage.encode(ExchangeType.IKE_AUTH, (), 1, response)
    body = b"\0\0\0\x08\0\0" + int(error).to_bytes(2, "big")
    octets = sealed[:16] + b"\x29" + sealed[17:24] + (28 + len(body)).to_bytes(4, "big") + body
    stage.deliver(octets)
    assert stage.outcome() == "CONNECTING -grammar"


@pytest.mark.parametrize(
    "error", [NotifyType.NO_PROPOSAL_CHOSEN, NotifyType.TS_UNACCEPTABLE, NotifyType.NO_ADDITIONAL_SAS]
)
def test_a_refused_first_child_sa_leaves_the_ike_sa(error: NotifyType) -> None:
    """RFC 7296 1.2."""
    pair = Pair()
    pair.left.command(Initiate(NAME))
    for _ in range(3):
        pair.deliver()
    answer = pair.in_flight.pop()
    sa = pair.right.sas[0]
    assert sa.keys is not None
    payloads = pair.opened(answer, pair.left.sas[0]).payloads
    kept = tuple(payload for payload in payloads if isinstance(payload, (IdentificationResponder, Authentication)))
    keys = copy.deepcopy(sa.keys)
    octets = pair.sealed(
        pair.right, ExchangeType.IKE_AUTH, (*kept, Notify(error)), message_id=1, response=True, sa=sa, keys=keys
    )
    pair.receive(pair.left, octets, sa.local, sa.remote)
    assert pair.left.sa.state.name == "ESTABLISHED"
    assert pair.left.sa.children == {}
    name = "NO_PROPOSAL_CHOSEN_ESP" if error is NotifyType.NO_PROPOSAL_CHOSEN else error.name
    assert [event.reason for event in pair.left.seen(ExchangeFailed)] == [name]


def test_a_first_child_sa_the_responder_refuses_leaves_the_ike_sa_on_both_sides() -> None:
    pair = Pair()
    esp = (make_offer(Protocol.ESP, [("aes-cbc", 128)], ["sha256"]),)
    pair.configure(pair.right, esp=esp)
    pair.left.command(Initiate(NAME))
    pair.settle()
    for host in pair.hosts:
        assert host.sa.state.name == "ESTABLISHED"
        assert host.sa.children == {}
        assert host.data_plane.inbound == {}


@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_a_critical_payload_nobody_knows_inside_ike_auth(role: str) -> None:
    """RFC 7296 2.5: named in the answer to a request; an answer that has it ends the attempt."""
    stage = reach(role, "AUTH")
    plain = stage.encode(ExchangeType.IKE_AUTH, (Unknown(b"abcd", 200),), 1, role == "initiator")
    stage.deliver(plain)  # not critical: only what is missing counts
    assert "critical_payload" not in stage.refusals()
    stage = reach(role, "AUTH")
    stage.deliver(critical_sealed(stage, ExchangeType.IKE_AUTH, role == "initiator"))
    if role == "responder":
        assert stage.outcome() == "DESTROYING <IKE_AUTH[UNSUPPORTED_CRITICAL_PAYLOAD] -critical_payload"
    else:
        assert stage.outcome() == "DESTROYING -critical_payload"
    assert not stage.sa.established


def critical_sealed(stage: Stage, exchange: ExchangeType, response: bool) -> bytes:
    used = copy.deepcopy(stage.peer_keys)
    assert used is not None
    plaintext = b"\0\x80\0\x08abcd"
    length = len(plaintext) + used.sealing.overhead(len(plaintext))
    number = stage.response_id if response else stage.request_id
    prefix = sealed_prefix(header_of(stage, exchange, number, response), 200, length)
    return prefix + used.sealing.seal(prefix, plaintext, stage.peer.random)
