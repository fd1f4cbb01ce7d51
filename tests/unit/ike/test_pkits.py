"""NIST's PKITS: every path that must not be accepted is not; of those that may be, what is refused is listed with the reason."""

from __future__ import annotations

import json
import lzma
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning

from gateway.ike import certificate_path
from gateway.ike.errors import PeerError
from gateway.ike.revocation import Evidence, Standing, judge

AT = datetime(2020, 1, 1, tzinfo=UTC)
DATA = json.loads(lzma.decompress((Path(__file__).parents[2] / "vectors" / "pkits.json.xz").read_bytes()))
with warnings.catch_warnings():
    # A negative serial number among them, on purpose
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    CERTIFICATES = {
        name: x509.load_der_x509_certificate(bytes.fromhex(text)) for name, text in DATA["certificates"].items()
    }
CRLS = [Evidence(bytes.fromhex(text), True) for text in DATA["crls"].values()]
ANCHOR = CERTIFICATES["TrustAnchorRootCertificate"]
OTHERS = [one for name, one in CERTIFICATES.items() if not name.endswith("EE") and one != ANCHOR]
ENDS = sorted(name for name in CERTIFICATES if name.endswith("EE"))
STRICTER = {
    # The CRL of a self-issued certificate's key is of its old key, and no CRL is signed by two
    "ValidSelfIssuedpathLenConstraintTest15EE": "unknown",
    "ValidSelfIssuedpathLenConstraintTest17EE": "unknown",
    "ValidDNnameConstraintsTest19EE": "unknown",
}


def outcome(name: str) -> str:
    try:
        path = certificate_path.build(CERTIFICATES[name], OTHERS, [ANCHOR], AT)
    except PeerError:
        return "no path"
    verdicts = {judge(*link, CRLS, AT).standing for link in path.links()}
    return next((one.value for one in (Standing.REVOKED, Standing.UNKNOWN) if one in verdicts), "valid")


@pytest.mark.parametrize("name", ENDS)
def test_a_path_of_pkits(name: str) -> None:
    found = outcome(name)
    if name.startswith("Invalid"):
        assert found != "valid"
    else:
        assert found == STRICTER.get(name, "valid")


def test_it_is_not_by_refusing_everything() -> None:
    outcomes = [outcome(name) for name in ENDS]
    assert outcomes.count("valid") > 35
    assert outcomes.count("revoked") >= 4
    assert outcomes.count("no path") > 40
