"""Certificates and keys as files: what is refused at load, with the place and the fix, and what is only said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from support.pki import Authority, Issued, alternative, crl_of, key_usage, pem_of, shared_key

from gateway.ike.registry import IdType
from gateway.ike.settings import ConnectionSettings
from gateway.runtime.certificate_files import SOON, expiring, lifetime_problem
from gateway.runtime.loading import LoadError, load_all

NOW = datetime.now(UTC)
ROOT = Authority("root", at=NOW)
SUB = ROOT.sub("sub", at=NOW)
GOOD = SUB.issue("gw", at=NOW, dns=["gw.example.net"])
CONFIG = """[connection.site]
local_addrs = "198.51.100.2"
remote_addrs = "203.0.113.2"
remote_id = "edge.example.net"
local_cert = "gw.pem"
local_key.file = "gw.key"
ca = ["ca.pem"]
remote_ts = ["172.16.0.0/16"]
"""
FILES = {"gw.pem": GOOD.pem, "gw.key": GOOD.key_pem, "ca.pem": pem_of(ROOT.certificate)}


def written(directory: Path, changes: dict[str, str | None], config: str = CONFIG) -> Path:
    for name, text in (FILES | changes).items():
        if text is not None:
            (directory / name).touch(mode=0o600)
            (directory / name).write_text(text)
    path = directory / "gateway.toml"
    path.write_text(config)
    return path


def ike(directory: Path, changes: dict[str, str | None] | None = None, config: str = CONFIG) -> ConnectionSettings:
    loaded, _ = load_all(written(directory, changes or {}, config))
    return loaded.settings.tunnels[0].ike


def refusal(directory: Path, changes: dict[str, str | None], config: str = CONFIG) -> str:
    with pytest.raises(LoadError) as refused:
        load_all(written(directory, changes, config))
    return str(refused.value).replace(f"{directory}/", "")


def test_everything_in_its_place(tmp_path: Path) -> None:
    found = ike(tmp_path)
    assert found.credentials is not None and found.trust is not None
    assert found.credentials.certificate == GOOD.certificate
    assert found.credentials.intermediates == (SUB.certificate,)
    assert found.trust.anchors == (ROOT.certificate,)
    assert found.trust.revocation == "relaxed"
    assert found.psk == b""
    # As with swanctl: the subject unless told
    assert (found.local_id.type, found.local_id.text) == (IdType.DER_ASN1_DN, "C=CH, O=Lab, CN=gw")
    assert GOOD.key_pem.splitlines()[1] not in repr(found)


def test_a_root_in_the_file_is_not_sent(tmp_path: Path) -> None:
    found = ike(tmp_path, {"gw.pem": GOOD.pem + pem_of(ROOT.certificate)})
    assert found.credentials is not None and found.credentials.intermediates == (SUB.certificate,)


def test_the_same_files_are_the_same_settings(tmp_path: Path) -> None:
    loaded, _ = load_all(written(tmp_path, {}))
    again, _ = load_all(loaded.path, loaded.settings)
    assert again.settings == loaded.settings
    assert again.settings.tunnels[0] is loaded.settings.tunnels[0]


def with_id(line: str) -> str:
    return CONFIG + line + "\n"


def encrypted(issued: Issued) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return issued.key.private_bytes(encoding, form, serialization.BestAvailableEncryption(b"x")).decode()


WEAK = ROOT.issue("gw", key=shared_key("rsa1024", "weak"), at=NOW, dns=["gw.example.net"])
NAMELESS = ROOT.issue("gw", at=NOW, subject=GOOD.certificate.subject.__class__([]))
REFUSED: dict[str, tuple[dict[str, str | None], str, str]] = {
    "no such file": ({"gw.pem": None}, CONFIG, "5:1: connection.site.local_cert: cannot read gw.pem: No such file"),
    "no certificate": ({"gw.pem": "-----BEGIN X-----\n"}, CONFIG, "5:1: connection.site.local_cert: gw.pem holds no certificate"),
    "DER": ({"gw.pem": "0\x82"}, CONFIG, "gw.pem is not PEM; from DER: openssl x509 -inform der"),
    "another key": ({"gw.key": SUB.key_pem}, CONFIG, "6:1: connection.site.local_key: not the key of local_cert, which is of C=CH, O=Lab, CN=gw"),
    "the intermediate first": (
        {"gw.pem": pem_of(SUB.certificate) + pem_of(GOOD.certificate)}, CONFIG,
        "local_key: not the key of local_cert, which is of C=CH, O=Lab, CN=sub; the certificate must stand first",
    ),
    "an encrypted key": ({"gw.key": encrypted(GOOD)}, CONFIG, "6:1: connection.site.local_key: the private key is encrypted"),
    "no key": ({"gw.key": "x"}, CONFIG, "6:1: connection.site.local_key: not a private key in PEM"),
    "a weak key": ({"gw.pem": WEAK.pem, "gw.key": WEAK.key_pem}, CONFIG, "local_cert: an RSA key of 1024 bits"),
    "nobody": ({"gw.pem": NAMELESS.pem, "gw.key": NAMELESS.key_pem}, CONFIG, "local_cert: it names nobody"),
    "another identity": (
        {}, with_id('local_id = "another.example.net"'),
        "9:1: connection.site.local_id: not in local_cert, which is of C=CH, O=Lab, CN=gw; gw.example.net",
    ),
    "no CA": ({"ca.pem": pem_of(GOOD.certificate)}, CONFIG, "7:7: connection.site.ca[0]: ca.pem: the certificate of C=CH, O=Lab, CN=gw"),
    "a CA without": ({"ca.pem": None}, CONFIG, "7:7: connection.site.ca[0]: cannot read ca.pem"),
    "a CA that may not": (
        {"ca.pem": pem_of(Authority("x", at=NOW, usage=False, extensions=[(key_usage(crl_sign=True), True)]).certificate)},
        CONFIG, "may not sign certificates (keyUsage)",
    ),
    "a CRL without": ({}, with_id('crl = ["none.crl"]'), "9:8: connection.site.crl[0]: cannot read none.crl"),
    "no CRL": ({"x.crl": "x"}, with_id('crl = ["x.crl"]'), "9:8: connection.site.crl[0]: x.crl holds no CRL"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_used_is_refused_with_place_and_reason(tmp_path: Path, what: str) -> None:
    changes, config, sentence = REFUSED[what]
    told = refusal(tmp_path, changes, config)
    assert sentence in told, told
    assert "PRIVATE" not in told


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {})
    (tmp_path / "gw.key").chmod(0o640)
    with pytest.raises(LoadError, match="others may use it; run: chmod 0600"):
        load_all(path)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('local_id = "gw.example.net"', IdType.FQDN),
        ('local_id = "C=CH, O=Lab, CN=gw"', IdType.DER_ASN1_DN),
        ('local_id = "c=CH,o=Lab,cn=gw"', IdType.DER_ASN1_DN),
    ],
)
def test_an_identity_that_the_certificate_has(tmp_path: Path, line: str, kind: IdType) -> None:
    assert ike(tmp_path, {}, with_id(line)).local_id.type == kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [({"dns": ["a.example"]}, 2), ({"email": ["a@b"]}, 3), ({"ip": ["10.0.0.1"]}, 1), ({"ip": ["::1"]}, 5)],
)
def test_without_a_subject_the_first_name_beside_it(tmp_path: Path, names: dict[str, list[str]], kind: int) -> None:
    assert alternative(**names)
    issued = ROOT.issue("x", at=NOW, subject=NAMELESS.certificate.subject, **names)
    assert ike(tmp_path, {"gw.pem": issued.pem, "gw.key": issued.key_pem}).local_id.type == kind


TIMES: dict[str, tuple[Callable[[], Issued], str]] = {
    "expired": (lambda: ROOT.issue("gw", at=NOW - timedelta(400), dns=["a"]), "expired at"),
    "soon": (lambda: ROOT.issue("gw", at=NOW, days=3.5, dns=["a"]), "expires in 3 days"),
    "not yet": (lambda: ROOT.issue("gw", at=NOW + timedelta(9), dns=["a"]), "is valid only from"),
}


@pytest.mark.parametrize("what", TIMES)
def test_what_time_decides_is_a_warning(tmp_path: Path, what: str) -> None:
    make, sentence = TIMES[what]
    issued = make()
    loaded, warnings = load_all(written(tmp_path, {"gw.pem": issued.pem, "gw.key": issued.key_pem}))
    (warning,) = warnings
    assert "5:1: warning: connection.site.local_cert: gw.pem: the certificate of C=CH, O=Lab, CN=gw" in warning
    assert sentence in warning
    (problem,) = expiring(loaded.settings, datetime.now(UTC))
    assert problem.startswith("connection site: the certificate of C=CH, O=Lab, CN=gw") and sentence in problem


def test_a_crl_that_is_too_old_is_a_warning(tmp_path: Path) -> None:
    old = crl_of(ROOT, at=NOW - timedelta(30)).public_bytes(serialization.Encoding.PEM).decode()
    loaded, warnings = load_all(written(tmp_path, {"old.crl": old}, with_id('crl = ["old.crl"]')))
    assert "should have been replaced" in warnings[0]
    trust = loaded.settings.tunnels[0].ike.trust
    assert trust is not None and len(trust.crls) == 1


def test_the_days_before_the_end() -> None:
    end = GOOD.certificate.not_valid_after_utc
    assert lifetime_problem(GOOD.certificate, end - SOON - timedelta(seconds=1)) is None
    assert "expires in 13 days" in (lifetime_problem(GOOD.certificate, end - SOON + timedelta(seconds=1)) or "")
    assert "expires in 1 day," in (lifetime_problem(GOOD.certificate, end - timedelta(days=1.5)) or "")


def test_of_several_cas_the_one_above_is_the_anchor(tmp_path: Path) -> None:
    """Else nobody would ask whether the lower one is revoked."""
    both = ike(tmp_path, {"ca.pem": pem_of(SUB.certificate) + pem_of(ROOT.certificate)}).trust
    assert both is not None
    assert (both.anchors, both.intermediates) == ((ROOT.certificate,), (SUB.certificate,))
    alone = ike(tmp_path, {"ca.pem": pem_of(SUB.certificate)}).trust
    assert alone is not None and alone.anchors == (SUB.certificate,) and alone.intermediates == ()
    strangers = ike(tmp_path, {"ca.pem": pem_of(SUB.certificate) + pem_of(Authority("root", at=NOW).certificate)}).trust
    assert strangers is not None and len(strangers.anchors) == 2
