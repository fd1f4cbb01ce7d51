"""IKE_AUTH with certificates: two endpoints, a PKI made for the test, both roles (RFC 7296 2.15, 3.6, 3.7, RFC 7427)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.certified import CertifiedPair, credentials, ends, fqdn, subject_of, trust
from support.ike_pair import LEFT, NAME, PSK, RIGHT, Flight, identity
from support.pki import EPOCH, Authority, Issued, key_usage, name, shared_key

from gateway.ike.commands import Initiate, Rekey, Terminate
from gateway.ike.events import IkeUp
from gateway.ike.message import Message, emit_message
from gateway.ike.payloads import Authentication, Certificate, CertificateRequest, Notify, Payload
from gateway.ike.proposal import make_offer
from gateway.ike.registry import AuthMethod, ExchangeType, NotifyType, Protocol
from gateway.ike.settings import Identity, PostQuantumKey
from gateway.ike.signatures import SCHEMES

SIDES = ("left", "right")
ROOT = Authority("root")
SUB = ROOT.sub("sub", "p384")
GOOD = ends(SUB)


def pair(
    left: Issued = GOOD[0], right: Issued = GOOD[1], ca: tuple[Issued, ...] = (ROOT,), **options: Any
) -> CertifiedPair:
    return CertifiedPair(left, right, ca, **options)


def auth_messages(two: CertifiedPair) -> list[Message]:
    """IKE_AUTH as sent, opened: request and response."""
    return [
        two.opened(flight)
        for flight in two.sent
        if flight.message.header.exchange == ExchangeType.IKE_AUTH and flight.message.encrypted is not None
    ]


def scheme_of(message: Message) -> str:
    auth = message.first(Authentication)
    assert isinstance(auth, Authentication) and auth.method == AuthMethod.DIGITAL_SIGNATURE
    octets = auth.data[1 : 1 + auth.data[0]]
    return next(one.name for one in SCHEMES if octets in one.identifiers)


KINDS = {
    "p256": "ECDSA-SHA2_256",
    "p384": "ECDSA-SHA2_384",
    "p521": "ECDSA-SHA2_512",
    "ed25519": "Ed25519",
    "ed448": "Ed448",
    "rsa2048": "RSASSA-PSS-SHA2_256",
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_prove_themselves_by_a_chain(kind: str) -> None:
    key = {"key": shared_key(kind, "end")} if kind.startswith("rsa") else {}
    two = pair(*ends(SUB, kind, **key), fragment_size=0)
    two.begin()
    two.assert_agreed()
    request, response = auth_messages(two)
    assert scheme_of(request) == scheme_of(response) == KINDS[kind]
    # RFC 7296 3.6: the end entity's first, then what leads to the CA, which the peer has
    for message, side in ((request, "left"), (response, "right")):
        shown = [one.data for one in message.payloads if isinstance(one, Certificate)]
        assert shown == [two.shown[side].der, SUB.der]
    two.left.command(Rekey(NAME))
    two.settle()
    two.assert_agreed()


def test_the_responder_asks_in_init_and_the_initiator_in_auth() -> None:
    two = pair(fragment_size=0)
    two.begin()
    init_request, init_response = (
        flight.message for flight in two.sent if flight.message.header.exchange == ExchangeType.IKE_SA_INIT
    )
    asked = CertificateRequest(4, x509.SubjectKeyIdentifier.from_public_key(ROOT.key.public_key()).digest)
    assert len(asked.data) == 20
    assert init_request.first(CertificateRequest) is None
    for message in (init_response, auth_messages(two)[0]):
        found = message.first(CertificateRequest)
        assert isinstance(found, CertificateRequest) and found.encoding == 4 and len(found.data) == 20
        assert message.notify(NotifyType.SUPPORTED_AUTH_METHODS) is not None
    for message in (init_request, init_response):
        announced = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
        assert announced is not None and announced.data == bytes((0, 2, 0, 3, 0, 4, 0, 5))


def test_large_messages_go_in_fragments() -> None:
    two = pair(fragment_size=300)
    two.begin()
    two.assert_agreed()
    pieces = [flight for flight in two.sent if flight.message.fragment is not None]
    assert len(pieces) > 6


@pytest.mark.parametrize("certified", SIDES)
def test_one_side_a_certificate_the_other_a_psk(certified: str) -> None:
    """RFC 7296 2.15: each end its own method."""
    two = pair()
    other = "left" if certified == "right" else "right"
    two.settle_on(certified, trust=None, psk=PSK)
    two.settle_on(other, credentials=None, psk=PSK)
    two.begin()
    two.assert_agreed()


# --- who is refused, and under which name ---------------------------------------------------------------------------------

STRANGER = Authority("stranger")
WRONG: dict[str, tuple[str, Any]] = {
    "another CA": ("CERTIFICATE_UNKNOWN_CA", lambda address: STRANGER.issue("x", ip=[address])),
    "a CA of the same name": ("CERTIFICATE_UNKNOWN_CA", lambda address: Authority("root").issue("x", ip=[address])),
    "expired": ("CERTIFICATE_EXPIRED", lambda address: ROOT.issue("x", ip=[address], at=EPOCH - timedelta(400))),
    "not yet valid": ("CERTIFICATE_NOT_YET_VALID", lambda address: ROOT.issue("x", ip=[address], at=EPOCH + timedelta(9))),
    "another name": ("CERTIFICATE_IDENTITY", lambda address: ROOT.issue("x", ip=["10.9.9.9"])),
    "the name in the subject alone": ("CERTIFICATE_IDENTITY", lambda address: ROOT.issue(address)),
    "no names": ("CERTIFICATE_IDENTITY", lambda address: ROOT.issue("x")),
    "a weak RSA key": ("CERTIFICATE_WEAK", lambda a: ROOT.issue("x", key=shared_key("rsa1024", "weak"), ip=[a])),
    "a weak curve": ("CERTIFICATE_WEAK", lambda address: ROOT.issue("x", "p224", ip=[address])),
    "not for signatures": (
        "CERTIFICATE_CHAIN",
        lambda a: ROOT.issue("x", ip=[a], extensions=[(key_usage(key_encipherment=True), True)]),
    ),
    "for something else": (
        "CERTIFICATE_CHAIN",
        lambda a: ROOT.issue("x", ip=[a], extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)]),
    ),
    "an end entity as CA": ("CERTIFICATE_CHAIN", lambda a: ROOT.sub("no ca", ca=False).issue("x", ip=[a])),
}  # fmt: skip


@pytest.mark.parametrize("who", SIDES)
@pytest.mark.parametrize("what", WRONG)
def test_who_does_not_prove_itself_is_refused_under_a_name(who: str, what: str) -> None:
    reason, make = WRONG[what]
    two = pair()
    two.shown[who] = make(LEFT if who == "left" else RIGHT)
    two.settle_on(who)
    two.begin()
    two.run(60)
    assert [host.seen(IkeUp) for host in two.hosts] == ([[], []] if who == "left" else [[], two.right.seen(IkeUp)])
    judge = 1 if who == "left" else 0
    assert two.failures()[judge] == reason
    assert two.failures()[1 - judge] == "CERTIFICATE_REFUSED_BY_PEER"
    assert two.left.sas == two.right.sas == []
    why = reason.lower()
    assert two.hosts[judge].rejected.get(why) == 1


@pytest.mark.parametrize("who", SIDES)
def test_a_tampered_auth_is_refused(who: str) -> None:
    """What was signed is everything: one bit of IKE_SA_INIT more, and nobody is anybody."""
    two = pair(fragment_size=0)

    def tampered(flight: Flight) -> Flight:
        message = flight.message
        from_left = flight.receiver is two.right
        if message.header.exchange != ExchangeType.IKE_AUTH or from_left != (who == "left"):
            return flight
        opened = two.opened(flight)
        payloads = tuple(_bent(one) for one in opened.payloads)
        sender = two.left if from_left else two.right
        octets = two.sealed(
            sender, ExchangeType.IKE_AUTH, payloads, sa=sender.sas[-1], message_id=1, response=not from_left
        )
        assert flight.transmit is not None
        return replace(flight, transmit=replace(flight.transmit, data=bytes(4) + octets))

    two.rewrite = tampered
    two.begin()
    two.run(60)
    judge = 1 if who == "left" else 0
    assert two.failures()[judge] == "WRONG_SIGNATURE"
    assert two.hosts[judge].seen(IkeUp) == []


def _bent(payload: Payload) -> Payload:
    if not isinstance(payload, Authentication):
        return payload
    return replace(payload, data=payload.data[:-1] + bytes((payload.data[-1] ^ 1,)))


@pytest.mark.parametrize("who", SIDES)
def test_a_psk_does_not_do_where_a_certificate_is_asked_for(who: str) -> None:
    two = pair()
    two.settle_on(who, credentials=None, psk=PSK)
    two.begin()
    two.run(60)
    assert two.failures()[1 if who == "left" else 0] == "CERTIFICATE_MISSING"
    assert two.hosts[1 if who == "left" else 0].seen(IkeUp) == []


@pytest.mark.parametrize("who", SIDES)
def test_a_certificate_does_not_do_where_the_psk_is_asked_for(who: str) -> None:
    two = pair()
    other = "right" if who == "left" else "left"
    two.settle_on(other, trust=None, psk=PSK)
    two.begin()
    two.run(60)
    judge = 0 if other == "left" else 1
    assert two.failures()[judge] == "WRONG_AUTH_METHOD"
    assert two.hosts[judge].seen(IkeUp) == []


# --- identities -----------------------------------------------------------------------------------------------------------

NAMED = {
    "fqdn": (fqdn("gw.example.net"), {"dns": ["gw.example.net"]}),
    "fqdn in another case": (fqdn("GW.Example.net"), {"dns": ["gw.example.net"]}),
    "mailbox": (Identity(3, b"gw@example.net", "gw@example.net"), {"email": ["gw@example.net"]}),
    "address": (identity(RIGHT), {"ip": [RIGHT]}),
    "one of several": (fqdn("b.example"), {"dns": ["a.example", "b.example"], "ip": ["10.7.7.7"]}),
}
STRANGE = {
    "wildcard": (fqdn("gw.example.net"), {"dns": ["*.example.net"]}),
    "part of it": (fqdn("example.net"), {"dns": ["gw.example.net"]}),
    "more than it": (fqdn("gw.example.net"), {"dns": ["gw.example.net.evil.org"]}),
    "a NUL": (fqdn("gw.example.net"), {"dns": ["gw.example.net\0.evil.org"]}),
    "another kind": (fqdn("10.0.0.2"), {"ip": [RIGHT]}),
    "mailbox of another": (Identity(3, b"gw@example.net", "x"), {"email": ["GW@example.net"]}),
    "a key ID": (Identity(11, b"gw", "keyid:6777"), {"dns": ["gw"]}),
}


@pytest.mark.parametrize("case", NAMED)
def test_an_identity_that_the_certificate_has(case: str) -> None:
    who, names = NAMED[case]
    two = pair(right=SUB.issue("right", **names))
    two.settle_on("right", local_id=who)
    two.settle_on("left", remote_id=who)
    two.begin()
    two.assert_agreed()


@pytest.mark.parametrize("case", STRANGE)
def test_an_identity_that_the_certificate_does_not_have(case: str) -> None:
    who, names = STRANGE[case]
    two = pair(right=SUB.issue("right", **names))
    two.settle_on("right", local_id=who)
    two.settle_on("left", remote_id=who)
    two.begin()
    two.run(60)
    assert two.failures()[0] == "CERTIFICATE_IDENTITY"


@pytest.mark.parametrize("who", SIDES)
def test_an_identity_of_the_certificate_that_is_not_the_one_expected(who: str) -> None:
    """It may prove both; it says that it is the other one."""
    both = SUB.issue(who, dns=["a.example", "b.example"])
    two = pair(*((both, GOOD[1]) if who == "left" else (GOOD[0], both)))
    two.settle_on(who, local_id=fqdn("b.example"))
    two.settle_on("right" if who == "left" else "left", remote_id=fqdn("a.example"))
    two.begin()
    two.run(60)
    assert two.failures()[1 if who == "left" else 0] == "WRONG_PEER_IDENTITY"
    assert two.left.sas == two.right.sas == []


def test_a_distinguished_name_is_the_whole_subject_in_any_string_type() -> None:
    two = pair()
    # As a PrintableString where the certificate has an UTF8String
    printable = GOOD[1].certificate.subject.public_bytes().replace(b"\x0c\x05right", b"\x13\x05right")
    assert printable != GOOD[1].certificate.subject.public_bytes()
    two.settle_on("right", local_id=Identity(9, printable, "right"))
    two.settle_on("left", remote_id=subject_of(GOOD[1]))
    two.begin()
    two.assert_agreed()


@pytest.mark.parametrize("other", [name("righ"), name("rightx"), x509.Name([]), x509.Name(list(name("right"))[:2])])
def test_another_distinguished_name_is_another(other: x509.Name) -> None:
    """CVE-2013-6075: compared by the length of one of them."""
    claimed = Identity(9, other.public_bytes(), "x")
    two = pair()
    two.settle_on("right", local_id=claimed)
    two.settle_on("left", remote_id=claimed)
    two.begin()
    two.run(60)
    assert two.failures()[0] == "CERTIFICATE_IDENTITY"


# --- while a signature is being made or checked ---------------------------------------------------------------------------


def deferred() -> CertifiedPair:
    two = pair(defer=True, fragment_size=0)
    two.left.command(Initiate(NAME))
    return two


def next_work(two: CertifiedPair, host: Any) -> int:
    return next(n for n, flight in enumerate(two.in_flight) if flight.run is not None and flight.receiver is host)


def deliver_until_work(two: CertifiedPair, host: Any, times: int) -> None:
    """Everything, until that host has its n-th piece of work before it."""
    while True:
        if any(flight.run is not None and flight.receiver is host for flight in two.in_flight):
            times -= 1
            if not times:
                return
            two.deliver(next_work(two, host))
        else:
            two.deliver()


# The initiator generates, agrees, signs and verifies; the responder agrees (with its generation), verifies and signs
@pytest.mark.parametrize(("side", "times"), [("left", 3), ("left", 4), ("right", 2), ("right", 3)])
def test_ended_by_the_operator_in_the_middle(side: str, times: int) -> None:
    two = deferred()
    host = two.left if side == "left" else two.right
    deliver_until_work(two, host, times)
    host.command(Terminate(NAME))
    two.settle()
    two.run(60)
    assert host.sas == []
    assert host.seen(IkeUp) == []


@pytest.mark.parametrize("times", [2, 3])
def test_a_repeated_request_in_the_middle_is_work_for_nobody(times: int) -> None:
    two = deferred()
    deliver_until_work(two, two.right, times)
    request = next(
        flight for flight in two.sent
        if flight.message.header.exchange == ExchangeType.IKE_AUTH and flight.receiver is two.right
    )  # fmt: skip
    before = len(two.in_flight)
    assert request.transmit is not None
    two.receive(two.right, request.octets, request.transmit.local, request.transmit.remote)
    assert len(two.in_flight) == before
    assert two.right.rejected.get("message_id") == 1
    two.settle()
    two.assert_agreed()


@pytest.mark.parametrize(("side", "times"), [("left", 4), ("right", 2), ("right", 3)])
def test_another_configuration_in_the_middle_does_not_get_the_old_proof(side: str, times: int) -> None:
    two = deferred()
    host = two.left if side == "left" else two.right
    deliver_until_work(two, host, times)
    two.settle_on(side, remote_id=fqdn("somebody.else"), trust=trust(STRANGER))
    two.settle()
    two.run(60)
    assert host.seen(IkeUp) == []
    assert host.sas == []


def test_a_responder_that_never_finishes_gives_up() -> None:
    two = deferred()
    deliver_until_work(two, two.right, 2)
    two.hold(100)
    assert two.right.sas == []
    two.settle()
    assert two.right.seen(IkeUp) == []


def test_a_renewed_certificate_touches_nothing_and_is_used_next_time() -> None:
    two = pair(fragment_size=0)
    two.begin()
    before = two.left.sa
    two.shown["left"] = SUB.issue("left", ip=[LEFT])
    two.settle_on("left")
    two.settle()
    assert two.left.sa is before
    two.assert_agreed()
    two.left.command(Terminate(NAME))
    two.settle()
    two.sent.clear()
    two.begin()
    request = auth_messages(two)[0]
    shown = request.first(Certificate)
    assert isinstance(shown, Certificate) and shown.data == two.shown["left"].der


def test_rsa_by_pkcs1_where_configured() -> None:
    left = SUB.issue("left", key=shared_key("rsa2048", "end"), ip=[LEFT])
    two = pair(left, fragment_size=0)
    two.settle_on("left", credentials=credentials(left, pss=False))
    two.begin()
    two.assert_agreed()
    assert scheme_of(auth_messages(two)[0]) == "RSASSA-PKCS1-SHA2_256"


# --- with what else there is ------------------------------------------------------------------------------------------------

HYBRID = (
    make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["x25519"], additional=[(1, ["mlkem768"])]),
)  # fmt: skip


def test_additional_key_exchanges_are_signed_too() -> None:
    """RFC 9242 3.3.2: what passed in IKE_INTERMEDIATE is part of what a signature is over."""
    two = pair(offers=HYBRID, fragment_size=0)
    two.begin()
    two.assert_agreed()
    assert any(flight.message.header.exchange == ExchangeType.IKE_INTERMEDIATE for flight in two.sent)
    for host in two.hosts:
        assert host.sa.keys is not None and host.sa.keys.rounds == 1


SECRET = bytes(range(32))


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("theirs", [b"q", b"another"])
def test_with_a_post_quantum_preshared_key(required: bool, theirs: bytes) -> None:
    """RFC 8784 3: two signatures, one for a responder that has another PPK."""
    two = pair(ppk=PostQuantumKey(b"q", SECRET, required))
    two.settle_on("right", ppk=PostQuantumKey(theirs, SECRET, required))
    two.begin()
    two.run(60)
    if theirs == b"q" or not required:
        two.assert_agreed()
        assert [host.sa.ppk for host in two.hosts] == [theirs == b"q"] * 2
    else:
        assert two.left.seen(IkeUp) == two.right.seen(IkeUp) == []


def with_hashes(flight: Flight, *numbers: int) -> Flight:
    """As if its sender knew these hashes alone."""
    message = flight.message
    if message.header.exchange != ExchangeType.IKE_SA_INIT or flight.transmit is None:
        return flight
    payloads = tuple(
        replace(one, data=b"".join(bytes((0, number)) for number in numbers))
        if isinstance(one, Notify) and one.type == NotifyType.SIGNATURE_HASH_ALGORITHMS else one
        for one in message.payloads
        if numbers or not (isinstance(one, Notify) and one.type == NotifyType.SIGNATURE_HASH_ALGORITHMS)
    )  # fmt: skip
    return replace(flight, transmit=replace(flight.transmit, data=emit_message(message.header, payloads)))


@pytest.mark.parametrize("who", SIDES)
@pytest.mark.parametrize(
    ("kind", "numbers"), [("ed25519", ()), ("ed25519", (2, 3, 4)), ("rsa2048", ()), ("p256", (1,))]
)
def test_a_peer_that_takes_no_signature_of_our_key(who: str, kind: str, numbers: tuple[int, ...]) -> None:
    key = {"key": shared_key(kind, "end")} if kind.startswith("rsa") else {}
    ends_of = dict(zip(SIDES, GOOD, strict=True)) | {
        who: SUB.issue(who, kind, ip=[LEFT if who == "left" else RIGHT], **key)
    }
    two = pair(ends_of["left"], ends_of["right"])
    subject = two.left if who == "left" else two.right
    two.rewrite = lambda flight: with_hashes(flight, *numbers) if flight.receiver is subject else flight
    two.begin()
    two.run(60)
    if who == "left":
        assert two.failures()[0] == "NO_COMMON_SIGNATURE"
    else:
        # What was bent is signed by the left one, who is refused before we come to sign
        assert two.failures()[1] == "WRONG_SIGNATURE"
    assert two.left.seen(IkeUp) == two.right.seen(IkeUp) == []


def test_hashes_taken_away_on_the_way_are_noticed() -> None:
    """A downgrade to a weaker hash is no success: IKE_SA_INIT is what is signed."""
    for who in SIDES:
        two = pair(*ends(SUB, "p384"))
        subject = two.left if who == "left" else two.right
        two.rewrite = lambda flight, subject=subject: with_hashes(flight, 2) if flight.receiver is subject else flight  # type: ignore[misc]
        two.begin()
        two.run(60)
        assert two.left.seen(IkeUp) == []
        assert two.left.sas == two.right.sas == []
        assert "WRONG_SIGNATURE" in two.failures()


def test_an_intermediate_that_the_peer_does_not_send_may_be_configured() -> None:
    left = SUB.issue("left", ip=[LEFT])
    two = pair(Issued(left.certificate, left.key))
    two.begin()
    assert two.failures()[1] == "CERTIFICATE_UNKNOWN_CA"
    two.settle_on("right", trust=trust(ROOT, intermediates=(SUB.certificate,)))
    two.begin()
    two.run(5)
    two.assert_agreed()
