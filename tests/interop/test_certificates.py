"""gatewayd and strongSwan 5.9.8, or 6.0, proving themselves by certificates, in both roles, with a PKI made for the test."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import OCSPCertStatus
from support.pair import EDGE, Pair, make_pair, nothing_lost
from support.pki import Authority, Issued, crl_of, ocsp_of, pem_of, points_to
from support.scene import EDGE_ID, GATEWAY_ID, NAT_OUTER, Scene
from support.strongswan import Connection, log_of

pytestmark = pytest.mark.interop

TODAY = datetime.now(UTC)
ENDS = ("gateway", "edge")


@dataclass(frozen=True, slots=True)
class Pki:
    """A root, an intermediate under it, and an end entity for each side."""

    root: Authority
    gateway: Issued
    edge: Issued

    @classmethod
    def of(cls, kind: str) -> Pki:
        root = Authority("root", "p384", at=TODAY)
        sub = root.sub("sub", kind, at=TODAY)
        return cls(
            root,
            sub.issue("gateway", kind, at=TODAY, dns=[GATEWAY_ID]),
            sub.issue("edge", kind, at=TODAY, dns=[EDGE_ID]),
        )

    def connection(self, **changes: object) -> Connection:
        """The edge's: its end entity, the intermediate to send, the root to trust."""
        files = {
            "x509/end.pem": pem_of(self.edge.certificate),
            "x509ca/sub.pem": pem_of((self.edge.chain or self.gateway.chain)[0]),
            "x509ca/root.pem": pem_of(self.root.certificate),
            "private/end.pem": self.edge.key_pem,
        }
        return EDGE.with_(auth=("pubkey", "pubkey"), certs=files, **changes)

    def files(self) -> dict[str, str]:
        return {"gw.pem": self.gateway.pem, "gw.key": self.gateway.key_pem, "ca.pem": pem_of(self.root.certificate)}


LINES = 'local_cert = "gw.pem"\nlocal_key.file = "gw.key"\nca = ["ca.pem"]\n'


def certified(scene: Scene, pki: Pki, initiator: str, lines: str = "", release: str = "12", **changes: object) -> Pair:
    settings = changes.pop("settings", [])
    return make_pair(
        scene, pki.connection(**changes), initiator=initiator, connection=LINES + lines, secrets=pki.files(),
        settings=settings, release=release,  # type: ignore[arg-type]
    )  # fmt: skip


SIGNED = {
    "p256": "ECDSA_WITH_SHA256_DER",
    "p384": "ECDSA_WITH_SHA384_DER",
    "p521": "ECDSA_WITH_SHA512_DER",
    "ed25519": "ED25519",
    "ed448": "ED448",
    "rsa2048": "RSA_EMSA_PSS_SHA2_256_SALT_32",
}


def rows(quick: Sequence[str], *lists: Sequence[str]) -> list[object]:
    """All combinations, those not named in `quick` (`a-b`) for the slow tests."""
    ids = {"-".join(row): row for row in product(*lists)}
    return [pytest.param(*row, id=name, marks=() if name in quick else pytest.mark.slow) for name, row in ids.items()]


@pytest.mark.parametrize(
    ("kind", "initiator"), rows(["p256-gateway", "ed25519-edge", "rsa2048-gateway"], list(SIGNED), ENDS)
)
def test_a_tunnel_by_certificates_with_an_intermediate_ca(scene: Scene, kind: str, initiator: str) -> None:
    _proven(scene, kind, initiator, "12")


@pytest.mark.slow
@pytest.mark.parametrize("initiator", ENDS)
@pytest.mark.parametrize("kind", list(SIGNED))
def test_the_same_with_strongswan_6_0(scene: Scene, kind: str, initiator: str) -> None:
    _proven(scene, kind, initiator, "13")


def _proven(scene: Scene, kind: str, initiator: str, release: str) -> None:
    """Both prove themselves, the IKE_SA is rekeyed by both, and nothing is lost."""
    pair = certified(scene, Pki.of(kind), initiator, release=release, settings=["rsa_pss = yes"])
    pair.establish(initiator)
    streams = pair.streams()
    pair.gateway.rekey_ike()
    pair.charon.rekey_ike()
    nothing_lost(streams.stop())
    text = log_of(pair.charon).read_text()
    assert f"authentication of '{GATEWAY_ID}' with {SIGNED[kind]} successful" in text
    assert f"authentication of '{EDGE_ID}' (myself) with {SIGNED[kind]} successful" in text
    pair.no_clear_text()


@pytest.mark.parametrize("initiator", rows(["edge"], ENDS))
def test_rsa_by_pkcs1_in_both_directions(scene: Scene, initiator: str) -> None:
    pair = certified(scene, Pki.of("rsa2048"), initiator, "rsa_pss = false", settings=["rsa_pss = no"])
    pair.establish(initiator)
    text = log_of(pair.charon).read_text()
    assert text.count("with RSA_EMSA_PKCS1_SHA2_256 successful") == 2
    pair.no_clear_text()


@pytest.mark.parametrize(("kind", "initiator"), rows(["p384-gateway"], ["p256", "p384", "p521"], ENDS))
def test_without_rfc_7427_ecdsa_goes_the_classic_way(scene: Scene, kind: str, initiator: str) -> None:
    pair = certified(scene, Pki.of(kind), initiator, settings=["signature_authentication = no"])
    pair.establish(initiator)
    assert log_of(pair.charon).read_text().count(f"with ECDSA-{kind[1:]} signature successful") == 2


@pytest.mark.parametrize("initiator", rows(["gateway"], ENDS))
def test_rsa_with_sha1_only_where_it_is_allowed(scene: Scene, initiator: str) -> None:
    pki = Pki.of("rsa2048")
    pair = certified(scene, pki, initiator, "rsa_sha1 = true", settings=["signature_authentication = no"])
    pair.establish(initiator)
    assert log_of(pair.charon).read_text().count("with RSA signature successful") == 2
    pair.gateway.ctl("terminate", "site")
    pair.gateway.wait_down()
    text = pair.gateway.config.read_text()
    pair.gateway.config.write_text(text.replace("rsa_sha1 = true", ""))
    pair.gateway.ctl("reload")
    if initiator == "gateway":
        pair.gateway.ctl("initiate", "site", check=False)
        assert pair.gateway.wait_failure() == "NO_COMMON_SIGNATURE"
    else:
        said = pair.charon.swanctl("--initiate", "--child", "net", "--timeout", "5", check=False)
        assert "AUTH_FAILED" in said or "AUTHENTICATION_FAILED" in said
    assert not pair.gateway.up()


@pytest.mark.parametrize("initiator", rows(["gateway"], ENDS))
def test_whole_subjects_as_identities_and_fragments(scene: Scene, initiator: str) -> None:
    """Neither side names itself: its subject does. RFC 7383 carries what is larger than a datagram."""
    pair = certified(
        scene, Pki.of("rsa2048"), initiator, "fragment_size = 600", settings=["fragment_size = 600"],
        local_id="C=CH, O=Lab, CN=edge", remote_id="C=CH, O=Lab, CN=gateway",
    )  # fmt: skip
    pair.establish(initiator)
    tunnel = pair.gateway.tunnel()
    assert tunnel is not None
    assert (tunnel["local_id"], tunnel["remote_id"]) == ("C=CH, O=Lab, CN=gateway", "C=CH, O=Lab, CN=edge")
    assert "received fragment #2 of" in log_of(pair.charon).read_text()
    pair.no_clear_text()


@pytest.mark.parametrize("initiator", rows(["edge"], ENDS))
def test_a_certificate_on_one_side_a_psk_on_the_other(scene: Scene, initiator: str) -> None:
    pki = Pki.of("p256")
    edge = pki.connection().with_(auth=("pubkey", "psk"))
    pair = make_pair(scene, edge, initiator=initiator, connection='ca = ["ca.pem"]', secrets=pki.files())
    pair.establish(initiator)
    pair.no_clear_text()


WEB = f"http://{NAT_OUTER}:8080"
SERVER = """
import http.server, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        file = pathlib.Path(sys.argv[1]) / self.path.strip("/")
        octets = file.read_bytes() if file.exists() else b""
        self.send_response(200 if octets else 404)
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)
    do_POST = do_GET
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("state", "by", "initiator"),
    rows(
        ["revoked-crl-gateway", "revoked-ocsp-edge", "good-ocsp-gateway"],
        ["revoked", "good"],
        ["crl", "ocsp"],
        ENDS,
    ),
)
def test_a_revoked_edge_is_refused(scene: Scene, tmp_path: Path, by: str, initiator: str, state: str) -> None:
    """What the certificates name is asked, outside of every tunnel: of the CA above the edge's by its CRL."""
    revoked = state == "revoked"
    root = Authority("root", at=TODAY)
    sub = root.sub("issuing", at=TODAY, extensions=points_to(crl=[f"{WEB}/root"]))
    edge = sub.issue("edge", at=TODAY, dns=[EDGE_ID], extensions=points_to(**{by: [f"{WEB}/{by}"]}))
    pki = Pki(root, sub.issue("gateway", at=TODAY, dns=[GATEWAY_ID]), edge)
    status = OCSPCertStatus.REVOKED if revoked else OCSPCertStatus.GOOD
    (tmp_path / "root").write_bytes(_der(crl_of(root, at=TODAY)))
    (tmp_path / "crl").write_bytes(_der(crl_of(sub, [edge.certificate] if revoked else [], at=TODAY)))
    (tmp_path / "ocsp").write_bytes(ocsp_of(sub, edge.certificate, status, at=TODAY))
    server = scene.wan.start("web", [sys.executable, "-c", SERVER, str(tmp_path)])
    pair = certified(scene, pki, initiator, 'revocation = "strict"')
    if not revoked:
        pair.establish(initiator)
        assert server.running
        return
    pair.start()
    if initiator == "edge":
        pair.charon.swanctl("--initiate", "--child", "net", "--timeout", "5", check=False)
    assert pair.gateway.wait_failure() == "CERTIFICATE_REVOKED"
    assert "is revoked since" in (pair.gateway.tunnel() or {})["explanation"]
    assert not pair.gateway.up()


def test_a_responder_of_nobody_leaves_a_strict_gateway_closed(scene: Scene) -> None:
    """Also when the URL leads to this host, or to the cloud's own services."""
    pki = Pki.of("p256")
    where = points_to(ocsp=["http://127.0.0.1:9550/metrics"], crl=["http://169.254.169.254/x"])
    pki = Pki(pki.root, pki.gateway, pki.root.issue("edge", at=TODAY, dns=[EDGE_ID], extensions=where))
    pair = certified(scene, pki, "gateway", 'revocation = "ifuri"')
    pair.start()
    assert pair.gateway.wait_failure() == "REVOCATION_UNKNOWN"
    assert pair.gateway.process is not None
    text = pair.gateway.process.log.read_text()
    assert "127.0.0.1 is nobody's CA" in text
    assert "169.254.169.254 is nobody's CA" in text
    assert not pair.gateway.up()


def _der(crl: x509.CertificateRevocationList) -> bytes:
    return crl.public_bytes(Encoding.DER)


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "another CA": ("CERTIFICATE_UNKNOWN_CA", {}),
    "expired": ("CERTIFICATE_EXPIRED", {"at": TODAY - timedelta(days=400)}),
    "no such name": ("CERTIFICATE_IDENTITY", {"dns": ["another.example.net"]}),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_edge_that_is_somebody_else_is_refused_under_a_name(scene: Scene, what: str) -> None:
    reason, options = WRONG[what]
    pki = Pki.of("p256")
    authority = Authority("other", at=TODAY) if what == "another CA" else pki.root
    wrong = authority.issue("edge", **{"at": TODAY, "dns": [EDGE_ID], **options})
    edge = pki.connection()
    edge.certs.update({"x509/end.pem": pem_of(wrong.certificate), "private/end.pem": wrong.key_pem})
    pair = make_pair(scene, edge, connection=LINES, secrets=pki.files())
    pair.start()
    assert pair.gateway.wait_failure() == reason
    assert "remote_id" in (explanation := (pair.gateway.tunnel() or {})["explanation"]) or reason in (
        "CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN_CA"
    ), explanation  # fmt: skip
    assert not pair.gateway.up()
    pair.no_clear_text()


def test_a_renewed_certificate_is_used_after_a_reload_and_touches_no_tunnel(scene: Scene) -> None:
    pki = Pki.of("p256")
    pair = certified(scene, pki, "gateway")
    pair.establish("gateway")
    before = pair.gateway.tunnel()
    assert before is not None
    streams = pair.streams()
    sub = pki.root.sub("renewed", at=TODAY)
    renewed = sub.issue("gateway", "ed25519", at=TODAY, days=10, dns=[GATEWAY_ID])
    (pair.gateway.directory / "gw.pem").write_text(renewed.pem)
    (pair.gateway.directory / "gw.key").write_text(renewed.key_pem)
    said = pair.gateway.ctl("reload").stdout
    assert "expires in 9 days" in said
    # At once: what the reload says is what the status says
    assert "PROBLEM  connection site: the certificate of" in pair.gateway.ctl("status").stdout
    nothing_lost(streams.stop())
    after = pair.gateway.tunnel()
    assert after is not None
    assert after["established_at"] == before["established_at"]
    pair.gateway.ctl("terminate", "site")
    pair.gateway.wait_down()
    pair.gateway.ctl("initiate", "site", "--wait", "30")
    assert f"authentication of '{GATEWAY_ID}' with ED25519 successful" in log_of(pair.charon).read_text()
    _, metrics = pair.gateway.http()
    assert 'gateway_certificate_expiry_timestamp_seconds{certificate="local",tunnel="site"}' in metrics
    pair.no_clear_text()


def test_a_key_that_is_not_the_certificates_keeps_the_old_configuration(scene: Scene) -> None:
    pki = Pki.of("p256")
    pair = certified(scene, pki, "gateway")
    pair.establish("gateway")
    (pair.gateway.directory / "gw.key").write_text(Pki.of("p256").gateway.key_pem)
    said = pair.gateway.ctl("reload", check=False)
    assert said.returncode != 0
    assert "connection.site.local_key: not the key of local_cert" in said.stdout + said.stderr
    assert pair.gateway.up()
