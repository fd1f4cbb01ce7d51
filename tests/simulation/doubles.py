"""What the simulator puts in the place of the machine: randomness from a seed, and a key exchange that costs nothing."""

from __future__ import annotations

import hashlib
import random

from gateway.ike.key_exchange import ANSWER_OCTETS, PUBLIC_OCTETS, KeyPair


class SeededRandom:
    """`gateway.contract.RandomSource`."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class CheapKeyExchanges:
    """`gateway.ike.key_exchange.KeyExchanges` without public-key work: both ends hash both public values.

    No secret at all, but what matters here: another public value on either side gives another shared one.
    """

    def generate(self, method: int, seed: bytes) -> KeyPair:
        public = hashlib.shake_128(method.to_bytes(2, "big") + seed).digest(PUBLIC_OCTETS[method])
        return KeyPair(method, public, None)

    def answer(self, method: int, peer_public: bytes, seed: bytes) -> tuple[bytes, bytes]:
        public = hashlib.shake_128(method.to_bytes(2, "big") + seed).digest(ANSWER_OCTETS[method])
        return public, self.agree(KeyPair(method, public, None), peer_public)

    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes:
        return hashlib.sha256(b"".join(sorted((pair.public, peer_public)))).digest()
