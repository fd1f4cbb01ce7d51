"""The encrypted way between the two gateways on which SAs are replicated: a sealed stream, without the stream.

    HELLO (in clear): "GWRS" | version (1) | nonce (32) | X25519 public key (32)
    then frames:      length (4) | AES-256-GCM of the content, with its tag of 16 octets

Each direction has a key and a salt of its own: HKDF-SHA256 (RFC 5869) of both the secret of the pair and the shared secret of X25519
(RFC 7748), over both HELLOs. So recordings are worth nothing, neither played again nor to who learns the secret later, though they
contain the keys of the tunnels. The nonce is the salt and the number of the frame (as RFC 4106 4 has it); the length is authenticated.
The first frame of each direction proves that its sender knows the secret; nothing of what it says before that is believed.
Of several secrets the first seals, and any opens, as with heartbeats (`sealed.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.contract import RandomSource

MAGIC, VERSION = b"GWRS", 1
NONCE_OCTETS = KEY_OCTETS = PUBLIC_OCTETS = 32
HELLO_OCTETS = len(MAGIC) + 1 + NONCE_OCTETS + PUBLIC_OCTETS
SALT_OCTETS, TAG_OCTETS, LENGTH_OCTETS = 4, 16, 4
LONGEST = 1 << 17
"""Octets of one content."""


class ChannelError(Exception):
    """The other end is not our other gateway, or speaks another version; str() says which."""


class _Direction:
    def __init__(self, material: bytes) -> None:
        self._aead, self._salt = AESGCM(material[:KEY_OCTETS]), material[KEY_OCTETS:]
        self._count = 0

    def seal(self, content: bytes) -> bytes:
        header = (len(content) + TAG_OCTETS).to_bytes(LENGTH_OCTETS, "big")
        sealed = self._aead.encrypt(self._nonce(), content, header)
        self._count += 1
        return header + sealed

    def open(self, header: bytes, sealed: bytes) -> bytes:
        """Raises InvalidTag."""
        content = self._aead.decrypt(self._nonce(), sealed, header)
        self._count += 1
        return content

    def _nonce(self) -> bytes:
        return self._salt + self._count.to_bytes(8, "big")


class Channel:
    """One session. `dialed`: we opened it. `cluster`: the number of the pair."""

    def __init__(self, secrets: Sequence[bytes], cluster: int, dialed: bool, random: RandomSource) -> None:
        self._secrets, self._cluster, self._dialed = secrets, cluster, dialed
        self._private = X25519PrivateKey.from_private_bytes(random.octets(KEY_OCTETS))
        public = self._private.public_key().public_bytes_raw()
        self.hello = MAGIC + bytes([VERSION]) + random.octets(NONCE_OCTETS) + public
        """To be sent before anything else."""
        self.authentic = False
        """The other end proved that it knows a secret of ours."""
        self._received = bytearray()
        self._sealing: _Direction | None = None
        self._opening: list[_Direction] = []

    @property
    def ready(self) -> bool:
        """Whether `seal` can be asked."""
        return self._sealing is not None

    def receive(self, octets: bytes) -> Iterator[bytes]:
        """The contents that are whole by now. ChannelError ends the session."""
        self._received += octets
        if self._sealing is None:
            if len(self._received) < HELLO_OCTETS:
                return
            self._derive(bytes(self._received[:HELLO_OCTETS]))
            del self._received[:HELLO_OCTETS]
        while (content := self._next()) is not None:
            yield content

    def seal(self, content: bytes) -> bytes:
        """A frame. ChannelError for what is too long."""
        if self._sealing is None or len(content) > LONGEST:
            raise ChannelError(f"{len(content)} octets are too many, or nobody is there")
        return self._sealing.seal(content)

    def _next(self) -> bytes | None:
        if len(self._received) < LENGTH_OCTETS:
            return None
        header = bytes(self._received[:LENGTH_OCTETS])
        length = int.from_bytes(header, "big")
        if not TAG_OCTETS <= length <= LONGEST + TAG_OCTETS:
            raise ChannelError(f"a frame of {length} octets")
        if len(self._received) < LENGTH_OCTETS + length:
            return None
        sealed = bytes(self._received[LENGTH_OCTETS : LENGTH_OCTETS + length])
        del self._received[: LENGTH_OCTETS + length]
        return self._open(header, sealed)

    def _open(self, header: bytes, sealed: bytes) -> bytes:
        for direction in self._opening:
            try:
                content = direction.open(header, sealed)
            except InvalidTag:
                continue
            self._opening, self.authentic = [direction], True
            return content
        raise ChannelError("the other end does not have the secret of this pair")

    def _derive(self, theirs: bytes) -> None:
        if not theirs.startswith(MAGIC):
            raise ChannelError("the other end is no gatewayd")
        if theirs[len(MAGIC)] != VERSION:
            raise ChannelError(f"the other end replicates by version {theirs[len(MAGIC)]}, this one by {VERSION}")
        if theirs == self.hello:
            raise ChannelError("the other end is a mirror")
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(theirs[-PUBLIC_OCTETS:]))
        except ValueError:
            raise ChannelError("the other end's public key is of low order") from None
        hellos = self.hello + theirs if self._dialed else theirs + self.hello
        info = self._cluster.to_bytes(4, "big") + hellos
        ours, other = (b"dialed", b"answered") if self._dialed else (b"answered", b"dialed")
        keys = [
            (_derived(secret, shared, ours + info), _derived(secret, shared, other + info)) for secret in self._secrets
        ]
        self._sealing = _Direction(keys[0][0])
        self._opening = [_Direction(opening) for _, opening in keys]


def _derived(secret: bytes, shared: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_OCTETS + SALT_OCTETS, salt=None, info=info).derive(shared + secret)
