"""The PEM files of certificates and private keys that a configuration names: read, held against each other and the clock.

Whatever makes a certificate useless for good is an error with its fix; what time alone decides is a warning, for a clock
may be wrong and a renewed file come later.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from gateway.config.diagnostics import KeyPath
from gateway.config.model import Connection
from gateway.ike import certificate_path, signatures
from gateway.ike.certificate_names import own_identity, proves, shown_names
from gateway.ike.settings import Credentials, Trust
from gateway.node.settings import GatewaySettings, identity

FILE_OCTETS_MAX, CRL_OCTETS_MAX = 1 << 20, 32 << 20
SOON = timedelta(days=14)
"""A certificate that ends within this time is spoken of."""


class FileError(ValueError):
    """A sentence about a file, with what to do."""


class CertificateFiles:
    """Reads for all connections; a file that several name is read once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[str, tuple[x509.Certificate, ...]] = {}
        self.problems: list[tuple[KeyPath, str]] = []
        self.warnings: list[tuple[KeyPath, str]] = []

    def credentials(self, name: str, connection: Connection, key: bytes) -> Credentials | None:
        """Our own certificate; None when there is none, or a problem with it."""
        if connection.local_cert is None or connection.local_key is None:
            return None
        place: KeyPath = ("connection", name, "local_cert")
        try:
            chain = self._certificates(connection.local_cert)
            private = _private_key(key) if key else None
        except KeyFileError as error:
            self.problems.append(((*place[:-1], "local_key"), str(error)))
            return None
        except FileError as error:
            self.problems.append((place, str(error)))
            return None
        if private is None:
            return None
        problem = _misfit(chain[0], private, connection)
        if problem is not None:
            key_name, sentence = problem
            self.problems.append(((*place[:-1], key_name), sentence))
            return None
        self._look_at_time(place, connection.local_cert, chain)
        intermediates = tuple(one for one in chain[1:] if one.subject != one.issuer)
        return Credentials(chain[0], intermediates, private, connection.rsa_pss, connection.rsa_sha1)

    def trust(self, name: str, connection: Connection) -> Trust | None:
        """The CAs of the peer; None when there are none, or a problem with one."""
        anchors: list[x509.Certificate] = []
        for element, file in enumerate(connection.ca):
            place: KeyPath = ("connection", name, "ca", element)
            try:
                found = self._certificates(file)
            except FileError as error:
                self.problems.append((place, str(error)))
                continue
            for one in found:
                problem = certificate_path.check_issuer(one)
                if problem:
                    self.problems.append((place, f"{file}: {problem}; only CAs belong here"))
            self._look_at_time(place, file, found)
            anchors += found
        crls = tuple(self._crls(name, connection))
        if not anchors:
            return None
        given = tuple(dict.fromkeys(anchors))
        # One that another of them vouches for is no anchor: what holds above it, and whether it is revoked, counts
        below = tuple(one for one in given if any(_vouches(other, one) for other in given if other != one))
        top = tuple(one for one in given if one not in below) or given
        return Trust(
            top, connection.rsa_sha1, connection.revocation, crls, tuple(one for one in below if one not in top)
        )

    def _crls(self, name: str, connection: Connection) -> Iterator[bytes]:
        for element, file in enumerate(connection.crl):
            place: KeyPath = ("connection", name, "crl", element)
            try:
                crl = _crl(self._directory / file)
            except FileError as error:
                self.problems.append((place, str(error)))
                continue
            if crl.next_update_utc is None or crl.next_update_utc < datetime.now(UTC):
                message = f"{file} should have been replaced at {crl.next_update_utc or 'a time it does not say'}; it proves nothing now"
                self.warnings.append((place, message))
            yield crl.public_bytes(serialization.Encoding.DER)

    def _certificates(self, file: str) -> tuple[x509.Certificate, ...]:
        if file not in self._read:
            self._read[file] = _certificates(self._directory / file)
        return self._read[file]

    def _look_at_time(self, place: KeyPath, file: str, found: tuple[x509.Certificate, ...]) -> None:
        now = datetime.now(UTC)
        for one in found:
            if (told := lifetime_problem(one, now)) is not None:
                self.warnings.append((place, f"{file}: {told}"))


def lifetime_problem(certificate: x509.Certificate, now: datetime) -> str | None:
    """What time has done or is about to do to a certificate."""
    whose = f"the certificate of {shown_names(certificate)}"
    end, begin = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    if now < begin:
        return f"{whose} is valid only from {begin:%Y-%m-%d %H:%M} UTC; check the clock of this machine"
    if now > end:
        return f"{whose} expired at {end:%Y-%m-%d %H:%M} UTC; renew it and run: gatewayctl reload"
    if end - now < SOON:
        days = (end - now).days
        return f"{whose} expires in {days} day{'' if days == 1 else 's'}, at {end:%Y-%m-%d %H:%M} UTC; renew it and run: gatewayctl reload"
    return None


def expiring(settings: GatewaySettings, now: datetime) -> tuple[str, ...]:
    """A sentence for each certificate of the running configuration that time has caught up with."""
    found = []
    for tunnel in settings.tunnels:
        ike = tunnel.ike
        ours = (ike.credentials.certificate, *ike.credentials.intermediates) if ike.credentials is not None else ()
        for one in (*ours, *(ike.trust.authorities if ike.trust is not None else ())):
            if (told := lifetime_problem(one, now)) is not None:
                found.append(f"connection {tunnel.name}: {told}")
    return tuple(dict.fromkeys(found))


class KeyFileError(FileError):
    """It is the key that cannot be used."""


def _octets(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            octets = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(octets) > limit:
        raise FileError(f"{path} is larger than {limit} octets")
    return octets


def _crl(path: Path) -> x509.CertificateRevocationList:
    octets = _octets(path, CRL_OCTETS_MAX)
    try:
        crl = x509.load_pem_x509_crl(octets) if b"-----BEGIN" in octets else x509.load_der_x509_crl(octets)
        _ = (crl.extensions, crl.issuer, crl.next_update_utc)
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise FileError(f"{path} holds no CRL that can be read: {error}") from None
    return crl


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    octets = _octets(path, FILE_OCTETS_MAX)
    if b"-----BEGIN" not in octets:
        raise FileError(f"{path} is not PEM; from DER: openssl x509 -inform der -in {path.name} -out {path.stem}.pem")
    try:
        found = tuple(x509.load_pem_x509_certificates(octets))
        for one in found:
            _ = (one.extensions, one.subject, one.public_key())
    except (ValueError, x509.DuplicateExtension, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise FileError(f"{path} holds no certificate that can be read: {error}") from None
    return found


def _private_key(octets: bytes) -> signatures.SigningKey:
    try:
        key = serialization.load_pem_private_key(octets, None)
    except TypeError:
        raise KeyFileError(
            "the private key is encrypted; remove the passphrase: openssl pkey -in OLD -out NEW"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"not a private key in PEM: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
        ) from None
    if not isinstance(key, signatures.PrivateKey):
        raise KeyFileError("the private key is neither RSA, ECDSA nor EdDSA")
    return signatures.SigningKey.of(key)


def _vouches(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    if certificate.issuer != issuer.subject or certificate.issuer == certificate.subject:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _misfit(
    certificate: x509.Certificate, key: signatures.SigningKey, connection: Connection
) -> tuple[str, str] | None:
    """(key, sentence) when certificate, key and identity do not belong together."""
    ours, theirs = (
        one.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        for one in (key.key.public_key(), certificate.public_key())
    )
    whose = shown_names(certificate)
    if ours != theirs:
        return (
            "local_key",
            f"not the key of local_cert, which is of {whose}; the certificate must stand first in its file",
        )
    if weak := signatures.weakness(certificate.public_key()):
        return "local_cert", f"{weak}; make a new one"
    if connection.local_id is None:
        try:
            own_identity(certificate)
        except ValueError as error:
            return "local_cert", str(error)
    elif not proves(certificate, identity(connection.local_id)):
        return "local_id", f"not in local_cert, which is of {whose}; take one of these, or leave local_id out"
    return None
