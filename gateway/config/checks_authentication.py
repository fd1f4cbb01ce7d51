"""Checks of how the two ends of a connection prove themselves: each by the pre-shared key or by a certificate, never by both.

What stands in the files is looked at when they are read (runtime/certificate_files.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Facts, Finding
from gateway.config.identity import parse_identity
from gateway.config.model import Connection


def authentication_findings(facts: Facts) -> Iterator[Finding]:
    """One connection at a time."""
    for name, connection in facts.config.connection.items():
        path: KeyPath = ("connection", name)
        yield from _halves(path, connection)
        yield from _methods(path, connection)
        yield from _identities(path, connection)
        yield from _idle(path, connection)


def _halves(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    if connection.local_cert is not None and connection.local_key is None:
        yield "error", (*path, "local_cert"), "a certificate needs its private key; add local_key.file"
    if connection.local_key is not None and connection.local_cert is None:
        yield "error", (*path, "local_key"), "a private key needs its certificate; add local_cert"


def _methods(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    ours, theirs = connection.local_cert is not None, bool(connection.ca)
    if connection.psk is not None and ours and theirs:
        message = "not used, because both ends have certificates (local_cert and ca); remove psk, or the one of the two that is not meant"
        yield "error", (*path, "psk"), message
    elif connection.psk is None and ours:
        if not theirs:
            yield "error", (*path, "local_cert"), "nothing proves the peer; add ca with its CA, or psk if it has none"
    elif connection.psk is None and theirs:
        yield "error", (*path, "ca"), "nothing proves us to the peer; add local_cert and local_key, or psk"
    elif connection.psk is None and connection.local_key is None:
        message = "required key 'psk' is missing; pre-shared key, or local_cert, local_key and ca for certificates"
        yield "error", (*path, "psk"), message


def _identities(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    for key, text, certified in (
        ("local_id", connection.local_id, connection.local_cert is not None),
        ("remote_id", connection.remote_id, bool(connection.ca)),
    ):
        if certified and text is not None and parse_identity(text).kind == "key_id":
            message = "no certificate proves a key ID; give an address, a name or the whole subject of the certificate"
            yield "error", (*path, key), message


def _idle(path: KeyPath, connection: Connection) -> Iterator[Finding]:
    for key in ("revocation", "crl"):
        if key in connection.model_fields_set and not connection.ca:
            yield "warning", (*path, key), "is about the peer's certificate, and without ca it has none"
    if connection.crl and connection.revocation == "off":
        yield "warning", (*path, "crl"), 'not looked at with revocation = "off"'
    if "rsa_pss" in connection.model_fields_set and connection.local_cert is None:
        yield "warning", (*path, "rsa_pss"), "says how we sign, but we have no local_cert"
    if connection.rsa_sha1:
        if connection.local_cert is None and not connection.ca:
            yield "warning", (*path, "rsa_sha1"), "is about certificates, and there are none here"
        else:
            yield (
                "warning",
                (*path, "rsa_sha1"),
                "SHA-1 signatures can be forged with effort; for peers that know nothing else",
            )
