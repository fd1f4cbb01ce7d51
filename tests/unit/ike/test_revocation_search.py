"""What is asked about revocation, of whom, and what each mode makes of silence: two endpoints, and the cache."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.certified import CertifiedPair, trust
from support.ike_pair import LEFT, RIGHT, Flight
from support.pki import EPOCH, Authority, Issued, crl_of, der, freshest, ocsp_of, points_to, scope

from gateway.ike.commands import Initiate, Terminate
from gateway.ike.events import IkeDown, IkeUp, Notice
from gateway.ike.payloads import Certificate, CertificateRequest
from gateway.ike.registry import CertificateEncoding, ExchangeType
from gateway.ike.revocation_cache import ENTRIES_MAX, FAILURE_WAIT, Question, RevocationCache

ROOT = Authority("root")
OTHER = Authority("other")
REVOKED = ocsp.OCSPCertStatus.REVOKED
SIGNING = [(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)]
WHERE = "http://ca.example/responders.crl"
ASKED = ROOT.issue("asked", extensions=[*SIGNING, *points_to(crl=[WHERE])])


def only_others(*revoked: x509.Certificate) -> x509.CertificateRevocationList:
    """Says nothing about anybody but responders: it is of the distribution point that they name."""
    point = scope(full_name=[x509.UniformResourceIdentifier(WHERE)])
    return crl_of(ROOT, revoked, extensions=[(point, True)])


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


@pytest.mark.parametrize("mode", ["relaxed", "ifuri", "strict"])
@pytest.mark.parametrize("where", ["ldap:///CN=root?certificateRevocationList", "https://ca.example/root.crl"])
def test_a_certificate_that_names_only_whom_we_cannot_ask(mode: str, where: str) -> None:
    """It names somebody, so `ifuri` refuses it, and says why and what of it is to be changed."""
    two = pair(mode, ROOT.issue("right", ip=[RIGHT], extensions=points_to(crl=[where])))
    two.begin()
    assert two.fetches == []
    assert bool(two.left.seen(IkeUp)) == (mode == "relaxed")
    assert two.failures()[0] == ("" if mode == "relaxed" else "REVOCATION_UNKNOWN")
    said = [one.text for one in two.left.seen(Notice) if one.event == "revocation-unknown"]
    said += [one.context["detail"] for one in two.left.seen(IkeDown) if one.reason == "REVOCATION_UNKNOWN"]
    assert len(said) == 1
    assert f"it names only {where} to ask, and only http:// is fetched" in said[0]


def test_a_crl_from_a_file_is_enough_where_nobody_can_be_asked() -> None:
    right = ROOT.issue("right", ip=[RIGHT], extensions=points_to(crl=["ldap:///CN=root"]))
    for crl, reason in ((crl_of(ROOT), ""), (crl_of(ROOT, [right.certificate]), "CERTIFICATE_REVOKED")):
        two = pair("ifuri", right)
        two.settle_on("left", trust=trust(ROOT, revocation="ifuri", crls=(der(crl),)))
        two.begin()
        assert two.failures()[0] == reason


@pytest.mark.parametrize("mode", ["relaxed", "ifuri", "strict"])
def test_a_delegated_responder_about_whom_nobody_can_be_asked(mode: str) -> None:
    """Revoked or not, its word counts as if it had not been given."""
    responder = ROOT.issue("asked", extensions=[*SIGNING, *points_to(crl=["ldap:///CN=root"])])
    response = ocsp_of(ROOT, POINTED.certificate, signer=responder, show=[responder.certificate])
    two = pair(mode)
    two.web = {OCSP: answer(response)}
    two.begin()
    assert [one.url for one in two.fetches] == [OCSP, CRL]
    assert two.failures()[0] == ("" if mode == "relaxed" else "REVOCATION_UNKNOWN")
    two = pair(mode)
    two.web = {OCSP: answer(response), CRL: answer(GOOD_CRL)}
    two.begin()
    two.assert_agreed()


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


# --- delta CRLs -----------------------------------------------------------------------------------------------------------

DELTA = "http://ca.example/delta.crl"


def numbered(number: int, *revoked: x509.Certificate, base: int | None = None, at: datetime = EPOCH) -> bytes:
    kind = (x509.DeltaCRLIndicator(base), True) if base is not None else freshest(DELTA)
    return der(
        crl_of(
            ROOT, revoked, at=at, days=7 if base is None else 0.1, extensions=[(x509.CRLNumber(number), False), kind]
        )
    )


BY_CRL = ROOT.issue("right", ip=[RIGHT], extensions=points_to(crl=[CRL]))
BY_CRL_AND_DELTA = ROOT.issue("right", ip=[RIGHT], extensions=[*points_to(crl=[CRL]), freshest(DELTA)])


@pytest.mark.parametrize("mode", ["relaxed", "ifuri", "strict"])
def test_the_delta_that_a_crl_names_is_asked_for(mode: str) -> None:
    """RFC 5280 5.2.6."""
    for delta, up in (
        (numbered(6, BY_CRL.certificate, base=5), False),
        (numbered(6, base=5), True),
        (None, True),
        (b"junk", True),
    ):
        two = pair(mode, BY_CRL)
        two.web = {CRL: answer(numbered(5)), DELTA: answer(delta)}
        two.begin()
        assert [one.url for one in two.fetches] == [CRL, DELTA]
        assert bool(two.left.seen(IkeUp)) == up
        assert two.failures()[0] == ("" if up else "CERTIFICATE_REVOKED")


def test_the_delta_that_a_certificate_names_is_asked_for() -> None:
    """RFC 5280 4.2.1.15."""
    two = pair("strict", BY_CRL_AND_DELTA)
    plain = der(crl_of(ROOT, extensions=[(x509.CRLNumber(5), False)]))
    two.web = {CRL: answer(plain), DELTA: answer(numbered(6, BY_CRL_AND_DELTA.certificate, base=5))}
    two.begin()
    assert two.failures()[0] == "CERTIFICATE_REVOKED"


def test_a_delta_is_kept_as_long_as_it_holds_and_asked_for_anew_when_the_crl_still_does() -> None:
    two = pair("strict", BY_CRL)
    two.web = {CRL: answer(numbered(5)), DELTA: answer(numbered(6, base=5))}
    for hours, asked in ((0, [CRL, DELTA]), (1, []), (2, [DELTA])):
        two.now += hours * 3600
        before = len(two.fetches)
        two.begin()
        assert [one.url for one in two.fetches[before:]] == asked
        assert len(two.left.seen(IkeUp)) == (1 if hours == 0 else 2)
        two.left.command(Terminate("c"))
        two.settle()
        two.web[DELTA] = answer(numbered(7, BY_CRL.certificate, base=5, at=EPOCH + timedelta(hours=3)))
    assert two.failures()[0] == "CERTIFICATE_REVOKED"


def test_who_is_revoked_by_a_delta_is_no_less_so_the_next_time() -> None:
    two = pair("relaxed", BY_CRL)
    two.web = {CRL: answer(numbered(5)), DELTA: answer(numbered(6, BY_CRL.certificate, base=5))}
    for _ in range(3):
        two.begin()
        two.run(2)
        assert two.failures()[0] == "CERTIFICATE_REVOKED"
        two.web = {}
    assert two.left.seen(IkeUp) == []


def test_deltas_of_a_longer_path_are_all_asked_for() -> None:
    sub = ROOT.sub("sub", extensions=points_to(crl=[CRL]))
    end = sub.issue("right", ip=[RIGHT], extensions=points_to(crl=["http://sub.example/crl"]))
    delta = "http://sub.example/delta"
    complete = der(crl_of(sub, extensions=[(x509.CRLNumber(1), False), freshest(delta)]))
    changed = der(
        crl_of(sub, [end.certificate], extensions=[(x509.CRLNumber(2), False), (x509.DeltaCRLIndicator(1), True)])
    )
    two = CertifiedPair(LEFT_END, end, (ROOT,))
    two.settle_on("left", trust=trust(ROOT, revocation="strict"))
    two.judge, two.staples = two.left, False
    two.web = {CRL: answer(numbered(5)), DELTA: answer(numbered(6, base=5)), "http://sub.example/crl": answer(complete)}
    two.begin()
    assert {one.url for one in two.fetches} == {CRL, DELTA, "http://sub.example/crl", delta}
    assert len(two.left.seen(IkeUp)) == 1
    two.left.command(Terminate("c"))
    two.settle()
    two.web[delta] = answer(changed)
    two.now += FAILURE_WAIT
    two.begin()
    assert two.failures()[0] == "CERTIFICATE_REVOKED"
