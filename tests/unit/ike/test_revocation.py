"""CRLs, delta CRLs and OCSP: what is believed."""

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
from support.ike_pair import RIGHT
from support.pki import EPOCH, Authority, Issued, crl_of, der, key_usage, ocsp_of, points_to, scope

from gateway.ike import revocation
from gateway.ike.revocation import Evidence, Standing, judge

ROOT = Authority("root")
END = ROOT.issue("end", ip=[RIGHT])
OTHER = Authority("other")
IMPOSTOR = Authority("root")
REVOKED = ocsp.OCSPCertStatus.REVOKED


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


@pytest.mark.parametrize("where", ["ldap:///CN=root?certificateRevocationList", "https://ca.example/root.crl"])
def test_a_responder_about_whom_nobody_can_be_asked_is_not_known_to_be_good(where: str) -> None:
    """It may be revoked for all that we know: only who names nobody at all is believed without."""
    responder = ROOT.issue("asked", extensions=[*SIGNING, *points_to(crl=[where])])
    found = vouched(responder)
    assert (found.standing, found.unchecked) == (Standing.UNKNOWN, (responder.certificate,))
    assert where in found.detail and "only http://" in found.detail
    assert vouched(responder, status=REVOKED).standing is Standing.REVOKED


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


# --- delta CRLs (RFC 5280 5.2.4, 6.3.3) -------------------------------------------------------------------------------------

HOLD, REMOVED = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl


def numbered(number: int, *revoked: x509.Certificate, base: int | None = None, **options: Any) -> Evidence:
    """A complete CRL of that number, or with `base` what changed since that one."""
    extensions = [(x509.CRLNumber(number), False), *options.pop("extensions", ())]
    if base is not None:
        extensions.append((x509.DeltaCRLIndicator(base), True))
    return Evidence(der(crl_of(options.pop("ca", ROOT), revoked, extensions=extensions, **options)), True)


def by_both(*evidence: Evidence, at: Any = EPOCH) -> Standing:
    found = {judge(END.certificate, ROOT.certificate, order, at).standing for order in (evidence, evidence[::-1])}
    assert len(found) == 1, "the order in which they come must not count"
    return found.pop()


def test_a_delta_says_who_was_revoked_since() -> None:
    assert by_both(numbered(5)) is Standing.GOOD
    assert by_both(numbered(5), numbered(6, END.certificate, base=5)) is Standing.REVOKED
    assert by_both(numbered(5), numbered(6, OTHER.certificate, base=5)) is Standing.GOOD


def test_a_delta_alone_vouches_for_nobody() -> None:
    assert by_both(numbered(6, base=5)) is Standing.UNKNOWN
    assert by_both(numbered(6, END.certificate, base=5, reason=REMOVED)) is Standing.UNKNOWN
    # Whom it lists is revoked all the same
    assert by_both(numbered(6, END.certificate, base=5)) is Standing.REVOKED


def test_a_delta_with_a_complete_one_that_lapsed_vouches_for_nobody() -> None:
    old = numbered(5, days=1)
    assert by_both(old, numbered(6, base=5), at=EPOCH + timedelta(2)) is Standing.UNKNOWN


def test_who_is_taken_off_hold_by_a_delta_is_good_again() -> None:
    held = numbered(5, END.certificate, reason=HOLD)
    assert by_both(held) is Standing.REVOKED
    assert by_both(held, numbered(6, END.certificate, base=5, reason=REMOVED)) is Standing.GOOD


REMAINING = {
    "that begins later": lambda: numbered(8, END.certificate, base=6, reason=REMOVED),
    "that is older": lambda: numbered(5, END.certificate, base=4, reason=REMOVED),
    "of another scope": lambda: numbered(
        6, END.certificate, base=5, reason=REMOVED, extensions=[(scope(only_contains_user_certs=True), True)]
    ),
    "of a CA of the same name": lambda: numbered(6, END.certificate, base=5, reason=REMOVED, ca=IMPOSTOR),
    "that lapsed": lambda: numbered(6, END.certificate, base=5, reason=REMOVED, at=EPOCH - timedelta(30)),
    "without a number": lambda: Evidence(
        der(crl_of(ROOT, [END.certificate], reason=REMOVED, extensions=[(x509.DeltaCRLIndicator(5), True)])), True
    ),
    "that is complete": lambda: numbered(6, END.certificate, reason=REMOVED),
}


@pytest.mark.parametrize("what", REMAINING)
def test_nobody_is_taken_off_hold_by_a_delta(what: str) -> None:
    assert by_both(numbered(5, END.certificate, reason=HOLD), REMAINING[what]()) is Standing.REVOKED


def test_nobody_is_taken_back_who_was_revoked_for_good() -> None:
    """RFC 5280 5.3.1: removeFromCRL is for holds, and for certificates that have expired."""
    assert (
        by_both(numbered(5, END.certificate), numbered(6, END.certificate, base=5, reason=REMOVED)) is Standing.REVOKED
    )


def test_a_complete_one_that_is_newer_outweighs_a_delta() -> None:
    on_hold_then = numbered(6, END.certificate, base=5, reason=HOLD)
    assert by_both(numbered(6), on_hold_then) is Standing.GOOD
    assert by_both(numbered(7), on_hold_then) is Standing.GOOD
    assert by_both(numbered(5), on_hold_then) is Standing.REVOKED
