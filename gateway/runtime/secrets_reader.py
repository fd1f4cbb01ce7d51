"""Reads every secret and certificate a configuration names, at once, with all problems at once."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.config.diagnostics import KeyPath
from gateway.config.model import Config, HaPeer, SecretSource
from gateway.config.secrets import (
    BFD_SECRET,
    BGP_PASSWORD,
    HA_SECRET,
    PPK,
    PRIVATE_KEY,
    PSK,
    NotPassed,
    Purpose,
    SecretError,
    read_secret,
)
from gateway.node.pair_settings import PairSecrets
from gateway.node.settings import Secrets
from gateway.runtime.certificate_files import CertificateFiles


class SecretProblems(Exception):
    """One sentence per secret that cannot be used, with the key that names it; and what is questionable about others."""

    def __init__(self, problems: list[tuple[KeyPath, str]], warnings: list[tuple[KeyPath, str]]) -> None:
        super().__init__("\n".join(message for _, message in problems))
        self.problems, self.warnings = problems, warnings


def read_secrets(config: Config, directory: Path, checking: bool = False) -> tuple[Secrets, list[tuple[KeyPath, str]]]:
    """The secrets and warnings about them, with the key. `directory`: of the configuration file, for relative paths.
    `checking`: credentials that systemd alone passes may be absent; the rest is looked at."""
    reader = SecretReader(directory, checking, config.gateway.allow_inline_secrets)
    psks = {
        name: reader.read(("connection", name, "psk"), connection.psk, PSK)
        for name, connection in config.connection.items()
        if connection.psk is not None
    }
    ppks = {
        name: reader.read(("connection", name, "ppk"), connection.ppk, PPK)
        for name, connection in config.connection.items()
        if connection.ppk is not None
    }
    neighbors = config.bgp.neighbor if config.bgp is not None else {}
    passwords = {
        name: reader.read(("bgp", "neighbor", name, "password"), neighbor.password, BGP_PASSWORD)
        for name, neighbor in neighbors.items()
        if neighbor.password is not None
    }
    bfd_keys = {
        name: reader.read(("bgp", "neighbor", name, "bfd", "secret"), neighbor.bfd.secret, BFD_SECRET)
        for name, neighbor in neighbors.items()
        if neighbor.bfd is not None and neighbor.bfd.secret is not None
    }
    pair = _pair(config.ha, reader) if config.ha is not None else PairSecrets()
    keys = {
        name: reader.read(("connection", name, "local_key"), connection.local_key, PRIVATE_KEY)
        for name, connection in config.connection.items()
        if connection.local_key is not None
    }
    certificates = CertificateFiles(directory)
    credentials = {
        name: found
        for name, connection in config.connection.items()
        if (found := certificates.credentials(name, connection, keys.get(name, b""))) is not None
    }
    trusts = {
        name: chosen
        for name, connection in config.connection.items()
        if (chosen := certificates.trust(name, connection)) is not None
    }
    problems = [*reader.problems, *certificates.problems]
    if problems:
        raise SecretProblems(problems, [*reader.warnings, *certificates.warnings])
    secrets = Secrets(psks, passwords, pair, ppks, credentials, trusts, bfd_keys)
    return secrets, [*reader.warnings, *certificates.warnings]


def _pair(ha: HaPeer, reader: SecretReader) -> PairSecrets:
    current = reader.read(("ha", "secret"), ha.secret, HA_SECRET)
    older = reader.read(("ha", "older_secret"), ha.older_secret, HA_SECRET) if ha.older_secret is not None else b""
    witness = ha.witness.secret if ha.witness is not None else None
    own = reader.read(("ha", "witness", "secret"), witness, HA_SECRET) if witness is not None else b""
    return PairSecrets(current, older, own or current)


class SecretReader:
    """Reads one secret after the other; what is wrong with them is told in the end. As `read_secrets` says."""

    def __init__(self, directory: Path, checking: bool, inline: bool = False) -> None:
        self._checking = checking
        self._inline = inline
        self._directory = directory
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        self._credentials = Path(credentials) if credentials else None
        self.problems: list[tuple[KeyPath, str]] = []
        self.warnings: list[tuple[KeyPath, str]] = []

    def read(self, path: KeyPath, source: SecretSource, purpose: Purpose) -> bytes:
        """The secret that the key names; nothing where it cannot be used."""
        try:
            found = read_secret(
                source, self._directory, self._credentials, self._inline, uid=os.getuid(), purpose=purpose
            )
        except NotPassed as error:
            (self.warnings if self._checking else self.problems).append((path, str(error)))
            return b""
        except SecretError as error:
            self.problems.append((path, str(error)))
            return b""
        self.warnings += [(path, warning) for warning in found.warnings]
        return found.secret.reveal()
