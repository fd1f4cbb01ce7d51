"""Signatures of AUTH: what is taken and, under the names of what went wrong elsewhere, what is not (RFC 7427, 4754, 8420, 8017)."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pki import new_key, shared_key

from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import Authentication
from gateway.ike.registry import AuthMethod, HashAlgorithm
from gateway.ike.signatures import (
    CLASSIC,
    HASH_NUMBERS,
    SCHEMES,
    PeerAbility,
    Scheme,
    SigningKey,
    choose,
    hashes_announced,
    hashes_heard,
    kinds_of,
    methods_announced,
    methods_heard,
    sign,
    verify,
    weakness,
)

OCTETS = b"what is to be signed"
KNOWS = PeerAbility(frozenset(int(one) for one in HASH_NUMBERS))
NEVER_HEARD = PeerAbility()
KINDS = ("p256", "p384", "p521", "ed25519", "ed448", "rsa2048", "rsa3072")


@cache
def key(kind: str) -> Any:
    return shared_key(kind, "signatures")


def scheme(name: str) -> Scheme:
    return next(one for one in (*SCHEMES, *CLASSIC) if one.name == name)


def taken(
    public: Any, auth: Authentication, octets: bytes = OCTETS, peer: PeerAbility = KNOWS, sha1: bool = False
) -> bool:
    """Whether it verifies; a refusal has its name."""
    why = Violation.SIGNATURE
    try:
        verify(public, auth, octets, peer, sha1=sha1)
        return True
    except PeerError as refused:
        why = refused.why
    assert why is Violation.SIGNATURE
    return False


def pairs() -> list[tuple[str, Scheme]]:
    return [(kind, one) for kind in KINDS for one in SCHEMES if one.kind in kinds_of(key(kind).public_key())]


@pytest.mark.parametrize(("kind", "one"), pairs(), ids=lambda one: getattr(one, "name", one))
def test_each_scheme_verifies_what_it_signed_and_nothing_else(kind: str, one: Scheme) -> None:
    private = key(kind)
    auth = sign(SigningKey.of(private), one, OCTETS)
    public = private.public_key()
    assert taken(public, auth)
    assert not taken(public, auth, OCTETS + b"x")
    assert not taken(new_key(kind).public_key(), auth)
    for at in (0, 1, len(auth.data) // 2, len(auth.data) - 1):
        bent = bytearray(auth.data)
        bent[at] ^= 1
        assert not taken(public, Authentication(auth.method, bytes(bent)))


def test_the_identifiers_are_those_of_the_rfcs() -> None:
    """RFC 7427 A.1 to A.4, RFC 8420 A."""
    assert scheme("RSASSA-PKCS1-SHA2_256").identifiers == (bytes.fromhex("300d06092a864886f70d01010b0500"),)
    assert scheme("RSASSA-PKCS1-SHA2_512").identifiers == (bytes.fromhex("300d06092a864886f70d01010d0500"),)
    assert scheme("ECDSA-SHA2_384").identifiers == (bytes.fromhex("300a06082a8648ce3d040303"),)
    assert scheme("RSASSA-PSS-SHA2_256").identifiers[0] == bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609608648016503"
        "04020105 00a203020120".replace(" ", "")
    )
    assert scheme("Ed25519").identifiers == (bytes.fromhex("300506032b6570"),)
    assert scheme("Ed448").identifiers == (bytes.fromhex("300506032b6571"),)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("octets", [*range(40), 64, 71, 255, 256, 257, 300])
def test_cve_2013_2944_an_empty_or_short_signature(kind: str, octets: int) -> None:
    """strongSwan's OpenSSL plug-in took an error code for a success."""
    public = key(kind).public_key()
    for one in SCHEMES:
        identifier = one.identifiers[0]
        assert not taken(public, Authentication(14, bytes((len(identifier),)) + identifier + bytes(octets)))
    for method in range(16):
        assert not taken(public, Authentication(method, bytes(octets)), sha1=True, peer=NEVER_HEARD)


@pytest.mark.parametrize(("kind", "name", "octets"), [("rsa2048", "RSASSA-PSS-SHA2_256", 255), ("rsa2048", "RSASSA-PKCS1-SHA2_256", 257), ("p256", "ECDSA-SHA2_256", 7), ("p256", "ECDSA-SHA2_256", 200), ("ed25519", "Ed25519", 63), ("ed448", "Ed448", 64)])  # fmt: skip
def test_a_wrong_length_is_refused_before_anything_is_computed(kind: str, name: str, octets: int) -> None:
    identifier = scheme(name).identifiers[0]
    with pytest.raises(PeerError, match=f"a signature of {octets} octets by"):
        verify(
            key(kind).public_key(),
            Authentication(14, bytes((len(identifier),)) + identifier + bytes(octets)),
            OCTETS,
            KNOWS,
            sha1=False,
        )


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff", b"\x0f", bytes(3), b"\x0a" + bytes(10), b"\xff" * 300])
def test_identifiers_that_lie_about_their_length(data: bytes) -> None:
    assert not taken(key("p256").public_key(), Authentication(14, data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 255))
def test_any_octets_are_refused_and_nothing_else_happens(data: bytes, method: int) -> None:
    for kind in ("p256", "ed25519", "rsa2048"):
        assert not taken(key(kind).public_key(), Authentication(method, data), sha1=True, peer=NEVER_HEARD)


# --- RSA ------------------------------------------------------------------------------------------------------------------


def raw_rsa(private: rsa.RSAPrivateKey, block: bytes) -> bytes:
    numbers = private.private_numbers()
    modulus = numbers.public_numbers.n
    return pow(int.from_bytes(block, "big"), numbers.d, modulus).to_bytes((private.key_size + 7) // 8, "big")


INFO = {"sha256": bytes.fromhex("3031300d060960864801650304020105000420")}


def pkcs1(total: int, info: bytes, digest: bytes, fill: bytes = b"\xff", garbage: bytes = b"") -> bytes:
    body = info + digest + garbage
    return b"\0\1" + fill * (total - 3 - len(body)) + b"\0" + body


LAX: dict[str, Any] = {
    "garbage after the hash": lambda total, digest: b"\0\1" + b"\xff" * 8 + b"\0" + INFO["sha256"] + digest + b"\x17" * (total - 62),
    "padding of another octet": lambda total, digest: pkcs1(total, INFO["sha256"], digest, fill=b"\x01"),
    "type 2": lambda total, digest: b"\0\2" + pkcs1(total, INFO["sha256"], digest)[2:],
    "no first zero": lambda total, digest: b"\x01\1" + pkcs1(total, INFO["sha256"], digest)[2:],
    "no NULL": lambda total, digest: pkcs1(total, bytes.fromhex("302f300b0609608648016503040201" "0420"), digest),
    "other parameters": lambda total, digest: pkcs1(total, bytes.fromhex("3034301006096086480165030402010403010203" "0420"), digest),
    "long form of a length": lambda total, digest: pkcs1(total, bytes.fromhex("308131300d060960864801650304020105000420"), digest),
    "another hash": lambda total, digest: pkcs1(total, bytes.fromhex("3031300d060960864801650304020205000420"), digest),
    "no identifier": lambda total, digest: pkcs1(total, b"", digest),
    "half a hash": lambda total, digest: pkcs1(total, INFO["sha256"], digest[:16]),
    "octets after the structure": lambda total, digest: pkcs1(total, INFO["sha256"], digest, garbage=b"\0"),
}  # fmt: skip


def pkcs1_auth(signature: bytes) -> Authentication:
    identifier = scheme("RSASSA-PKCS1-SHA2_256").identifiers[0]
    return Authentication(14, bytes((len(identifier),)) + identifier + signature)


def test_the_strict_form_made_by_hand_is_taken() -> None:
    private = key("rsa2048")
    block = pkcs1(256, INFO["sha256"], hashlib.sha256(OCTETS).digest())
    assert taken(private.public_key(), pkcs1_auth(raw_rsa(private, block)))


@pytest.mark.parametrize("how", LAX)
def test_cve_2018_16151_cve_2026_50721_lax_pkcs1(how: str) -> None:
    """strongSwan's gmp plug-in and Libreswan read PKCS #1 leniently; with a small exponent such blocks need no key."""
    private = key("rsa2048")
    block = LAX[how](256, hashlib.sha256(OCTETS).digest())
    assert len(block) == 256
    assert not taken(private.public_key(), pkcs1_auth(raw_rsa(private, block)))


def test_bleichenbacher_2006_a_cube_root_needs_an_exponent_that_is_refused() -> None:
    forged = rsa.RSAPublicNumbers(3, key("rsa2048").public_key().public_numbers().n).public_key()
    assert "exponent 3" in weakness(forged)
    block = int.from_bytes(
        b"\0\1\xff\xff\xff\xff\xff\xff\xff\xff\0" + INFO["sha256"] + hashlib.sha256(OCTETS).digest() + bytes(194), "big"
    )
    low, high = 0, 1 << 700
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**3 < block else (low, middle)
    assert not taken(forged, pkcs1_auth(low.to_bytes(256, "big")))


@pytest.mark.parametrize("value", [0, 1, -1])
def test_an_rsa_signature_of_zero_one_and_the_modulus_less_one(value: int) -> None:
    public = key("rsa2048").public_key()
    number = value % public.public_numbers().n
    assert not taken(public, pkcs1_auth(number.to_bytes(256, "big")))
    modulus = public.public_numbers().n
    assert not taken(public, pkcs1_auth((modulus + 1 if modulus + 1 < 1 << 2048 else modulus).to_bytes(256, "big")))


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 48, 64, 190])
def test_cve_2021_41991_salts_of_other_lengths(salt: int) -> None:
    """RFC 8247 3.2: of the hash's length; the identifier says so, and the signature is held to it."""
    private = key("rsa2048")
    good = scheme("RSASSA-PSS-SHA2_256").identifiers[0]
    signature = private.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA256()), salt), hashes.SHA256())
    assert not taken(private.public_key(), Authentication(14, bytes((len(good),)) + good + signature))
    told = good[:-1] + bytes((salt,))
    assert not taken(private.public_key(), Authentication(14, bytes((len(told),)) + told + signature))


def test_pss_with_another_hash_for_the_mask_or_a_trailer() -> None:
    private = key("rsa2048")
    signature = private.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA256())
    good = scheme("RSASSA-PSS-SHA2_256").identifiers[0]
    assert not taken(private.public_key(), Authentication(14, bytes((len(good),)) + good + signature))
    mixed = good.replace(bytes.fromhex("608648016503040201"), bytes.fromhex("608648016503040202"), 2)
    assert mixed != good
    assert not taken(private.public_key(), Authentication(14, bytes((len(mixed),)) + mixed + signature))


@pytest.mark.parametrize("identifier", scheme("RSASSA-PSS-SHA2_384").identifiers, ids=len)
def test_pss_identifiers_with_and_without_null(identifier: bytes) -> None:
    """RFC 4055 2.1: both are to be taken."""
    private = key("rsa2048")
    signature = private.sign(OCTETS, padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA384())
    assert taken(private.public_key(), Authentication(14, bytes((len(identifier),)) + identifier + signature))


@pytest.mark.parametrize(
    ("kind", "word"), [("rsa1024", "1024 bits"), ("rsa2048e3", "exponent 3"), ("p224", "secp224r1")]
)
def test_weak_keys_are_named(kind: str, word: str) -> None:
    assert word in weakness(shared_key(kind, "weak").public_key())
    assert weakness("no key") and weakness(None)


@pytest.mark.parametrize("kind", KINDS)
def test_strong_keys_are_not(kind: str) -> None:
    assert weakness(key(kind).public_key()) == ""


def test_a_modulus_or_exponent_that_would_keep_us_busy() -> None:
    """CVE-2021-41990 and the like: bounded before anything is computed."""
    assert "9000 bits" in weakness(rsa.RSAPublicNumbers(65537, (1 << 8999) + 1).public_key())
    assert "over 2^64" in weakness(
        rsa.RSAPublicNumbers((1 << 64) + 1, key("rsa2048").public_key().public_numbers().n).public_key()
    )


# --- ECDSA ----------------------------------------------------------------------------------------------------------------


def order_of(private: Any) -> int:
    return {"secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551}[private.curve.name]


def ecdsa_auth(r: int, s: int) -> Authentication:
    identifier = scheme("ECDSA-SHA2_256").identifiers[0]
    return Authentication(14, bytes((len(identifier),)) + identifier + encode_dss_signature(r, s))


@pytest.mark.parametrize(("r", "s"), [(0, 0), (0, 1), (1, 0), (1, 1), ("n", 1), (1, "n"), ("n", "n"), (0, "n")])
def test_cve_2022_21449_signatures_of_nothing(r: Any, s: Any) -> None:
    """Psychic signatures: r and s of zero, or of the order."""
    private = key("p256")
    order = order_of(private)
    auth = ecdsa_auth(order if r == "n" else r, order if s == "n" else s)
    assert not taken(private.public_key(), auth)


def test_r_and_s_out_of_range_are_no_other_form_of_the_same() -> None:
    private = key("p256")
    r, s = decode_dss_signature(private.sign(OCTETS, ec.ECDSA(hashes.SHA256())))
    assert taken(private.public_key(), ecdsa_auth(r, s))
    assert not taken(private.public_key(), ecdsa_auth(r + order_of(private), s))
    assert not taken(private.public_key(), ecdsa_auth(r, s + order_of(private)))


@pytest.mark.parametrize(
    "change", [lambda d: d + b"\0", lambda d: b"\x30\x81" + d[1:], lambda d: d[:-1], lambda d: d[:4] + b"\0" + d[4:]]
)
def test_ecdsa_in_another_encoding(change: Any) -> None:
    private = key("p256")
    identifier = scheme("ECDSA-SHA2_256").identifiers[0]
    signature = change(private.sign(OCTETS, ec.ECDSA(hashes.SHA256())))
    assert not taken(private.public_key(), Authentication(14, bytes((len(identifier),)) + identifier + signature))


@pytest.mark.parametrize(("kind", "method"), [("p256", 9), ("p384", 10), ("p521", 11)])
def test_the_classic_methods_are_of_one_curve_each(kind: str, method: int) -> None:
    """RFC 4754."""
    one = next(found for found in CLASSIC if found.method == method)
    auth = sign(SigningKey.of(key(kind)), one, OCTETS)
    assert len(auth.data) == {9: 64, 10: 96, 11: 132}[method]
    for other in ("p256", "p384", "p521"):
        for number in (9, 10, 11):
            good = (other, number) == (kind, method)
            assert taken(key(other).public_key(), Authentication(number, auth.data), peer=NEVER_HEARD) == good
    assert not taken(key(kind).public_key(), Authentication(method, auth.data + b"\0"))
    assert not taken(key(kind).public_key(), Authentication(method, auth.data[1:]))
    assert not taken(key(kind).public_key(), Authentication(method, bytes(len(auth.data))))


# --- choosing -------------------------------------------------------------------------------------------------------------


def named(kind: str, peer: PeerAbility, **options: Any) -> str:
    found = choose(key(kind).public_key(), peer, **({"pss": True, "sha1": False} | options))
    return found.name if found is not None else ""


def test_what_is_chosen_is_what_the_peer_takes() -> None:
    assert named("rsa2048", KNOWS) == "RSASSA-PSS-SHA2_256"
    assert named("rsa2048", KNOWS, pss=False) == "RSASSA-PKCS1-SHA2_256"
    assert named("rsa2048", PeerAbility(frozenset({3}))) == "RSASSA-PSS-SHA2_384"
    assert named("p384", KNOWS) == "ECDSA-SHA2_384"
    assert named("p384", PeerAbility(frozenset({2}))) == "ECDSA-SHA2_256"
    assert named("ed25519", KNOWS) == "Ed25519"
    # RFC 8420 2: only who announced Identity knows EdDSA
    assert named("ed25519", PeerAbility(frozenset({2, 3, 4}))) == ""
    assert named("p256", PeerAbility(frozenset({1}))) == ""


def test_without_rfc_7427_the_classic_methods() -> None:
    assert [named(kind, NEVER_HEARD) for kind in ("p256", "p384", "p521")] == ["ECDSA-256", "ECDSA-384", "ECDSA-521"]
    assert named("ed25519", NEVER_HEARD) == ""
    assert named("rsa2048", NEVER_HEARD) == ""
    assert named("rsa2048", NEVER_HEARD, sha1=True) == "RSA-SHA1"
    assert named("rsa2048", KNOWS, sha1=True) == "RSASSA-PSS-SHA2_256"


def test_sha1_only_if_allowed_and_never_from_who_knows_better() -> None:
    """RFC 8247 3.1; a downgrade is signed by nobody else than the one who is impersonated."""
    private = key("rsa2048")
    auth = sign(SigningKey.of(private), scheme("RSA-SHA1"), OCTETS)
    assert auth.method == AuthMethod.RSA_SIGNATURE
    assert taken(private.public_key(), auth, peer=NEVER_HEARD, sha1=True)
    assert not taken(private.public_key(), auth, peer=NEVER_HEARD, sha1=False)
    assert not taken(private.public_key(), auth, peer=KNOWS, sha1=True)


def test_announcements_are_heeded() -> None:
    """RFC 9593 3.2: what we announce is read back as all we have; what a peer leaves out is not used."""
    assert hashes_heard(hashes_announced()) == KNOWS.hashes
    everything = methods_heard([methods_announced(sha1=False)])
    full = PeerAbility(KNOWS.hashes, everything)
    assert [named(kind, full) for kind in KINDS] == [named(kind, KNOWS) for kind in KINDS]
    pkcs1_only = frozenset(one for one in everything if one[1] in scheme("RSASSA-PKCS1-SHA2_384").identifiers)
    assert named("rsa2048", PeerAbility(KNOWS.hashes, pkcs1_only)) == "RSASSA-PKCS1-SHA2_384"
    assert named("p256", PeerAbility(KNOWS.hashes, pkcs1_only)) == ""
    assert named("p256", PeerAbility(None, frozenset({(9, b"")}))) == "ECDSA-256"
    assert named("p256", PeerAbility(None, frozenset({(2, b"")}))) == ""


@given(st.binary(max_size=100))
def test_any_announcement_is_read_without_harm(data: bytes) -> None:
    for method, identifier in methods_heard([data]):
        assert 0 <= method <= 255 and len(identifier) < 256
    assert all(0 <= number < 65536 for number in hashes_heard(data))


def test_sha1_is_announced_by_nobody() -> None:
    assert HashAlgorithm.SHA1 not in HASH_NUMBERS
    assert (1, b"") not in methods_heard([methods_announced(sha1=False)])
    assert (1, b"") in methods_heard([methods_announced(sha1=True)])


def test_a_signing_key_does_not_print_and_compares_by_its_octets() -> None:
    private = key("p256")
    one = SigningKey.of(private)
    assert one == SigningKey.of(private) != SigningKey.of(new_key("p256"))
    assert one.der.hex() not in repr(one) and "key" not in repr(one).lower().replace("signingkey", "")
