"""CRLs and OCSP: what is believed, what is asked for and of whom, and what each mode makes of silence."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certified import CertifiedPair, trust
from support.ike_pair import LEFT, RIGHT, Flight
from support.pki import EPOCH, Authority, Issued, crl_of, key_usage, ocsp_of, points_to

from gateway.ike import revocation
from gateway.ike.commands import Initiate, Terminate
from gateway.ike.events import IkeUp, Notice
from gateway.ike.payloads import Certificate, CertificateRequest
from gateway.ike.registry import CertificateEncoding, ExchangeType
from gateway.ike.revocation import Evidence, Standing, crl_urls, judge, ocsp_urls
from gateway.ike.revocation_cache import ENTRIES_MAX, FAILURE_WAIT, Question, RevocationCache

ROOT = Authority("root")
END = ROOT.issue("end", ip=[RIGHT])
OTHER = Authority("other")
IMPOSTOR = Authority("root")
REVOKED = ocsp.OCSPCertStatus.REVOKED


def der(crl: x509.CertificateRevocationList) -> bytes:
    return crl.public_bytes(serialization.Encoding.DER)


def by_crl(crl: x509.CertificateRevocationList, end: Issued = END, ca: Issued = ROOT, at: Any = EPOCH) -> Any:
    return judge(end.certificate, ca.certificate, [Evidence(der(crl), True)], at)


def by_ocsp(octets: bytes, end: Issued = END, ca: Issued = ROOT, at: Any = EPOCH) -> Any:
    return judge(end.certificate, ca.certificate, [Evidence(octets, False)], at)


# --- CRLs -----------------------------------------------------------------------------------------------------------------


def test_a_crl_says_who_is_good_and_until_when() -> None:
    good = by_crl(crl_of(ROOT))
    assert (good.standing, good.until) == (Standing.GOOD, EPOCH + timedelta(7))
    bad = by_crl(crl_of(ROOT, [END.certificate]))
    assert bad.standing is Standing.REVOKED
    assert "keyCompromise" in bad.detail and "CN=end" in bad.detail


USELESS = {
    "too old": lambda: crl_of(ROOT, at=EPOCH - timedelta(30)),
    "from the future": lambda: crl_of(ROOT, at=EPOCH + timedelta(3)),
    "of another CA": lambda: crl_of(OTHER),
    "of a CA of the same name": lambda: crl_of(IMPOSTOR),
    "of another name with the same key": lambda: crl_of(ROOT, issuer=OTHER.certificate.subject),
    "signed by the certificate itself": lambda: crl_of(END, issuer=ROOT.certificate.subject),
    "with SHA2-224": lambda: crl_of(ROOT, digest=hashes.SHA224()),
    "a delta": lambda: crl_of(ROOT, extensions=[(x509.DeltaCRLIndicator(1), True)]),
    "critical and unknown": lambda: crl_of(
        ROOT, extensions=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]
    ),
    "of CAs alone": lambda: crl_of(ROOT, extensions=[(scope(only_contains_ca_certs=True), True)]),
    "for some reasons": lambda: crl_of(
        ROOT, extensions=[(scope(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})), True)]
    ),
    "indirect": lambda: crl_of(ROOT, extensions=[(scope(indirect_crl=True), True)]),
    "of another distribution point": lambda: crl_of(
        ROOT, extensions=[(scope(full_name=[x509.UniformResourceIdentifier("http://x/y")]), True)]
    ),
}


def scope(**changes: Any) -> x509.IssuingDistributionPoint:
    given: dict[str, Any] = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "only_some_reasons": None, "indirect_crl": False, "only_contains_attribute_certs": False,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**(given | changes))


@pytest.mark.parametrize("what", USELESS)
def test_a_crl_that_proves_nothing(what: str) -> None:
    assert by_crl(USELESS[what]()).standing is Standing.UNKNOWN


def test_a_crl_of_a_ca_that_may_not_sign_crls() -> None:
    usage = [(key_usage(key_cert_sign=True), True)]
    limited = Authority("limited", usage=False, extensions=usage)
    assert by_crl(crl_of(limited), limited.issue("end"), limited).standing is Standing.UNKNOWN


def test_a_crl_of_its_own_distribution_point() -> None:
    end = ROOT.issue("end", extensions=points_to(crl=["http://ca.example/root.crl"]))
    crl = crl_of(
        ROOT, extensions=[(scope(full_name=[x509.UniformResourceIdentifier("http://ca.example/root.crl")]), True)]
    )
    assert by_crl(crl, end).standing is Standing.GOOD


@pytest.mark.parametrize("octets", [b"", b"\x30", bytes(100), b"-----BEGIN X509 CRL-----"])
@pytest.mark.parametrize("is_crl", [True, False])
def test_octets_that_are_nothing_prove_nothing(octets: bytes, is_crl: bool) -> None:
    assert judge(END.certificate, ROOT.certificate, [Evidence(octets, is_crl)], EPOCH).standing is Standing.UNKNOWN


def test_one_piece_that_says_revoked_outweighs_all_others() -> None:
    pieces = [
        Evidence(ocsp_of(ROOT, END.certificate), False),
        Evidence(der(crl_of(ROOT)), True),
        Evidence(der(crl_of(ROOT, [END.certificate])), True),
    ]
    assert judge(END.certificate, ROOT.certificate, pieces, EPOCH).standing is Standing.REVOKED


# --- OCSP -----------------------------------------------------------------------------------------------------------------

SIGNING = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)]
RESPONDER = ROOT.issue("responder", extensions=SIGNING)


@pytest.mark.parametrize("hashed", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()], ids=lambda one: one.name)
def test_a_response_of_the_ca_itself(hashed: hashes.HashAlgorithm) -> None:
    good = by_ocsp(ocsp_of(ROOT, END.certificate, hashed=hashed))
    assert (good.standing, good.until) == (Standing.GOOD, EPOCH + timedelta(1))
    assert by_ocsp(ocsp_of(ROOT, END.certificate, REVOKED)).standing is Standing.REVOKED


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa2048"])
def test_a_response_of_a_delegated_responder(kind: str) -> None:
    responder = ROOT.issue("responder", kind, extensions=SIGNING)
    octets = ocsp_of(ROOT, END.certificate, signer=responder, show=[responder.certificate])
    assert by_ocsp(octets).standing is Standing.GOOD


def delegated(responder: Issued) -> bytes:
    return ocsp_of(ROOT, END.certificate, signer=responder, show=[responder.certificate])


UNPROVEN = {
    "by a stranger": lambda: delegated(OTHER.issue("responder", extensions=SIGNING)),
    "by a CA of the same name": lambda: delegated(IMPOSTOR.issue("responder", extensions=SIGNING)),
    "by somebody certified for something else": lambda: delegated(ROOT.issue("responder")),
    "by somebody certified for web servers": lambda: delegated(
        ROOT.issue("r", extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)])
    ),
    "by the certificate itself": lambda: delegated(END),
    "by one delegated by a delegate": lambda: delegated(ROOT.sub("sub").issue("responder", extensions=SIGNING)),
    "by an expired delegate": lambda: delegated(ROOT.issue("r", at=EPOCH - timedelta(400), extensions=SIGNING)),
    "by a delegate with a critical extension nobody knows": lambda: delegated(
        ROOT.issue(
            "r", extensions=[*SIGNING, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]
        )
    ),
    "by a delegate whose key is for something else": lambda: delegated(
        ROOT.issue("r", extensions=[*SIGNING, (key_usage(key_agreement=True), True)])
    ),
    "by a delegate among too many": lambda: ocsp_of(
        ROOT, END.certificate, signer=RESPONDER, show=[*[END.certificate] * 8, RESPONDER.certificate]
    ),
    "by a delegate that is not shown": lambda: ocsp_of(ROOT, END.certificate, signer=RESPONDER),
    "about another certificate": lambda: ocsp_of(ROOT, ROOT.issue("other").certificate),
    "about the same number of another CA": lambda: ocsp_of(ROOT, END.certificate, about=OTHER),
    "about the same number of a CA of the same name": lambda: ocsp_of(ROOT, END.certificate, about=IMPOSTOR),
    "too old": lambda: ocsp_of(ROOT, END.certificate, at=EPOCH - timedelta(3)),
    "too old and without an end": lambda: ocsp_of(ROOT, END.certificate, at=EPOCH - timedelta(hours=2), hours=None),
    "from the future": lambda: ocsp_of(ROOT, END.certificate, at=EPOCH + timedelta(hours=2)),
    "unknown": lambda: ocsp_of(ROOT, END.certificate, ocsp.OCSPCertStatus.UNKNOWN),
    "with SHA2-224": lambda: ocsp_of(ROOT, END.certificate, digest=hashes.SHA224()),
    "try later": lambda: ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
        serialization.Encoding.DER
    ),
    "tampered": lambda: ocsp_of(ROOT, END.certificate)[:-3] + b"\0\0\0",
}


@pytest.mark.parametrize("what", UNPROVEN)
def test_a_response_that_proves_nothing(what: str) -> None:
    assert by_ocsp(UNPROVEN[what]()).standing is Standing.UNKNOWN


# --- responders that are revoked themselves (RFC 6960 4.2.2.2.1) ----------------------------------------------------------

WHERE = "http://ca.example/responders.crl"
ASKED = ROOT.issue("asked", extensions=[*SIGNING, *points_to(crl=[WHERE])])
NO_CHECK = ROOT.issue("free", extensions=[*SIGNING, *points_to(crl=[WHERE]), (x509.OCSPNoCheck(), False)])


def vouched(responder: Issued, *crls: x509.CertificateRevocationList, status: Any = ocsp.OCSPCertStatus.GOOD) -> Any:
    """What an OCSP response by that responder is worth beside those CRLs, which are of another kind of certificate."""
    octets = ocsp_of(ROOT, END.certificate, status, signer=responder, show=[responder.certificate])
    pieces = [Evidence(octets, False), *(Evidence(der(one), True) for one in crls)]
    return judge(END.certificate, ROOT.certificate, pieces, EPOCH)


def only_others(*revoked: x509.Certificate) -> x509.CertificateRevocationList:
    """Says nothing about END: it is of the distribution point that the responder names."""
    point = scope(full_name=[x509.UniformResourceIdentifier(WHERE)])
    return crl_of(ROOT, revoked, extensions=[(point, True)])


def test_a_responder_that_is_to_be_asked_about_must_have_been() -> None:
    found = vouched(ASKED)
    assert (found.standing, found.unchecked) == (Standing.UNKNOWN, (ASKED.certificate,))
    assert "CN=asked" in found.detail
    found = vouched(ASKED, only_others())
    assert (found.standing, found.unchecked, found.until) == (Standing.GOOD, (), EPOCH + timedelta(1))


def test_a_revoked_responder_vouches_for_nobody() -> None:
    found = vouched(ASKED, only_others(ASKED.certificate))
    assert (found.standing, found.unchecked) == (Standing.UNKNOWN, ())
    assert "revoked itself" in found.detail
    # Where the CA names nobody to ask, what is there counts all the same
    listed = crl_of(ROOT, [RESPONDER.certificate], extensions=[(scope(only_contains_user_certs=True), True)])
    octets = ocsp_of(ROOT, END.certificate, REVOKED, signer=RESPONDER, show=[RESPONDER.certificate])
    assert judge(END.certificate, ROOT.certificate, [Evidence(octets, False)], EPOCH).standing is Standing.REVOKED
    pieces = [Evidence(octets, False), Evidence(der(listed), True)]
    assert judge(END.certificate, ROOT.certificate, pieces, EPOCH).standing is Standing.GOOD  # by the CRL


def test_a_responder_with_nocheck_is_trusted_as_long_as_its_certificate_lasts() -> None:
    assert vouched(NO_CHECK).standing is Standing.GOOD
    assert vouched(NO_CHECK, only_others(NO_CHECK.certificate)).standing is Standing.GOOD


def test_what_an_unchecked_responder_calls_revoked_is_not_let_in() -> None:
    assert vouched(ASKED, status=REVOKED).standing is Standing.REVOKED
    assert vouched(ASKED, only_others(ASKED.certificate), status=REVOKED).standing is Standing.UNKNOWN


def test_no_responder_vouches_for_itself_or_for_another() -> None:
    about = [
        Evidence(ocsp_of(ROOT, ASKED.certificate, signer=one, show=[one.certificate]), False)
        for one in (ASKED, NO_CHECK)
    ]
    octets = Evidence(delegated(ASKED), False)
    assert judge(END.certificate, ROOT.certificate, [octets, *about], EPOCH).standing is Standing.UNKNOWN
    by_the_ca = Evidence(ocsp_of(ROOT, ASKED.certificate), False)
    assert judge(END.certificate, ROOT.certificate, [octets, by_the_ca], EPOCH).standing is Standing.GOOD


def test_a_response_without_an_end_holds_for_an_hour() -> None:
    good = by_ocsp(ocsp_of(ROOT, END.certificate, at=EPOCH + timedelta(minutes=30), hours=None))
    assert (good.standing, good.until) == (Standing.GOOD, EPOCH + timedelta(minutes=30))


def test_urls_are_of_http_alone_few_and_short() -> None:
    """CVE-2022-40617 and its kin: what is fetched is what a CA wrote, and nothing else than HTTP."""
    urls = [
        "file:///etc/shadow",
        "ldap://ca/x",
        "https://ca/x",
        "HTTP://ca/1",
        "http://ca/" + "x" * 2000,
        "http://ca/2",
        "http://ca/3",
    ]
    end = ROOT.issue("end", extensions=points_to(crl=urls, ocsp=urls))
    assert crl_urls(end.certificate) == ocsp_urls(end.certificate) == ["HTTP://ca/1", "http://ca/2"]
    assert crl_urls(END.certificate) == ocsp_urls(END.certificate) == []


FUZZED = {
    True: der(crl_of(ROOT, [ROOT.issue("other").certificate])),
    False: ocsp_of(ROOT, END.certificate, signer=RESPONDER, show=[RESPONDER.certificate]),
}


@pytest.mark.parametrize("is_crl", [True, False])
@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**6), change=st.integers(1, 255))
def test_evidence_with_one_octet_changed_proves_nothing(is_crl: bool, place: int, change: int) -> None:
    octets = bytearray(FUZZED[is_crl])
    octets[place % len(octets)] ^= change
    found = judge(END.certificate, ROOT.certificate, [Evidence(bytes(octets), is_crl)], EPOCH)
    if found.standing is not Standing.UNKNOWN:
        # What is not under the signature, such as the number of its unused bits, may be another
        assert found.standing is Standing.GOOD and _signed(bytes(octets), is_crl) == _signed(FUZZED[is_crl], is_crl)


def _signed(octets: bytes, is_crl: bool) -> bytes:
    return (
        x509.load_der_x509_crl(octets).tbs_certlist_bytes
        if is_crl
        else ocsp.load_der_ocsp_response(octets).tbs_response_bytes
    )


# --- two endpoints --------------------------------------------------------------------------------------------------------

CRL, OCSP = "http://ca.example/root.crl", "http://ca.example/ocsp"
POINTED = ROOT.issue("right", ip=[RIGHT], extensions=points_to(crl=[CRL], ocsp=[OCSP]))
LEFT_END = ROOT.issue("left", ip=[LEFT])


def pair(mode: str = "strict", right: Issued = POINTED, staples: bool = False, **options: Any) -> CertifiedPair:
    """The left one looks whether the right one is revoked, which tells nothing of itself unless it `staples`."""
    two = CertifiedPair(LEFT_END, right, (ROOT,), **options)
    two.settle_on("left", trust=trust(ROOT, revocation=mode))
    two.judge, two.staples = two.left, staples
    return two


def answer(octets: bytes | None) -> Any:
    return lambda body: octets


GOOD_OCSP, BAD_OCSP = ocsp_of(ROOT, POINTED.certificate), ocsp_of(ROOT, POINTED.certificate, REVOKED)
GOOD_CRL, BAD_CRL = der(crl_of(ROOT)), der(crl_of(ROOT, [POINTED.certificate]))


@pytest.mark.parametrize("mode", ["off", "relaxed", "ifuri", "strict"])
@pytest.mark.parametrize(
    ("web", "outcome"),
    [
        ({OCSP: GOOD_OCSP, CRL: BAD_CRL}, "good"),  # the CRL is not even asked for
        ({OCSP: BAD_OCSP, CRL: GOOD_CRL}, "revoked"),
        ({CRL: GOOD_CRL}, "good"),
        ({CRL: BAD_CRL}, "revoked"),
        ({OCSP: b"nonsense", CRL: GOOD_CRL}, "good"),
        ({}, "silence"),
        ({OCSP: b"nonsense", CRL: b"nonsense"}, "silence"),
    ],
)
def test_each_mode_and_what_can_be_found_out(mode: str, web: dict[str, bytes], outcome: str) -> None:
    two = pair(mode)
    two.web = {url: answer(octets) for url, octets in web.items()}
    two.begin()
    up = mode == "off" or outcome == "good" or (mode == "relaxed" and outcome == "silence")
    assert bool(two.left.seen(IkeUp)) == up
    if up:
        two.assert_agreed()
    else:
        assert two.failures()[0] == {"revoked": "CERTIFICATE_REVOKED", "silence": "REVOCATION_UNKNOWN"}[outcome]
    warned = any(one.event == "revocation-unknown" for one in two.left.seen(Notice))
    assert warned == (mode == "relaxed" and outcome == "silence")
    assert bool(two.fetches) == (mode != "off")


@pytest.mark.parametrize("mode", ["relaxed", "ifuri", "strict"])
@pytest.mark.parametrize("state", ["good", "revoked", "silence"])
def test_a_delegated_responder_is_asked_about_too(mode: str, state: str) -> None:
    """The responder's own CRL is fetched; where it is revoked or nobody answers, the peer's CRL is asked for."""
    crls = {"good": only_others(), "revoked": only_others(ASKED.certificate)}
    response = ocsp_of(ROOT, POINTED.certificate, signer=ASKED, show=[ASKED.certificate])
    two = pair(mode)
    two.web = {OCSP: answer(response), WHERE: answer(der(crls[state]) if state in crls else None)}
    two.begin()
    assert {one.url for one in two.fetches} == ({OCSP, WHERE, CRL})
    assert len(two.fetches) == 3
    up = state == "good" or mode == "relaxed"
    assert bool(two.left.seen(IkeUp)) == up
    assert two.failures()[0] == ("" if up else "REVOCATION_UNKNOWN")
    warned = [one.text for one in two.left.seen(Notice) if one.event == "revocation-unknown"]
    assert bool(warned) == (up and state != "good")
    # What was fetched about the responder is kept like anything else
    two.left.command(Terminate("c"))
    two.settle()
    two.begin()
    assert len(two.fetches) == 3


def test_a_response_of_a_delegate_to_be_asked_about_is_stapled_all_the_same() -> None:
    two = pair("strict", ROOT.issue("right", ip=[RIGHT], extensions=points_to(ocsp=[OCSP])), staples=True)
    certificate = two.shown["right"].certificate
    responses = [ocsp_of(ROOT, certificate, signer=ASKED, show=[ASKED.certificate])]
    two.web = {OCSP: lambda _: responses.pop() if responses else None, WHERE: answer(der(only_others()))}
    two.begin()
    # The one response went to whom it is about; that it was believed is because it was shown, and its responder asked about
    assert responses == []
    two.assert_agreed()


@pytest.mark.parametrize("mode", ["relaxed", "ifuri", "strict"])
def test_a_certificate_that_names_nobody_to_ask(mode: str) -> None:
    two = pair(mode, ROOT.issue("right", ip=[RIGHT]))
    two.begin()
    assert bool(two.left.seen(IkeUp)) == (mode != "strict")
    assert two.fetches == []


def test_an_intermediate_ca_is_looked_at_too() -> None:
    sub = ROOT.sub("sub", extensions=points_to(crl=[CRL]))
    two = pair("relaxed", sub.issue("right", ip=[RIGHT]))
    two.web = {CRL: answer(der(crl_of(ROOT, [sub.certificate])))}
    two.begin()
    assert two.failures()[0] == "CERTIFICATE_REVOKED"


def test_a_configured_crl_needs_nobody() -> None:
    two = pair()
    two.settle_on("left", trust=trust(ROOT, revocation="strict", crls=(GOOD_CRL,)))
    two.begin()
    two.assert_agreed()
    assert two.fetches == []
    two.settle_on("left", trust=trust(ROOT, revocation="strict", crls=(GOOD_CRL, BAD_CRL)))
    two.left.command(Terminate("c"))
    two.settle()
    two.begin()
    assert two.failures()[0] == "CERTIFICATE_REVOKED"


def test_untrusted_urls_are_never_fetched() -> None:
    """CVE-2022-40617: only of a certificate whose path holds and whose key signed."""
    stranger = Authority("stranger").issue("right", ip=[RIGHT], extensions=points_to(crl=[CRL], ocsp=[OCSP]))
    another = ROOT.issue("right", ip=["10.9.9.9"], extensions=points_to(crl=[CRL], ocsp=[OCSP]))
    expired = ROOT.issue("right", ip=[RIGHT], at=EPOCH - timedelta(400), extensions=points_to(crl=[CRL], ocsp=[OCSP]))
    for right in (stranger, another, expired):
        two = pair("relaxed", right)
        two.begin()
        assert two.fetches == []
        assert two.left.seen(IkeUp) == []


def test_what_was_fetched_is_kept_as_long_as_it_holds() -> None:
    two = pair()
    two.web = {OCSP: answer(GOOD_OCSP)}
    for hours, asked in ((0, 1), (1, 1), (22, 1), (2, 2)):
        two.now += hours * 3600
        two.begin()
        assert len(two.fetches) == asked
        two.left.command(Terminate("c"))
        two.settle()
        if asked == 1:
            two.web = {OCSP: answer(GOOD_OCSP)}
        if hours == 22:
            two.web = {OCSP: answer(ocsp_of(ROOT, POINTED.certificate, at=EPOCH + timedelta(1)))}
    assert len(two.left.seen(IkeUp)) == 4


@pytest.mark.parametrize("web", [{OCSP: BAD_OCSP}, {CRL: BAD_CRL}], ids=["ocsp", "crl"])
def test_who_is_revoked_is_no_less_so_the_next_time(web: dict[str, bytes]) -> None:
    """Not as if nobody had answered: that would let him in at the second attempt."""
    two = pair("relaxed")
    two.web = {url: answer(octets) for url, octets in web.items()}
    for _ in range(3):
        two.begin()
        two.run(2)
        assert two.failures()[0] == "CERTIFICATE_REVOKED"
        two.web = {}
    assert two.left.seen(IkeUp) == []


def test_who_does_not_answer_is_not_asked_at_every_attempt() -> None:
    two = pair("relaxed")
    for seconds, asked in ((0, 2), (10, 2), (FAILURE_WAIT, 4)):
        two.now += seconds
        two.begin()
        two.left.command(Terminate("c"))
        two.settle()
        assert len(two.fetches) == asked


def test_a_response_stapled_by_the_peer_is_enough() -> None:
    """RFC 4806."""
    two = pair(fragment_size=0)

    def stapled(flight: Flight) -> Flight:
        if flight.message.header.exchange != ExchangeType.IKE_AUTH or flight.receiver is not two.left:
            return flight
        opened = two.opened(flight)
        payloads = (*opened.payloads, Certificate(int(CertificateEncoding.OCSP), GOOD_OCSP))
        octets = two.sealed(
            two.right, ExchangeType.IKE_AUTH, payloads, sa=two.right.sas[-1], message_id=1, response=True
        )
        two.receive(two.left, octets, flight.transmit.local, flight.transmit.remote)  # type: ignore[union-attr]
        return None  # type: ignore[return-value]

    two.rewrite = stapled
    two.begin()
    two.assert_agreed()
    assert two.fetches == []
    asked = [
        one for flight in two.sent if flight.receiver is two.right and flight.message.header.exchange == ExchangeType.IKE_AUTH
        for one in two.opened(flight).payloads if isinstance(one, CertificateRequest)
    ]  # fmt: skip
    assert CertificateRequest(14, b"") in asked


@pytest.mark.parametrize("prover", ["left", "right"])
def test_an_end_that_is_asked_staples_what_it_knows_of_itself(prover: str) -> None:
    """RFC 4806: the other end asks nobody."""
    ends = {"left": LEFT_END, "right": ROOT.issue("right", ip=[RIGHT])}
    address = LEFT if prover == "left" else RIGHT
    ends[prover] = ROOT.issue(prover, ip=[address], extensions=points_to(ocsp=[OCSP]))
    two = CertifiedPair(ends["left"], ends["right"], (ROOT,))
    judge_side = "right" if prover == "left" else "left"
    two.settle_on(judge_side, trust=trust(ROOT, revocation="strict"))
    two.judge = two.right if prover == "left" else two.left
    octets = ocsp_of(ROOT, ends[prover].certificate)
    two.web = {OCSP: answer(octets)}
    for _ in range(2):
        two.begin()
        two.assert_agreed()
        two.left.command(Terminate("c"))
        two.settle()
    # Asked once, by the one whom it is about
    assert [host is two.judge for host, _ in two.fetched] == [False]


@pytest.mark.parametrize("octets", [None, b"junk", BAD_OCSP])
def test_an_end_that_has_nothing_good_to_staple_goes_without(octets: bytes | None) -> None:
    two = pair("relaxed", staples=True)
    two.web = {OCSP: answer(octets), CRL: answer(GOOD_CRL)}
    two.begin()
    assert bool(two.left.seen(IkeUp)) == (octets != BAD_OCSP)
    (first, _), *_ = two.fetched
    assert first is two.right
    assert two.fetches[0].url == OCSP


def test_nothing_is_stapled_for_who_does_not_ask() -> None:
    two = pair("off", staples=True)
    two.web = {OCSP: answer(GOOD_OCSP)}
    two.begin()
    two.assert_agreed()
    assert two.fetched == []


@pytest.mark.parametrize("staples", [True, False])
def test_ended_while_something_is_fetched(staples: bool) -> None:
    two = pair(defer=True, staples=staples)
    two.web = {OCSP: answer(GOOD_OCSP)}
    two.left.command(Initiate("c"))
    while not (two.fetched if staples else two.fetches):
        two.deliver()
    host = two.right if staples else two.left
    host.command(Terminate("c"))
    two.settle()
    two.run(60)
    assert host.sas == []
    assert host.seen(IkeUp) == []


def test_a_responder_looks_too_and_waits_no_longer_than_for_anything() -> None:
    left = ROOT.issue("left", ip=[LEFT], extensions=points_to(ocsp=[OCSP]))
    for octets, reason in (
        (ocsp_of(ROOT, left.certificate), ""),
        (ocsp_of(ROOT, left.certificate, REVOKED), "CERTIFICATE_REVOKED"),
    ):
        two = CertifiedPair(left, POINTED, (ROOT,))
        two.settle_on("right", trust=trust(ROOT, revocation="strict"))
        two.judge, two.staples = two.right, False
        two.web = {OCSP: answer(octets)}
        two.begin()
        assert two.failures()[1] == reason
    two = CertifiedPair(left, POINTED, (ROOT,), defer=True)
    two.settle_on("right", trust=trust(ROOT, revocation="strict"))
    two.judge, two.staples = two.right, False
    two.left.command(Initiate("c"))
    while not two.fetches:
        two.deliver()
    two.hold(60)
    assert two.right.sas == []
    two.settle()
    assert two.right.seen(IkeUp) == []


# --- the cache ------------------------------------------------------------------------------------------------------------


def test_the_cache_is_bounded_in_number_and_octets() -> None:
    cache = RevocationCache()
    for number in range(ENTRIES_MAX + 10):
        cache.keep(Question(f"http://x/{number}"), b"x", 10.0)
        cache.failed(Question(f"http://y/{number}"), 0.0)
    assert cache.answer(Question("http://x/9"), 5.0) is None
    assert cache.answer(Question("http://x/10"), 5.0) == b"x"
    assert cache.answer(Question("http://x/10"), 11.0) is None
    assert cache.worth_asking(Question("http://y/9"), 1.0)
    assert not cache.worth_asking(Question("http://y/10"), 1.0)
    for number in range(100):
        cache.keep(Question(f"http://z/{number}"), bytes(1 << 20), 10.0)
    assert sum(cache.answer(Question(f"http://z/{number}"), 5.0) is not None for number in range(100)) <= 32
    cache.keep(Question("http://large"), bytes(9 << 20), 10.0)
    assert cache.answer(Question("http://large"), 5.0) is None


# --- found in review ------------------------------------------------------------------------------------------------------


def test_all_evidence_that_verified_is_named_not_only_what_decided() -> None:
    """Else a second CRL that answered as well counts as one that did not, and is not asked about the next peer."""
    both = [Evidence(der(crl_of(ROOT)), True), Evidence(der(crl_of(ROOT, [OTHER.certificate])), True)]
    found = judge(END.certificate, ROOT.certificate, both, EPOCH)
    assert [one for one, _ in found.valid] == both
    revoked = [Evidence(der(crl_of(ROOT, [END.certificate])), True), *both]
    found = judge(END.certificate, ROOT.certificate, [both[0], *revoked], EPOCH)
    assert (found.standing, len(found.valid)) == (Standing.REVOKED, 4)


def test_who_is_listed_stays_revoked_after_the_crl_has_lapsed() -> None:
    late = EPOCH + timedelta(30)
    assert by_crl(crl_of(ROOT, [END.certificate]), at=late).standing is Standing.REVOKED
    assert by_crl(crl_of(ROOT), at=late).standing is Standing.UNKNOWN


def test_a_reason_that_nobody_knows_is_no_less_of_a_revocation() -> None:
    """CRLReason 7 is not assigned (RFC 5280 5.3.1)."""
    crl = der(crl_of(ROOT, [END.certificate]))
    known = bytes.fromhex("0603551d15") + bytes.fromhex("04030a0101")
    assert known in crl
    # The signature is over what was changed, so the library's own check is left out here
    changed = x509.load_der_x509_crl(crl.replace(known, known[:-1] + b"\x07"))
    entry = changed.get_revoked_certificate_by_serial_number(END.certificate.serial_number)
    assert entry is not None
    with pytest.raises(ValueError):
        list(entry.extensions)
    assert not revocation._is_of_another_ca(entry)
    assert revocation._reason(entry) == ""


def test_an_ocsp_response_of_the_end_of_time_is_only_useless() -> None:
    end = datetime(9999, 12, 31, 23, 59, tzinfo=EPOCH.tzinfo)
    found = by_ocsp(ocsp_of(ROOT, END.certificate, at=end, hours=None))
    assert found.standing is Standing.UNKNOWN
