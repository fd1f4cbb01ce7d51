"""Paths to a CA, under the names of what others let pass: constraints, lengths, loops, floods (RFC 5280 6)."""

from __future__ import annotations

import time
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pki import DAY, EPOCH, Authority, Issued, build, key_usage, name, new_key, shared_key

from gateway.ike import certificate_path
from gateway.ike.certificate_names import describe_name, parse_name, proves, same_name
from gateway.ike.certificate_path import DEPTH_MAX, SIGNATURES_MAX, check_issuer
from gateway.ike.certificates import CERTIFICATES_MAX, Shown, payloads, prove
from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import Authentication, Certificate
from gateway.ike.settings import Credentials, Identity, Trust
from gateway.ike.signatures import HASH_NUMBERS, SCHEMES, PeerAbility, SigningKey, sign
from gateway.wire import Truncated

ROOT = Authority("root")
EVERY_HASH = PeerAbility(frozenset(int(one) for one in HASH_NUMBERS))


def refusal(end: Issued, *others: x509.Certificate, ca: Issued = ROOT, at: Any = EPOCH) -> Violation | None:
    """Why there is no path; None when there is one."""
    try:
        certificate_path.build(end.certificate, [*end.chain, *others], [ca.certificate], at)
    except PeerError as refused:
        return refused.why
    return None


def test_intermediates_in_any_order_with_strangers_among_them() -> None:
    chain = [ROOT.sub("a")]
    for letter in "bcde":
        chain.append(chain[-1].sub(letter))
    end = chain[-1].issue("end")
    strangers = [Authority("stranger").certificate, Authority("root").certificate]
    mixed = [*strangers, *reversed([one.certificate for one in chain])]
    path = certificate_path.build(end.certificate, mixed, [ROOT.certificate], EPOCH)
    assert [one.subject.rfc4514_string()[3] for one in path.certificates] == ["e", "e", "d", "c", "b", "a", "r"]
    assert [pair[1] for pair in path.links()] == list(path.certificates[1:])


def test_an_intermediate_may_be_the_anchor() -> None:
    sub = ROOT.sub("sub")
    assert refusal(sub.issue("end"), ca=sub) is None
    assert refusal(ROOT.issue("end"), ca=sub) is Violation.CERTIFICATE_UNKNOWN_CA


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521", "ed25519", "ed448"])
def test_cas_of_every_kind(kind: str) -> None:
    key = shared_key(kind, "ca") if kind.startswith("rsa") else None
    root = Authority("root", kind, key=key)
    assert refusal(root.issue("end"), ca=root) is None
    if key is not None:
        assert refusal(root.issue("end", pss=True), ca=root) is None
        assert refusal(root.issue("end", digest=hashes.SHA224()), ca=root) is Violation.CERTIFICATE_WEAK


def test_a_weak_ca_is_named_even_as_the_anchor() -> None:
    weak = Authority("weak", key=shared_key("rsa1024", "weak"))
    assert refusal(weak.issue("end"), ca=weak) is Violation.CERTIFICATE_WEAK
    assert "1024 bits" in check_issuer(weak.certificate)


# --- who may certify ------------------------------------------------------------------------------------------------------

NOT_A_CA: dict[str, Any] = {
    "an end entity": lambda: ROOT.sub("sub", ca=False),
    "no basicConstraints": lambda: _plain("sub"),
    "keyUsage without keyCertSign": lambda: ROOT.sub(
        "sub", usage=False, extensions=[(key_usage(digital_signature=True), True)]
    ),
    "keyUsage not critical": lambda: ROOT.sub("sub", usage=False, extensions=[(key_usage(crl_sign=True), False)]),
    "something critical": lambda: ROOT.sub(
        "sub", extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]
    ),
    "policies that have to be processed": lambda: ROOT.sub("sub", extensions=[(x509.PolicyConstraints(0, None), True)]),
}


def _plain(common: str) -> Authority:
    made = ROOT.sub(common)
    made.certificate = build(
        name(common), made.key, ROOT.certificate.subject, ROOT.key, ROOT.certificate, EPOCH - DAY, EPOCH + DAY, []
    )
    made.chain = (made.certificate,)
    return made


@pytest.mark.parametrize("what", NOT_A_CA)
def test_an_intermediate_that_is_no_ca(what: str) -> None:
    """CVE-2002-0862 and ever since: any certificate certifies any other."""
    sub = NOT_A_CA[what]()
    assert refusal(sub.issue("end")) is Violation.CERTIFICATE_CHAIN
    assert check_issuer(sub.certificate)


@pytest.mark.parametrize(
    ("length", "below", "good"), [(0, 0, True), (0, 1, False), (1, 1, True), (1, 2, False), (None, 3, True)]
)
def test_path_length(length: int | None, below: int, good: bool) -> None:
    last = ROOT.sub("limited", path_length=length)
    for number in range(below):
        last = last.sub(f"sub{number}")
    assert refusal(last.issue("end")) is (None if good else Violation.CERTIFICATE_CHAIN)


def test_a_larger_path_length_below_grants_nothing() -> None:
    last = ROOT.sub("limited", path_length=0).sub("greedy", path_length=9)
    assert refusal(last.issue("end")) is Violation.CERTIFICATE_CHAIN


@pytest.mark.parametrize("place", ["end", "sub", "root"])
@pytest.mark.parametrize(
    ("shift", "why"), [(-400, Violation.CERTIFICATE_EXPIRED), (9, Violation.CERTIFICATE_NOT_YET_VALID)]
)
def test_time_counts_at_every_place(place: str, shift: int, why: Violation) -> None:
    at = EPOCH + timedelta(shift)
    times = {one: {"at": at, "days": 300} if one == place else {} for one in ("root", "sub", "end")}
    root = Authority("root", **times["root"])  # type: ignore[arg-type]
    end = root.sub("sub", **times["sub"]).issue("end", **times["end"])
    assert refusal(end, ca=root) is why


def test_the_last_second_counts() -> None:
    end = ROOT.issue("end")
    last = end.certificate.not_valid_after_utc
    assert refusal(end, at=last) is None
    assert refusal(end, at=last + timedelta(seconds=1)) is Violation.CERTIFICATE_EXPIRED
    first = end.certificate.not_valid_before_utc
    assert refusal(end, at=first) is None
    assert refusal(end, at=first - timedelta(seconds=1)) is Violation.CERTIFICATE_NOT_YET_VALID


@pytest.mark.parametrize(
    ("purposes", "good"),
    [
        ([ExtendedKeyUsageOID.IPSEC_IKE], True),
        ([ExtendedKeyUsageOID.SERVER_AUTH], True),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], True),
        ([ExtendedKeyUsageOID.CODE_SIGNING], False),
        ([ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.TIME_STAMPING], False),
    ],
)
def test_purposes(purposes: list[x509.ObjectIdentifier], good: bool) -> None:
    end = ROOT.issue("end", extensions=[(x509.ExtendedKeyUsage(purposes), True)])
    assert refusal(end) is (None if good else Violation.CERTIFICATE_CHAIN)


# --- floods and rings -----------------------------------------------------------------------------------------------------


def ring() -> tuple[Issued, list[x509.Certificate]]:
    """Three CAs, each certified by the next."""
    keys = [new_key() for _ in range(3)]
    names = [name(f"ring{n}") for n in range(3)]
    constraint = [(x509.BasicConstraints(True, None), True)]
    made = [
        build(names[n], keys[n], names[(n + 1) % 3], keys[(n + 1) % 3], None, EPOCH - DAY, EPOCH + DAY, constraint)
        for n in range(3)
    ]
    end = build(name("end"), keys[0], names[0], keys[0], None, EPOCH - DAY, EPOCH + DAY, [])
    return Issued(end, keys[0]), made


def test_cve_2017_9023_a_ring_of_cas_ends() -> None:
    end, cas = ring()
    assert refusal(end, *cas) is Violation.CERTIFICATE_UNKNOWN_CA


def test_a_path_that_is_too_long() -> None:
    last = ROOT
    for number in range(DEPTH_MAX - 2):
        last = last.sub(f"sub{number}")
    assert refusal(last.issue("end")) is None
    assert refusal(last.sub("one more").issue("end")) is Violation.CERTIFICATE_UNKNOWN_CA


def test_a_thicket_of_cross_certificates_costs_no_more_than_a_path() -> None:
    """CVE-2021-41990 and its kin: exponentially many paths of a few certificates. Every CA of one level signs every one below."""
    levels = [[new_key() for _ in range(2)] for _ in range(6)]
    constraint = [(x509.BasicConstraints(True, None), True)]
    thicket = [
        build(name(f"level{n}"), below, name(f"level{n + 1}"), above, None, EPOCH - DAY, EPOCH + DAY, constraint)
        for n in range(5) for below in levels[n] for above in levels[n + 1]
    ]  # fmt: skip
    end = build(name("end"), new_key(), name("level0"), levels[0][0], None, EPOCH - DAY, EPOCH + DAY, [])
    started = time.perf_counter()
    assert refusal(Issued(end, None), *thicket) is Violation.CERTIFICATE_CHAIN
    assert time.perf_counter() - started < 5
    search = certificate_path._Search(thicket, [ROOT.certificate], EPOCH)
    assert search.extend((end,)) is None
    assert search.left == 0 and SIGNATURES_MAX <= 32


def shown(*certificates: bytes, encoding: int = 4) -> Shown:
    return Shown(tuple(Certificate(encoding, one) for one in certificates), Authentication(14, b""), b"", EVERY_HASH)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (shown(), Violation.CERTIFICATE_MISSING),
        (shown(b"x", encoding=1), Violation.CERTIFICATE_MISSING),
        (shown(b"x", encoding=12), Violation.CERTIFICATE_MISSING),
        (shown(b"x", encoding=255), Violation.CERTIFICATE_MISSING),
        (shown(b""), Violation.CERTIFICATE_CHAIN),
        (shown(b"\x30\x82\xff\xff"), Violation.CERTIFICATE_CHAIN),
        (shown(ROOT.der + b"\0"), Violation.CERTIFICATE_CHAIN),
        (shown(ROOT.der, b"junk"), Violation.CERTIFICATE_CHAIN),
        (shown(ROOT.der + bytes(20000)), Violation.CERTIFICATE_CHAIN),
        (shown(*(ROOT.der for _ in range(CERTIFICATES_MAX + 1))), Violation.CERTIFICATE_CHAIN),
        (shown(b"-----BEGIN CERTIFICATE-----"), Violation.CERTIFICATE_CHAIN),
    ],
)
def test_a_huge_chain_and_other_nonsense(what: Shown, why: Violation) -> None:
    with pytest.raises(PeerError) as refused:
        prove(what, Trust((ROOT.certificate,)), Identity(2, b"x", "x"), EPOCH.timestamp())
    assert refused.value.why is why


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_certificate_with_one_octet_changed_proves_nothing(place: int, change: int) -> None:
    octets = bytearray(BENT.der)
    octets[place % len(octets)] ^= change
    auth = sign(SigningKey.of(BENT.key), SCHEMES[6], b"octets")
    what = Shown((Certificate(4, bytes(octets)), Certificate(4, SUB.der)), auth, b"octets", EVERY_HASH)
    try:
        path = prove(what, Trust((ROOT.certificate,)), Identity(2, b"gw", "gw"), EPOCH.timestamp())
    except PeerError:
        return
    # What is not under the signature: how many bits of its last octet are unused
    assert path.end_entity.tbs_certificate_bytes == BENT.certificate.tbs_certificate_bytes


SUB = ROOT.sub("sub")
BENT = SUB.issue("gw", dns=["gw"])


def test_the_same_unchanged_does() -> None:
    auth = sign(SigningKey.of(BENT.key), SCHEMES[6], b"octets")
    certificates = payloads(Credentials(BENT.certificate, BENT.chain, SigningKey.of(BENT.key)))
    path = prove(
        Shown(certificates, auth, b"octets", EVERY_HASH),
        Trust((ROOT.certificate,)),
        Identity(2, b"gw", "gw"),
        EPOCH.timestamp(),
    )
    assert path.end_entity == BENT.certificate


# --- name constraints -----------------------------------------------------------------------------------------------------


def constrained(permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None) -> Authority:
    return ROOT.sub("constrained", extensions=[(x509.NameConstraints(permitted, excluded), True)])


def dns(text: str) -> x509.GeneralName:
    return x509.DNSName(text)


def mail(text: str) -> x509.GeneralName:
    return x509.RFC822Name(text)


def net(text: str) -> x509.GeneralName:
    return x509.IPAddress(ip_network(text))


def subject(**attributes: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(getattr(NameOID, oid), text) for oid, text in attributes.items()])


def directory(**attributes: str) -> x509.GeneralName:
    return x509.DirectoryName(subject(**attributes))


LAB = {"COUNTRY_NAME": "CH", "ORGANIZATION_NAME": "Lab"}
CONSTRAINTS: list[tuple[list[x509.GeneralName] | None, list[x509.GeneralName] | None, dict[str, Any], bool]] = [
    ([dns("example.net")], None, {"dns": ["example.net"]}, True),
    ([dns("example.net")], None, {"dns": ["gw.example.net"]}, True),
    ([dns("example.net")], None, {"dns": ["GW.EXAMPLE.NET"]}, True),
    ([dns("example.net")], None, {"dns": ["badexample.net"]}, False),
    ([dns("example.net")], None, {"dns": ["example.net.evil.org"]}, False),
    ([dns("example.net")], None, {"dns": ["gw.example.net", "evil.org"]}, False),
    ([dns("example.net")], None, {"dns": ["*.org"]}, False),
    ([dns("example.net")], None, {"ip": ["10.0.0.1"]}, True),  # not constrained in addresses
    (None, [dns("evil.org")], {"dns": ["gw.evil.org"]}, False),
    (None, [dns("evil.org")], {"dns": ["GW.Evil.Org"]}, False),
    (None, [dns("evil.org")], {"dns": ["gw.evil.org."]}, False),
    (None, [dns("evil.org")], {"dns": ["notevil.org"]}, True),
    ([dns("example.net")], [dns("secret.example.net")], {"dns": ["gw.secret.example.net"]}, False),
    ([net("10.0.0.0/8")], None, {"ip": ["10.1.2.3"]}, True),
    ([net("10.0.0.0/8")], None, {"ip": ["11.1.2.3"]}, False),
    ([net("10.0.0.0/8")], None, {"ip": ["::1"]}, False),
    (None, [net("10.0.0.0/8")], {"ip": ["10.1.2.3"]}, False),
    (None, [net("10.0.0.0/8")], {"ip": ["11.1.2.3"]}, True),
    ([mail("example.net")], None, {"email": ["a@example.net"]}, True),
    ([mail("example.net")], None, {"email": ["a@gw.example.net"]}, False),
    ([mail(".example.net")], None, {"email": ["a@gw.example.net"]}, True),
    ([mail(".example.net")], None, {"email": ["a@example.net"]}, False),
    ([mail("a@example.net")], None, {"email": ["a@example.net"]}, True),
    ([mail("a@example.net")], None, {"email": ["b@example.net"]}, False),
    (None, [mail("evil.org")], {"email": ["a@EVIL.org"]}, False),
    ([directory(**LAB)], None, {}, True),
    ([directory(COUNTRY_NAME="CH")], None, {}, True),
    ([directory(ORGANIZATION_NAME="Lab")], None, {}, False),
    ([directory(**LAB, ORGANIZATIONAL_UNIT_NAME="x")], None, {}, False),
    (None, [directory(**LAB)], {}, False),
    (None, [directory(COUNTRY_NAME="CH", ORGANIZATION_NAME="LAB ")], {}, False),  # RFC 5280 7.1: case and blanks
    (None, [directory(COUNTRY_NAME="DE")], {}, True),
    ([mail("example.net")], None, {"subject": subject(EMAIL_ADDRESS="a@evil.org")}, False),
    (None, [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], {"dns": ["a"]}, True),
]


@pytest.mark.parametrize(("permitted", "excluded", "names", "good"), CONSTRAINTS)
def test_cve_2026_35331_names_out_of_bounds(permitted: Any, excluded: Any, names: dict[str, Any], good: bool) -> None:
    """strongSwan: constraints that could be bypassed."""
    end = constrained(permitted, excluded).issue("end", **names)
    assert refusal(end) is (None if good else Violation.CERTIFICATE_CHAIN)


def test_cve_2015_4171_constraints_hold_for_everything_below_and_from_the_anchor() -> None:
    above = constrained([dns("example.net")], None)
    assert refusal(above.sub("sub").issue("end", dns=["evil.org"])) is Violation.CERTIFICATE_CHAIN
    assert refusal(above.sub("sub").issue("end", dns=["gw.example.net"])) is None
    anchor = Authority("anchor", extensions=[(x509.NameConstraints([dns("example.net")], None), True)])
    assert refusal(anchor.issue("end", dns=["evil.org"]), ca=anchor) is Violation.CERTIFICATE_CHAIN
    other = above.sub("sub", extensions=[(x509.NameConstraints([dns("org")], None), True)])
    assert refusal(other.issue("end", dns=["gw.example.net"])) is Violation.CERTIFICATE_CHAIN
    assert refusal(other.issue("end", dns=["gw.org"])) is Violation.CERTIFICATE_CHAIN


def test_a_ca_below_is_held_to_the_constraints_too() -> None:
    """RFC 5280 6.1.3 b: not only the end entity; but a CA that certifies itself anew is."""
    above = constrained([directory(**LAB, COMMON_NAME="constrained")], None)
    end = above.sub("outside").issue(
        "x", subject=subject(**LAB, COMMON_NAME="constrained", ORGANIZATIONAL_UNIT_NAME="end")
    )
    assert refusal(end) is Violation.CERTIFICATE_CHAIN
    again = above.sub("constrained")
    assert (
        refusal(again.issue("x", subject=subject(**LAB, COMMON_NAME="constrained", ORGANIZATIONAL_UNIT_NAME="end")))
        is None
    )
    elsewhere = constrained(None, [directory(**LAB, COMMON_NAME="constrained")])
    renewed = elsewhere.sub("constrained")
    assert refusal(renewed.issue("end")) is None


def test_a_name_of_a_kind_that_cannot_be_compared_counts_as_excluded() -> None:
    number = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    named = [(x509.SubjectAlternativeName([number]), False)]
    assert refusal(constrained(None, [number]).issue("end", extensions=named)) is Violation.CERTIFICATE_CHAIN
    assert refusal(constrained([number], None).issue("end", extensions=named)) is Violation.CERTIFICATE_CHAIN
    assert refusal(constrained(None, [dns("x")]).issue("end", extensions=named)) is None


def test_a_common_name_is_no_host_name() -> None:
    end = ROOT.issue("gw.example.net")
    assert not proves(end.certificate, Identity(2, b"gw.example.net", "x"))


# --- distinguished names --------------------------------------------------------------------------------------------------


def test_names_compare_attribute_by_attribute() -> None:
    one = name("gw").public_bytes()
    assert same_name(one, name("gw").public_bytes())
    assert same_name(one, one.replace(b"\x0c\x02gw", b"\x13\x02gw"))
    for other in (
        name("gW"),
        name("gw "),
        x509.Name(reversed(list(name("gw")))),
        x509.Name(list(name("gw"))[:2]),
        x509.Name([]),
    ):
        assert not same_name(one, other.public_bytes())
    # A BMPString is another value, whatever it says
    assert not same_name(one, one.replace(b"\x0c\x02gw", b"\x1e\x02gw"))
    assert describe_name(one) == "C=CH, O=Lab, CN=gw"


def test_attributes_of_one_rdn_are_a_set() -> None:
    pair = [x509.NameAttribute(NameOID.COMMON_NAME, "a"), x509.NameAttribute(NameOID.USER_ID, "b")]
    one, other = (x509.Name([x509.RelativeDistinguishedName(order)]) for order in (pair, pair[::-1]))
    assert same_name(one.public_bytes(), other.public_bytes())
    assert not same_name(one.public_bytes(), x509.Name(pair).public_bytes())


@pytest.mark.parametrize(
    "der",
    [b"", b"\x30", b"\x30\x80", b"\x30\x81\x00", b"\x30\x82\x00\x00", b"\x30\x84\0\0\0\0", b"\x31\0", b"\x30\0\0", bytes(3000),
     name("gw").public_bytes()[:-1], name("gw").public_bytes() + b"\0", b"\x30\x02\x31\x05"],
)  # fmt: skip
def test_what_is_no_name_is_like_no_other(der: bytes) -> None:
    with pytest.raises(Truncated):
        parse_name(der)
    assert not same_name(der, der)
    assert describe_name(der) == der[:64].hex()


@given(st.binary(max_size=80))
def test_any_octets_as_a_name(der: bytes) -> None:
    same_name(der, der)
    assert describe_name(der).isprintable() or describe_name(der) == ""
