"""AUTH payloads (RFC 7296 2.15, 2.16) and the proof that a peer is who it says.

Only `verify` makes an `AuthenticatedPeer`, and no IKE_SA becomes ESTABLISHED by IKE_AUTH without one.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import ip_address

from gateway.ike.errors import PeerError, Violation
from gateway.ike.keymat import IkeKeys, prf
from gateway.ike.layout import emit
from gateway.ike.payloads import Authentication, Identification
from gateway.ike.registry import AuthMethod, IdType, NotifyType
from gateway.ike.settings import Identity
from gateway.wire import Writer

KEY_PAD = b"Key Pad for IKEv2"  # RFC 7296 2.15


@dataclass(frozen=True, slots=True)
class AuthenticatedPeer:
    """Held by whoever may establish an IKE_SA."""

    identity: Identity


def identity_octets(payload: Identification) -> bytes:
    """RestOfInitIDPayload: the payload without its generic header (RFC 7296 2.15)."""
    writer = Writer()
    emit(payload, writer)
    return writer.done()


def psk_signature(
    keys: IkeKeys, psk: bytes, message: bytes, peer_nonce: bytes, identity: Identification, of_initiator: bool
) -> Authentication:
    """RFC 7296 2.15: prf(prf(Shared Secret, "Key Pad for IKEv2"), <SignedOctets>)."""
    octets = keys.signed_octets(message, peer_nonce, identity_octets(identity), of_initiator)
    method = keys.choice.prf
    return Authentication(int(AuthMethod.SHARED_KEY_MIC), prf(method, prf(method, psk, KEY_PAD), octets))


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
    """The proof, or PeerError AUTHENTICATION_FAILED saying which half failed."""
    if identity is None or received is None:
        raise PeerError(Violation.AUTHENTICATION, "no identity or no AUTH", NotifyType.AUTHENTICATION_FAILED)
    if (identity.type, identity.data) != (expected.type, expected.data):
        shown = describe_identity(identity)
        raise PeerError(
            Violation.IDENTITY,
            f"peer says it is {shown}, configured is {expected.text}",
            NotifyType.AUTHENTICATION_FAILED,
        )
    if received.method != AuthMethod.SHARED_KEY_MIC:
        name = AuthMethod(received.method).name
        raise PeerError(
            Violation.AUTHENTICATION,
            f"peer authenticates by {name}, configured is a PSK",
            NotifyType.AUTHENTICATION_FAILED,
        )
    wanted = psk_signature(keys, psk, message, our_nonce, identity, of_initiator)
    if not hmac.compare_digest(wanted.data, received.data):
        raise PeerError(
            Violation.AUTHENTICATION,
            "the pre-shared keys, or what is mixed into them, differ",
            NotifyType.AUTHENTICATION_FAILED,
        )
    return AuthenticatedPeer(expected)


def describe_identity(identity: Identification) -> str:
    """An identity for people: never raw control characters."""
    if identity.type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and len(identity.data) in (4, 16):
        return str(ip_address(identity.data))
    text = identity.data.decode("ascii", "backslashreplace")
    return text if text.isprintable() else identity.data.hex()
