"""The sealed datagram of the pair: what heartbeats (`message.py`) and lease messages (`lease_message.py`) travel in.

No standard: this is our own format, version 2. All integers in network byte order.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------------------------------------------------------+  0
    |               magic: "GWHB" or "GWLS"                         |
    +---------------+---------------+---------------+---------------+  4
    |     major     |     minor     |     path      |       0       |
    +---------------+---------------+---------------+---------------+  8
    |                          cluster                              |
    +---------------------------------------------------------------+  12
    |                       boot (16 octets)                        |
    +---------------------------------------------------------------+  28
    |                     sequence (8 octets)                       |
    +---------------------------------------------------------------+  36
    |  AES-256-GCM of the body, then its tag of 16 octets           |
    +---------------------------------------------------------------+

The key is one of its own for every family of messages, cluster, boot and path: HKDF-SHA256 (RFC 5869) of the shared
secret over them gives 32 octets of key and 4 of salt. The nonce is that salt and the sequence (as RFC 4106 section 4
does it for ESP), the 36 octets before the body are authenticated with it. A boot identifier is 16 random octets of one
process, and whoever sends counts the sequence in one place: so no nonce comes twice under a key. Of heartbeats that place
is not here (native/probe_beat.c): it is given key, salt and the 28 octets before the sequence.

Several secrets: what is sent is sealed with the first; what the others sealed is opened too, so that a pair changes
its secret one gateway after the other. A higher minor version has further fields at the end of the body, which are not
looked at; another major version is refused by name before anything is opened. Not here: replays. The sequence is
authentic, and `Window` says whether it is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.wire import Reader, Writer

MAJOR, MINOR = 2, 0
MAGIC_OCTETS = 4
BOOT_OCTETS = 16
HEADER_OCTETS = 36
TAG_OCTETS = 16
KEY_OCTETS, SALT_OCTETS = 32, 4
LONGEST = 512
SECRET_OCTETS = 16  # the least we accept
SECRETS = 4  # the most: each is one more attempt at whatever anybody sends
KEPT = 16  # keys of boots that proved to be authentic
WINDOW = 64
_VERSIONS = Struct(">BBBBI")


class Rejection(Enum):
    """Why a datagram was refused; the value is the `reason` label of gateway_ha_rejected_total."""

    BAD_VERSION = "bad_version"
    BAD_MAC = "bad_mac"
    REPLAY = "replay"
    UNKNOWN_BOOT = "unknown_boot"
    OWN_REFLECTION = "own_reflection"
    MALFORMED = "malformed"


class Refused(Exception):
    """The datagram is not an authentic one, or moves nothing."""

    def __init__(self, why: Rejection) -> None:
        super().__init__(why.value)
        self.why = why


class Key:
    """Key and salt of one boot and path."""

    def __init__(self, material: bytes) -> None:
        self.material = material
        reader = Reader(material)
        self._aead, self._salt = AESGCM(reader.take(KEY_OCTETS)), reader.take(SALT_OCTETS)

    def seal(self, prefix: bytes, sequence: int, body: bytes) -> bytes:
        """The datagram. The caller never gives the same sequence twice."""
        writer = Writer()
        writer.put(prefix)
        writer.u64(sequence)
        header = writer.done()
        return header + self._aead.encrypt(_nonce(self._salt, sequence), body, header)

    def open(self, header: bytes, sequence: int, sealed: bytes) -> bytes:
        """The body; raises InvalidTag."""
        return self._aead.decrypt(_nonce(self._salt, sequence), sealed, header)


@dataclass(frozen=True, slots=True)
class Opened:
    """An authentic datagram. `secret` is which of ours sealed it: 0 is the current one."""

    minor: int
    path: int
    boot: bytes
    sequence: int
    body: bytes
    secret: int


class Keyring:
    """The secrets of one cluster, for one family of messages."""

    def __init__(self, magic: bytes, secrets: Sequence[bytes], cluster: int = 0) -> None:
        if not secrets or min(map(len, secrets)) < SECRET_OCTETS:
            raise ValueError(f"the heartbeat secret must have at least {SECRET_OCTETS} octets")
        if len(secrets) > SECRETS:
            raise ValueError(f"at most {SECRETS} secrets at a time")
        self.magic, self.cluster = magic, cluster
        self._secrets = tuple(secrets)
        self._kept: dict[tuple[int, bytes, int], Key] = {}

    def seal(self, boot: bytes, path: int, sequence: int, body: bytes) -> bytes:
        """The datagram. The caller never gives the same boot, path and sequence twice."""
        return self._sealing(boot, path).seal(self.prefix(boot, path), sequence, body)

    def prefix(self, boot: bytes, path: int) -> bytes:
        """The 28 octets before the sequence."""
        writer = Writer()
        writer.put(self.magic)
        writer.pack(_VERSIONS, MAJOR, MINOR, path, 0, self.cluster)
        writer.put(boot)
        return writer.done()

    def sealing(self, boot: bytes, path: int) -> bytes:
        """Key and salt, 36 octets, with which this boot of ours seals. Whoever has it counts the sequence."""
        return self._sealing(boot, path).material

    def opening(self, boot: bytes, path: int) -> tuple[bytes, ...]:
        """Keys and salts with which a boot that proved to be authentic may seal."""
        keys = [self._key(index, boot, path) for index in range(len(self._secrets))]
        for index, key in enumerate(keys):
            self._keep(index, boot, path, key)
        return tuple(key.material for key in keys)

    def open(self, data: bytes) -> Opened:
        """Raises Refused. Nothing but magic and major version is acted on before the tag verified."""
        if not HEADER_OCTETS + TAG_OCTETS <= len(data) <= LONGEST or not data.startswith(self.magic):
            raise Refused(Rejection.MALFORMED)
        if not data.startswith(self.magic + bytes([MAJOR])):
            raise Refused(Rejection.BAD_VERSION)
        reader = Reader(data)
        header = reader.take(HEADER_OCTETS)
        fields = Reader(header)
        fields.take(MAGIC_OCTETS)
        _, minor, path, _, _ = fields.unpack(_VERSIONS)
        boot, sequence = fields.take(BOOT_OCTETS), fields.u64()
        body, secret = self._body(header, reader.rest(), boot, path, sequence)
        return Opened(minor, path, boot, sequence, body, secret)

    def _body(self, header: bytes, sealed: bytes, boot: bytes, path: int, sequence: int) -> tuple[bytes, int]:
        for index in range(len(self._secrets)):
            key = self._key(index, boot, path)
            try:
                body = key.open(header, sequence, sealed)
            except InvalidTag:
                continue
            self._keep(index, boot, path, key)
            return body, index
        raise Refused(Rejection.BAD_MAC)

    def _sealing(self, boot: bytes, path: int) -> Key:
        key = self._key(0, boot, path)
        self._keep(0, boot, path, key)
        return key

    def _key(self, index: int, boot: bytes, path: int) -> Key:
        kept = self._kept.get((index, boot, path))
        return kept if kept is not None else _derive(self._secrets[index], self.magic, self.cluster, boot, path)

    def _keep(self, index: int, boot: bytes, path: int, key: Key) -> None:
        """Only what is ours or proved to be authentic: nobody else's datagrams push a key out."""
        if (index, boot, path) not in self._kept:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[index, boot, path] = key


class Window:
    """Sequence numbers seen: the highest and the 63 below it, as RFC 4303 3.4.3 does it for ESP."""

    def __init__(self) -> None:
        self._first = self._highest = -1
        self._seen = 0

    def admit(self, sequence: int) -> bool:
        """Whether the number is new; only call it with an authentic one."""
        if self._first < 0:
            self._first, self._highest, self._seen = sequence, sequence, 1
            return True
        ahead = sequence - self._highest
        if ahead > 0:
            self._seen = (self._seen << min(ahead, WINDOW) | 1) & (1 << WINDOW) - 1
            self._highest = sequence
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW or self._seen & bit:
            return False
        self._seen |= bit
        return True

    @property
    def loss(self) -> float:
        """The share of the last numbers that never came, 0 to 1."""
        if self._first < 0:
            return 0.0
        expected = min(WINDOW, self._highest - self._first + 1)
        arrived = (self._seen & (1 << expected) - 1).bit_count()
        return 1 - arrived / expected


def _derive(secret: bytes, magic: bytes, cluster: int, boot: bytes, path: int) -> Key:
    """RFC 5869: extract and expand, SHA-256."""
    info = magic + bytes([MAJOR]) + cluster.to_bytes(4, "big") + boot + bytes([path])
    hkdf = HKDF(algorithm=SHA256(), length=KEY_OCTETS + SALT_OCTETS, salt=b"gatewayd", info=info)
    return Key(hkdf.derive(secret))


def _nonce(salt: bytes, sequence: int) -> bytes:
    return salt + sequence.to_bytes(8, "big")
