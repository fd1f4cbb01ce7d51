"""Secrets: where they are read, and the wrapper that keeps them out of logs.

Not a vault: Python may copy octets, so `wipe` is the best that can be done here; keys of SAs live in
the data plane. Nothing is read from the environment or from the command line.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from gateway.config.model import SecretSource

_CREDENTIAL = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,255}", re.ASCII)


class SecretError(ValueError):
    """A secret that cannot be used; the text says why and what to do, never the secret."""


class NotPassed(SecretError):
    """A credential, and this process was not started by a unit that passes any."""


class Secret:
    """Octets that do not print, do not pickle and compare in constant time."""

    __slots__ = ("_octets",)

    def __init__(self, octets: bytes) -> None:
        self._octets = bytearray(octets)

    def reveal(self) -> bytes:
        """The octets themselves, for the one place that computes with them."""
        return bytes(self._octets)

    def wipe(self) -> None:
        """Overwrites the octets; the secret is empty afterwards."""
        for offset in range(len(self._octets)):
            self._octets[offset] = 0
        self._octets.clear()

    def __len__(self) -> int:
        return len(self._octets)

    def __bool__(self) -> bool:
        return bool(self._octets)

    def __eq__(self, other: object) -> bool:
        return hmac.compare_digest(self._octets, other._octets) if isinstance(other, Secret) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied")


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a secret is for: how long it must and should be, and how it is spelled."""

    name: str
    minimum: int
    recommended: int
    maximum: int | None = None
    encoded: bool = True
    """Whether 0x (hexadecimal) and 0s (base64) prefixes are decoded, as strongSwan does."""


PSK = Purpose("pre-shared key", minimum=1, recommended=20)
# RFC 8784 6: 256 bits of entropy; a quantum computer halves what brute force takes.
PPK = Purpose("post-quantum preshared key", minimum=32, recommended=32)
HA_SECRET = Purpose("heartbeat secret", minimum=16, recommended=16)
WITNESS_SECRET = Purpose("secret of the witness", minimum=16, recommended=16)
PRIVATE_KEY = Purpose("private key", minimum=1, recommended=1, maximum=65536, encoded=False)
# RFC 5880 6.7.4: the field of the hash holds it.
BFD_SECRET = Purpose("BFD key", minimum=1, recommended=16, maximum=20)
# Linux takes at most TCP_MD5SIG_MAXKEYLEN octets.
BGP_PASSWORD = Purpose("TCP MD5 password", minimum=1, recommended=1, maximum=80, encoded=False)


class Read(NamedTuple):
    """A secret and what is questionable about it."""

    secret: Secret
    warnings: tuple[str, ...]


def read_secret(
    source: SecretSource,
    base_dir: Path,
    credentials_dir: Path | None,
    allow_inline: bool,
    *,
    uid: int,
    purpose: Purpose = PSK,
) -> Read:
    """Reads one secret; `uid` is the daemon's own. Raises `SecretError` with what to do about it."""
    problem = source_problem(source, allow_inline)
    if problem is not None:
        raise SecretError(problem)
    warnings = []
    if source.file is not None:
        octets = _read_file(base_dir / source.file, uid)
    elif source.credential is not None:
        octets = _read_credential(source.credential, credentials_dir)
    else:
        octets = (source.inline or "").encode()
        warnings.append(INLINE_WARNING)
    octets = _without_newline(octets)
    if octets.strip() and octets != octets.strip():
        warnings.append(
            f"the {purpose.name} begins or ends with white space, which counts; remove it if it is not meant"
        )
    octets = _decoded(octets, purpose)
    _check_length(octets, purpose)
    if len(octets) < purpose.recommended:
        warnings.append(f"the {purpose.name} has {len(octets)} octets; use {purpose.recommended} or more random ones")
    return Read(Secret(octets), tuple(warnings))


INLINE_WARNING = (
    "the secret stands in the configuration file itself; whoever reads that has it; prefer file or credential"
)


def source_problem(source: SecretSource, allow_inline: bool) -> str | None:
    """What is wrong with a source before anything is read."""
    given = [name for name in ("file", "credential", "inline") if getattr(source, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        return f"exactly one of file, credential or inline is needed; {found} given"
    if source.inline is not None and not allow_inline:
        return "inline secrets are off; use file or credential, or set gateway.allow_inline_secrets = true"
    if source.credential is not None and not _CREDENTIAL.fullmatch(source.credential):
        return "not the name of a credential; it has letters, digits, '_', '.' or '-' and no '/'"
    if source.file is not None and ("\0" in source.file or not source.file.strip()):
        return "not the path of a file"
    return None


def _read_file(path: Path, uid: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"{path} is not a regular file")
        if status.st_uid not in (0, uid):
            raise SecretError(f"{path} belongs to user {status.st_uid}; run: chown {uid} {path}")
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = stat.S_IMODE(status.st_mode)
            raise SecretError(f"{path} has mode {mode:04o}, others may use it; run: chmod 0600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise SecretError(f"cannot read {path}: {error.strerror}") from None


def _read_credential(name: str, credentials_dir: Path | None) -> bytes:
    if credentials_dir is None:
        hint = f"add LoadCredential={name}:PATH to the unit"
        raise NotPassed(f"credential '{name}': systemd passed no credentials; {hint}")
    try:
        return (credentials_dir / name).read_bytes()
    except OSError as error:
        hint = f"add LoadCredential={name}:PATH to the unit and restart it (credentials are fixed at start)"
        raise SecretError(f"credential '{name}': {error.strerror}; {hint}") from None


def _without_newline(octets: bytes) -> bytes:
    return octets.removesuffix(b"\n").removesuffix(b"\r")


def _decoded(octets: bytes, purpose: Purpose) -> bytes:
    prefix = octets[:2].lower() if purpose.encoded else b""
    try:
        if prefix == b"0x":
            return binascii.unhexlify(octets[2:])
        if prefix == b"0s":
            return base64.b64decode(octets[2:], validate=True)
    except binascii.Error:
        form = "hexadecimal digits" if prefix == b"0x" else "base64"
        raise SecretError(f"the {purpose.name} begins with {prefix.decode()} but is not {form}") from None
    return octets


def _check_length(octets: bytes, purpose: Purpose) -> None:
    if not octets:
        raise SecretError(f"the {purpose.name} is empty")
    if len(octets) < purpose.minimum:
        raise SecretError(f"the {purpose.name} has {len(octets)} octets; at least {purpose.minimum} are needed")
    if purpose.maximum is not None and len(octets) > purpose.maximum:
        raise SecretError(f"the {purpose.name} has {len(octets)} octets; at most {purpose.maximum} are possible")
