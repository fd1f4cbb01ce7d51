"""Signatures of AUTH payloads: RFC 7427 (method 14), RFC 4754 (9 to 11), RFC 8420 (EdDSA), RSA with SHA-1 (1).

Not what is signed (keymat.py) and not whose key it is (certificates.py). An AlgorithmIdentifier is never parsed: it is one of the
octet strings below or it is refused, so there are no parameters to be lax about. `sign` and `verify` are for `Compute`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import Authentication
from gateway.ike.registry import AuthMethod, HashAlgorithm, NotifyType

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
"""RFC 8247 4.1.2 for the lower; the upper bounds what a stranger can make us compute."""
RSA_EXPONENT_MIN, RSA_EXPONENT_MAX = 65537, 2**64
CURVES: Final = {"secp256r1": "SHA2_256", "secp384r1": "SHA2_384", "secp521r1": "SHA2_512"}
"""The curves we take, each with the hash of its strength (RFC 4754)."""
NAMES_SHOWN = 8
ECDSA_OCTETS_MAX = 141  # of a DER signature on P-521
EDDSA_OCTETS = {ed25519.Ed25519PublicKey: 64, ed448.Ed448PublicKey: 114}
_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "SHA2_256": hashes.SHA256(),
    "SHA2_384": hashes.SHA384(),
    "SHA2_512": hashes.SHA512(),
}
_NUMBERS = {name: HashAlgorithm[name] for name in _HASHES}
HASH_NUMBERS = (*_NUMBERS.values(), HashAlgorithm.IDENTITY)
"""What we announce and take, no SHA-1 (RFC 8247 3.2)."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """Our private key; `der` is what it is compared by, so a reload that reads the same key changes nothing."""

    der: bytes = field(repr=False)
    key: PrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, key: PrivateKey) -> SigningKey:
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(der, key)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to sign. `identifiers`: as RFC 7427 puts it before the signature, first as we send it; empty for classic methods."""

    name: str
    kind: Literal["rsa-pss", "rsa-pkcs1", "ecdsa", "ed25519", "ed448"]
    hash: int
    method: AuthMethod = AuthMethod.DIGITAL_SIGNATURE
    identifiers: tuple[bytes, ...] = ()
    curve: str = ""
    """RFC 4754 ties the classic methods to one curve each."""


def _der(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    return bytes((tag, len(body))) + body


_NULL = b"\x05\x00"
_OID_HASH = {
    name: bytes.fromhex(f"06096086480165030402{last:02x}") for name, last in zip(_HASHES, (1, 2, 3), strict=True)
}
_OID_PKCS1 = {
    name: bytes.fromhex(f"06092a864886f70d0101{last:02x}") for name, last in zip(_HASHES, (11, 12, 13), strict=True)
}
_OID_ECDSA = {
    name: bytes.fromhex(f"06082a8648ce3d0403{last:02x}") for name, last in zip(_HASHES, (2, 3, 4), strict=True)
}
_OID_PSS, _OID_MGF1 = bytes.fromhex("06092a864886f70d01010a"), bytes.fromhex("06092a864886f70d010108")


def _pss_identifiers(name: str) -> tuple[bytes, ...]:
    """RFC 4055 2.1, 3.1: the hash identifiers inside with NULL, as RFC 7427 A.4 writes them, or without."""
    found = []
    for of_hash in (_NULL, b""):
        for of_mask in (_NULL, b""):
            outer = _der(0x30, _OID_HASH[name], of_hash)
            mask = _der(0x30, _OID_MGF1, _der(0x30, _OID_HASH[name], of_mask))
            salt = _der(0x02, bytes((_HASHES[name].digest_size,)))
            parameters = _der(0x30, _der(0xA0, outer), _der(0xA1, mask), _der(0xA2, salt))
            found.append(_der(0x30, _OID_PSS, parameters))
    return tuple(found)


# RFC 7427 A, RFC 8420 A; the first that fits is ours
SCHEMES: tuple[Scheme, ...] = (
    *(Scheme(f"RSASSA-PSS-{n}", "rsa-pss", _NUMBERS[n], identifiers=_pss_identifiers(n)) for n in _HASHES),
    *(
        Scheme(f"RSASSA-PKCS1-{n}", "rsa-pkcs1", _NUMBERS[n], identifiers=(_der(0x30, _OID_PKCS1[n], _NULL),))
        for n in _HASHES
    ),
    *(Scheme(f"ECDSA-{n}", "ecdsa", _NUMBERS[n], identifiers=(_der(0x30, _OID_ECDSA[n]),)) for n in _HASHES),
    Scheme("Ed25519", "ed25519", HashAlgorithm.IDENTITY, identifiers=(bytes.fromhex("300506032b6570"),)),
    Scheme("Ed448", "ed448", HashAlgorithm.IDENTITY, identifiers=(bytes.fromhex("300506032b6571"),)),
)
CLASSIC: tuple[Scheme, ...] = (
    Scheme("ECDSA-256", "ecdsa", HashAlgorithm.SHA2_256, AuthMethod.ECDSA_SHA256_P256, curve="secp256r1"),
    Scheme("ECDSA-384", "ecdsa", HashAlgorithm.SHA2_384, AuthMethod.ECDSA_SHA384_P384, curve="secp384r1"),
    Scheme("ECDSA-521", "ecdsa", HashAlgorithm.SHA2_512, AuthMethod.ECDSA_SHA512_P521, curve="secp521r1"),
    Scheme("RSA-SHA1", "rsa-pkcs1", HashAlgorithm.SHA1, AuthMethod.RSA_SIGNATURE),
)
_BY_IDENTIFIER = {octets: scheme for scheme in SCHEMES for octets in scheme.identifiers}
_BY_METHOD = {scheme.method: scheme for scheme in CLASSIC}


def weakness(key: object) -> str:
    """Why nobody should be believed for that key; "" if there is no reason."""
    match key:
        case rsa.RSAPublicKey():
            exponent = key.public_numbers().e
            if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
                return f"an RSA key of {key.key_size} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are taken"
            # With a small exponent a lax reader of PKCS #1 padding can be given forged signatures
            if not RSA_EXPONENT_MIN <= exponent < RSA_EXPONENT_MAX:
                return f"an RSA key with the public exponent {exponent if exponent < RSA_EXPONENT_MAX else 'over 2^64'}"
            return ""
        case ec.EllipticCurvePublicKey():
            return (
                ""
                if key.curve.name in CURVES
                else f"a key on the curve {key.curve.name}; {', '.join(CURVES)} are taken"
            )
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return ""
        case _:
            return "a key that is neither RSA, ECDSA nor EdDSA"


def kinds_of(key: PublicKey) -> tuple[str, ...]:
    """The kinds of signatures that a key makes."""
    match key:
        case rsa.RSAPublicKey():
            return ("rsa-pss", "rsa-pkcs1")
        case ec.EllipticCurvePublicKey():
            return ("ecdsa",)
        case ed25519.Ed25519PublicKey():
            return ("ed25519",)
        case _:
            return ("ed448",)


@dataclass(frozen=True, slots=True)
class PeerAbility:
    """What a peer says it can verify. `hashes` None: it does not know RFC 7427. `announced` None: it does not know RFC 9593."""

    hashes: frozenset[int] | None = None
    announced: frozenset[tuple[int, bytes]] | None = None

    def takes(self, scheme: Scheme) -> bool:
        if scheme.method != AuthMethod.DIGITAL_SIGNATURE:
            # RFC 7427 4: who knows the new method is not served by the old ones, else a downgrade would be for free
            return self.hashes is None and (self.announced is None or (int(scheme.method), b"") in self.announced)
        if self.hashes is None or scheme.hash not in self.hashes:
            return False
        # RFC 9593 3.2.3
        wanted = {(int(scheme.method), octets) for octets in scheme.identifiers}
        return self.announced is None or bool(wanted & self.announced)


def choose(key: PublicKey, peer: PeerAbility, *, pss: bool, sha1: bool) -> Scheme | None:
    """How we sign for that peer. `pss`: rather RSASSA-PSS than PKCS #1; `sha1`: with RSA and SHA-1, where nothing else is known."""
    kinds = kinds_of(key)
    usable = [scheme for scheme in (*SCHEMES, *CLASSIC) if scheme.kind in kinds and peer.takes(scheme)]
    usable = [
        one
        for one in usable
        if not one.curve or (isinstance(key, ec.EllipticCurvePublicKey) and one.curve == key.curve.name)
    ]
    usable = [one for one in usable if sha1 or one.hash != HashAlgorithm.SHA1]
    return min(usable, key=lambda one: _distance(one, key, pss), default=None)


def _distance(scheme: Scheme, key: PublicKey, pss: bool) -> tuple[bool, int]:
    """The hash of the key's strength first; SHA2-256 for RSA."""
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else ""
    wanted = _NUMBERS[CURVES.get(curve, "SHA2_256")]
    return (scheme.kind == ("rsa-pkcs1" if pss else "rsa-pss"), abs(scheme.hash - wanted))


def sign(key: SigningKey, scheme: Scheme, octets: bytes) -> Authentication:
    """RFC 7427 3, RFC 4754 3."""
    signature = _sign(key.key, scheme, octets)
    if scheme.method == AuthMethod.DIGITAL_SIGNATURE:
        identifier = scheme.identifiers[0]
        return Authentication(int(scheme.method), bytes((len(identifier),)) + identifier + signature)
    if scheme.curve and isinstance(key.key, ec.EllipticCurvePrivateKey):
        # RFC 4754 7: r and s, each as long as the curve's order
        r, s = decode_dss_signature(signature)
        each = _scalar_octets(key.key.curve)
        signature = r.to_bytes(each, "big") + s.to_bytes(each, "big")
    return Authentication(int(scheme.method), signature)


def _sign(key: PrivateKey, scheme: Scheme, octets: bytes) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(octets, _padding(scheme), _hash(scheme))
        case ec.EllipticCurvePrivateKey():
            return key.sign(octets, ec.ECDSA(_hash(scheme)))
        case _:
            return key.sign(octets)


def verify(key: PublicKey, received: Authentication, octets: bytes, peer: PeerAbility, *, sha1: bool) -> None:
    """Returns only for a signature of exactly these octets; else PeerError. `sha1`: as in `choose`."""
    scheme, signature = _named(received, peer, sha1)
    if scheme.kind not in kinds_of(key):
        raise _refused(f"a signature of kind {scheme.name} by {_described(key)}")
    if scheme.curve:
        signature = _classic_ecdsa(key, scheme, signature)
    _check_length(key, signature)
    try:
        _verify(key, scheme, signature, octets)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise _refused(f"the {scheme.name} signature does not verify") from None


def _named(received: Authentication, peer: PeerAbility, sha1: bool) -> tuple[Scheme, bytes]:
    """The scheme, and the octets of the signature itself."""
    classic = _BY_METHOD.get(AuthMethod(received.method))
    if classic is not None:
        if classic.hash == HashAlgorithm.SHA1 and (not sha1 or peer.hashes is not None):
            raise _refused("an RSA signature with SHA-1, which is not taken here")
        return classic, received.data
    if received.method != AuthMethod.DIGITAL_SIGNATURE:
        raise _refused(f"peer authenticates by {AuthMethod(received.method).name}, configured is a certificate")
    octets = received.data[0] if received.data else 0
    identifier = received.data[1 : 1 + octets]
    scheme = _BY_IDENTIFIER.get(identifier)
    if scheme is None:
        raise _refused(f"a signature of an unknown kind ({identifier[:40].hex() or 'nothing'})")
    return scheme, received.data[1 + octets :]


def _verify(key: PublicKey, scheme: Scheme, signature: bytes, octets: bytes) -> None:
    match key:
        case rsa.RSAPublicKey():
            key.verify(signature, octets, _padding(scheme), _hash(scheme))
        case ec.EllipticCurvePublicKey():
            key.verify(signature, octets, ec.ECDSA(_hash(scheme)))
        case _:
            key.verify(signature, octets)


def _classic_ecdsa(key: PublicKey, scheme: Scheme, signature: bytes) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != scheme.curve:
        raise _refused(f"a signature of kind {scheme.name} by {_described(key)}")
    each = _scalar_octets(key.curve)
    if len(signature) != 2 * each:
        raise _refused(f"a signature of {len(signature)} octets, {scheme.name} has {2 * each}")
    return encode_dss_signature(int.from_bytes(signature[:each], "big"), int.from_bytes(signature[each:], "big"))


def _check_length(key: PublicKey, signature: bytes) -> None:
    """Before anything is computed."""
    match key:
        case rsa.RSAPublicKey():
            # RFC 8017 8.1.2, 8.2.2: exactly the length of the modulus
            good = len(signature) == (key.key_size + 7) // 8
        case ec.EllipticCurvePublicKey():
            good = 8 <= len(signature) <= ECDSA_OCTETS_MAX
        case _:
            good = (
                len(signature)
                == EDDSA_OCTETS[
                    ed448.Ed448PublicKey if isinstance(key, ed448.Ed448PublicKey) else ed25519.Ed25519PublicKey
                ]
            )
    if not good:
        raise _refused(f"a signature of {len(signature)} octets by {_described(key)}")


def _padding(scheme: Scheme) -> padding.AsymmetricPadding:
    if scheme.kind == "rsa-pkcs1":
        return padding.PKCS1v15()
    used = _hash(scheme)
    # RFC 8247 3.2: as many octets of salt as of the hash, neither found out nor guessed
    return padding.PSS(padding.MGF1(used), used.digest_size)


def _hash(scheme: Scheme) -> hashes.HashAlgorithm:
    if scheme.hash == HashAlgorithm.SHA1:
        return hashes.SHA1()
    return _HASHES[HashAlgorithm(scheme.hash).name]


def _scalar_octets(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8


def _described(key: PublicKey) -> str:
    match key:
        case rsa.RSAPublicKey():
            return f"an RSA key of {key.key_size} bits"
        case ec.EllipticCurvePublicKey():
            return f"a key on {key.curve.name}"
        case _:
            return "an EdDSA key"


def _refused(detail: str) -> PeerError:
    return PeerError(Violation.SIGNATURE, detail, NotifyType.AUTHENTICATION_FAILED)


# --- announcements ------------------------------------------------------------------------------------------------


def hashes_announced() -> bytes:
    """RFC 7427 4: the data of SIGNATURE_HASH_ALGORITHMS."""
    return b"".join(int(number).to_bytes(2, "big") for number in HASH_NUMBERS)


def hashes_heard(data: bytes) -> frozenset[int]:
    """RFC 7427 4; an odd octet at the end is nobody's."""
    return frozenset(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2))


def hash_names(numbers: Iterable[int]) -> list[str]:
    """For people."""
    return [HashAlgorithm(number).name for number in sorted(numbers)[:NAMES_SHOWN]]


def methods_announced(sha1: bool) -> bytes:
    """RFC 9593 3.2: what we verify, any of it by any of our CAs (a link of zero)."""
    classic = (scheme for scheme in CLASSIC if sha1 or scheme.hash != HashAlgorithm.SHA1)
    announced = [bytes((3, scheme.method, 0)) for scheme in classic]
    for scheme in SCHEMES:
        identifier = scheme.identifiers[0]
        announced.append(bytes((3 + len(identifier), scheme.method, 0)) + identifier)
    return b"".join(announced)


def methods_heard(data: Iterable[bytes]) -> frozenset[tuple[int, bytes]]:
    """RFC 9593 3.2, of one or several notifications: methods, each with its AlgorithmIdentifier where there is one."""
    found = set()
    for octets in data:
        rest = octets
        while len(rest) >= 2 and 2 <= rest[0] <= len(rest):
            found.add((rest[1], rest[3 : rest[0]]))
            rest = rest[rest[0] :]
    return frozenset(found)
