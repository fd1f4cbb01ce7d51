"""AUTH payloads (RFC 7296 2.15, 2.16, RFC 7427) and the proof that a peer is who it says.

Only `verify` and `check` make an `AuthenticatedPeer`, and no IKE_SA becomes ESTABLISHED by IKE_AUTH without one. A pre-shared
key is dealt with at once; what needs public keys is a `Compute`, and the caller goes on in `then` or `failed`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm

from gateway.ike import certificates, revocation_search, signatures
from gateway.ike.certificate_names import describe_name, same_name
from gateway.ike.certificate_path import Path
from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.keymat import IkeKeys, prf
from gateway.ike.layout import octets_of
from gateway.ike.message import Message, parse_message
from gateway.ike.payloads import Authentication, Certificate, CertificateRequest, Identification, Notify, Payload
from gateway.ike.registry import AuthMethod, CertificateEncoding, IdType, NotifyType
from gateway.ike.services import Failed
from gateway.ike.settings import ConnectionSettings, Credentials, Identity
from gateway.ike.signatures import PeerAbility

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

_parsed = lru_cache(maxsize=64)(parse_message)
"""Asked for twice in one IKE_AUTH."""
KEY_PAD = b"Key Pad for IKEv2"  # RFC 7296 2.15

ThenShow = Callable[[tuple[Certificate, ...], float], None]
Proofs = tuple[Authentication, ...]
"""Our AUTH under each of the keys asked for."""


@dataclass(frozen=True, slots=True)
class AuthenticatedPeer:
    """Held by whoever may establish an IKE_SA."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Claim:
    """What the peer sent: who it is and its AUTH, over `message` (its IKE_SA_INIT) and `our_nonce` (RFC 7296 2.15)."""

    identity: Identification | None
    auth: Authentication | None
    certificates: tuple[Certificate, ...]
    message: bytes
    our_nonce: bytes
    of_initiator: bool


def claim_of(sa: IkeSa, message: Message, kind: type[Identification], auth: Payload | None) -> Claim:
    """Of an IKE_AUTH message of the peer."""
    identity = message.first(kind)
    initiators = not sa.is_initiator
    return Claim(
        identity if isinstance(identity, Identification) else None,
        auth if isinstance(auth, Authentication) else None,
        tuple(one for one in message.payloads if isinstance(one, Certificate)),
        sa.init_request if initiators else sa.init_response,
        sa.nr if initiators else sa.ni,
        initiators,
    )


# --- what both ends say they can ----------------------------------------------------------------------------------


def capability(sa: IkeSa) -> tuple[Payload, ...]:
    """For our IKE_SA_INIT, where certificates come into it at all."""
    settings, payloads = sa.settings, []
    if settings.credentials is not None or settings.trust is not None:
        # RFC 7427 4
        payloads.append(Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, signatures.hashes_announced()))
    # RFC 7296 1.2: a responder asks for certificates here, an initiator in IKE_AUTH
    return tuple(payloads) if sa.is_initiator else (*payloads, *requests(settings))


def requests(settings: ConnectionSettings) -> tuple[Payload, ...]:
    """Which certificates (RFC 7296 3.7) and which signatures (RFC 9593 3.1) we take; nothing where it is a PSK."""
    if settings.trust is None:
        return ()
    announced = Notify(NotifyType.SUPPORTED_AUTH_METHODS, signatures.methods_announced(settings.trust.sha1))
    # RFC 4806 3.1: whatever responder
    stapled = (CertificateRequest(int(CertificateEncoding.OCSP), b""),) if settings.trust.revocation != "off" else ()
    return (certificates.request(settings.trust), *stapled, announced)


def init_of_peer(sa: IkeSa) -> Message:
    """Its IKE_SA_INIT, which it signs."""
    return _parsed(sa.init_response if sa.is_initiator else sa.init_request)


def ability_of(sa: IkeSa, *more: Message) -> PeerAbility:
    """What the peer said of itself, in its IKE_SA_INIT and in `more`; all of it is part of what it authenticates."""
    init = init_of_peer(sa)
    hashes = init.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    said = [
        notify.data for message in (init, *more) for notify in message.notifies()
        if notify.type == NotifyType.SUPPORTED_AUTH_METHODS and notify.data
    ]  # fmt: skip
    said += sa.methods_said
    return PeerAbility(
        signatures.hashes_heard(hashes.data) if hashes is not None else None,
        signatures.methods_heard(said) if said else None,
    )


def shown(
    sa: IkeSa, settings: ConnectionSettings, heard: Sequence[Message], then: ThenShow, failed: Failed, now: float
) -> None:
    """Our CERT payloads, in `then`: none with a pre-shared key. `heard`: where the peer's CERTREQ may stand (RFC 4806 3.1)."""
    credentials = settings.credentials
    if credentials is None:
        then((), now)
        return
    asked = any(
        isinstance(one, CertificateRequest) and one.encoding == CertificateEncoding.OCSP
        for message in heard for one in message.payloads
    )  # fmt: skip
    known = (*credentials.intermediates, *(settings.trust.authorities if settings.trust is not None else ()))
    issuer = next((one for one in known if one.subject == credentials.certificate.issuer), None)
    link = (credentials.certificate, issuer) if asked and issuer is not None else None
    payloads = certificates.payloads(credentials)
    revocation_search.staple(sa, link, lambda stapled, now: then((*payloads, *stapled), now), failed, now)


# --- ourselves ----------------------------------------------------------------------------------------------------


def prove(
    sa: IkeSa,
    settings: ConnectionSettings,
    keys: Sequence[IkeKeys],
    ours: Identification,
    heard: Sequence[Message],
    then: Callable[[Proofs, float], None],
    failed: Failed,
    now: float,
) -> None:
    """Our AUTH, under each of `keys`. PeerError at once, or by `failed`, when there is no way that the peer would take.
    `heard`: where beside its IKE_SA_INIT the peer may have said what it can."""
    message, nonce = (sa.init_request, sa.nr) if sa.is_initiator else (sa.init_response, sa.ni)
    if settings.credentials is None:
        if not settings.psk:
            raise LocalError("neither a certificate nor a pre-shared key is configured")
        then(tuple(psk_signature(one, settings.psk, message, nonce, ours, sa.is_initiator) for one in keys), now)
        return
    key, scheme = settings.credentials.key, _scheme(settings.credentials, ability_of(sa, *heard))
    octets = [one.signed_octets(message, nonce, identity_octets(ours), sa.is_initiator) for one in keys]

    def sign() -> Proofs:
        try:
            return tuple(signatures.sign(key, scheme, one) for one in octets)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise PeerError(Violation.SIGNATURE, f"we cannot sign: {error}", NotifyType.AUTHENTICATION_FAILED) from None

    sa.compute(sign, then, failed)


def _scheme(credentials: Credentials, ability: PeerAbility) -> signatures.Scheme:
    key = credentials.certificate.public_key()
    assert isinstance(key, signatures.PublicKey)
    scheme = signatures.choose(key, ability, pss=credentials.pss, sha1=credentials.sha1)
    if scheme is None:
        raise PeerError(Violation.NO_COMMON_SIGNATURE, _said(ability), NotifyType.AUTHENTICATION_FAILED)
    return scheme


def _said(ability: PeerAbility) -> str:
    if ability.hashes is None:
        return "the peer knows no RFC 7427 signatures"
    return f"the peer takes signatures with {', '.join(signatures.hash_names(ability.hashes)) or 'no hash'}"


def identity_octets(payload: Identification) -> bytes:
    """RestOfInitIDPayload: the payload without its generic header (RFC 7296 2.15)."""
    return octets_of(payload)


def psk_signature(
    keys: IkeKeys, psk: bytes, message: bytes, peer_nonce: bytes, identity: Identification, of_initiator: bool
) -> Authentication:
    """RFC 7296 2.15: prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)."""
    octets = keys.signed_octets(message, peer_nonce, identity_octets(identity), of_initiator)
    method = keys.choice.prf
    return Authentication(int(AuthMethod.SHARED_KEY_MIC), prf(method, prf(method, psk, KEY_PAD), octets))


# --- the peer -----------------------------------------------------------------------------------------------------


def check(
    sa: IkeSa, keys: IkeKeys, claim: Claim, then: Callable[[AuthenticatedPeer, float], None], failed: Failed, now: float
) -> None:
    """Goes on in `then` with the proof. PeerError, at once or by `failed`, saying which half failed."""
    settings = sa.settings
    trust, expected = settings.trust, settings.remote_id
    if trust is None:
        proof = verify(
            keys, settings.psk, expected, claim.message, claim.our_nonce, claim.identity, claim.auth, claim.of_initiator
        )
        then(proof, now)
        return
    identity, auth = _complete(claim.identity, claim.auth, expected)
    octets = keys.signed_octets(claim.message, claim.our_nonce, identity_octets(identity), claim.of_initiator)
    shown = certificates.Shown(claim.certificates, auth, octets, ability_of(sa))
    wall = sa.services.wall(now)

    def not_revoked(now: float) -> None:
        if (sa.settings.trust, sa.settings.remote_id) != (trust, expected):
            raise _failed(Violation.AUTHENTICATION, "the configuration changed meanwhile")
        then(AuthenticatedPeer(expected), now)

    def proven(path: Path, now: float) -> None:
        revocation_search.Search(sa, trust, path, evidence, not_revoked, failed).start(now)

    evidence = revocation_search.shown_by(claim.certificates)
    sa.compute(lambda: certificates.prove(shown, trust, expected, wall), proven, failed)


def verify(
    keys: IkeKeys,
    psk: bytes,
    expected: Identity,
    message: bytes,
    our_nonce: bytes,
    identity: Identification | None,
    received: Authentication | None,
    of_initiator: bool,
) -> AuthenticatedPeer:
    """The proof by a pre-shared key, or PeerError AUTHENTICATION_FAILED saying which half failed."""
    identity, received = _complete(identity, received, expected)
    if received.method != AuthMethod.SHARED_KEY_MIC:
        name = AuthMethod(received.method).name
        raise _failed(Violation.AUTH_METHOD, f"peer authenticates by {name}, configured is a PSK")
    wanted = psk_signature(keys, psk, message, our_nonce, identity, of_initiator)
    # Without a key anybody could compute it
    if not psk or not hmac.compare_digest(wanted.data, received.data):
        raise _failed(Violation.AUTHENTICATION, "the pre-shared keys, or what is mixed into them, differ")
    return AuthenticatedPeer(expected)


def _complete(
    identity: Identification | None, received: Authentication | None, expected: Identity
) -> tuple[Identification, Authentication]:
    if identity is None or received is None:
        # RFC 7296 2.16: without AUTH an initiator asks for EAP
        raise _failed(Violation.AUTH_METHOD, "no identity or no AUTH, as who wants EAP")
    if not _same_identity(identity, expected):
        shown = describe_identity(identity)
        raise _failed(Violation.IDENTITY, f"peer says it is {shown}, configured is {expected.text}")
    return identity, received


def _same_identity(identity: Identification, expected: Identity) -> bool:
    if identity.type == expected.type == IdType.DER_ASN1_DN:
        return same_name(identity.data, expected.data)
    return (identity.type, identity.data) == (expected.type, expected.data)


def _failed(why: Violation, detail: str) -> PeerError:
    return PeerError(why, detail, NotifyType.AUTHENTICATION_FAILED)


def refused_by_peer(settings: ConnectionSettings) -> tuple[str, dict[str, str]]:
    """What to call it when the peer does not believe us."""
    context = {"ours": settings.local_id.text, "remote_id": settings.remote_id.text}
    if settings.credentials is None:
        return "AUTHENTICATION_FAILED_RECEIVED", context
    return "CERTIFICATE_REFUSED_BY_PEER", context


def describe_identity(identity: Identification) -> str:
    """An identity for people: never raw control characters."""
    if identity.type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and len(identity.data) in (4, 16):
        return str(ip_address(identity.data))
    if identity.type == IdType.DER_ASN1_DN:
        return describe_name(identity.data)
    text = identity.data.decode("ascii", "backslashreplace")
    return text if text.isprintable() else identity.data.hex()
