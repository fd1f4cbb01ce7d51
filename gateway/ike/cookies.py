"""Cookies as responder (RFC 7296 2.6): an initiator shows that it receives at the address it writes from.

    cookie = version of the secret (4 octets) | HMAC-SHA256(secret, Ni | address | SPIi), 16 octets

Nothing is stored for it. The secret changes; one made with the secret before it is still good.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from gateway.contract import Endpoint, RandomSource

HALF_OPEN_FREE = 64
"""Half-open IKE_SAs as responder up to which nobody is asked for a cookie."""
SECRET_LIFE = 60.0
"""Seconds; a cookie is good for one to two of these."""
SECRET_OCTETS, DIGEST_OCTETS = 32, 16


class Cookies:
    """Makes and checks them."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._secrets: dict[int, bytes] = {}
        self._version = 0
        self._renew_at = 0.0

    def make(self, nonce: bytes, initiator_spi: int, remote: Endpoint, now: float) -> bytes:
        if now >= self._renew_at:
            before = self._secrets.get(self._version)
            # Not used for more than a life: what was made with it is older than two
            kept = {self._version: before} if before is not None and now < self._renew_at + SECRET_LIFE else {}
            self._version += 1
            self._secrets = {**kept, self._version: self._random.octets(SECRET_OCTETS)}
            self._renew_at = now + SECRET_LIFE
        return self._made(self._version, nonce, initiator_spi, remote)

    def good(self, cookie: bytes, nonce: bytes, initiator_spi: int, remote: Endpoint, now: float) -> bool:
        version = int.from_bytes(cookie[:4], "big")
        # The one before is good for a life after its successor came, the current one for two after it came itself
        until = self._renew_at if version < self._version else self._renew_at + SECRET_LIFE
        if version not in self._secrets or now >= until:
            return False
        return hmac.compare_digest(cookie, self._made(version, nonce, initiator_spi, remote))

    def _made(self, version: int, nonce: bytes, initiator_spi: int, remote: Endpoint) -> bytes:
        text = b"|".join((nonce, remote.host.encode(), initiator_spi.to_bytes(8, "big")))
        return version.to_bytes(4, "big") + hmac.digest(self._secrets[version], text, sha256)[:DIGEST_OCTETS]
