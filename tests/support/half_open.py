"""IKE_SA_INIT requests of somebody who never goes on: they leave half-open IKE_SAs behind (RFC 7296 2.6)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from support.netns import Namespace
from support.process import wait_until

from gateway.ike.message import Header, emit_message
from gateway.ike.payloads import KeyExchange, Nonce, Proposal, SecurityAssociation, Transform
from gateway.ike.registry import (
    EncryptionId,
    ExchangeType,
    Flags,
    KeyExchangeId,
    PrfId,
    Protocol,
    TransformType,
)

PROPOSAL = "aes256gcm16-prfsha384-x25519"
"""What they offer, as it is configured."""
_SENDER = """
import socket, sys
source, target = sys.argv[1:3]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.bind((source, 0))
    for line in sys.stdin:
        sender.sendto(bytes.fromhex(line), (target, 500))
"""


def leave_half_open(machine: Namespace, source: str, target: str, count: int, left: Callable[[], int]) -> None:
    """`count` IKE_SAs that `left` sees, each of an initiator of its own; answers are not awaited.

    Who is behind with his work drops a request of a stranger, and nobody repeats it: what is missing is sent again.
    """

    def all_there() -> bool:
        missing = count - left()
        if missing > 0:
            lines = "\n".join(request().hex() for _ in range(missing))
            machine.run(sys.executable, "-S", "-E", "-c", _SENDER, source, target, stdin=lines)
        return missing <= 0

    wait_until(all_there, 10, f"{count} half-open IKE_SAs at {target}", interval=0.5)


def request() -> bytes:
    """An IKE_SA_INIT that ends in its KE value, the header of its nonce, and the nonce."""
    transforms = (
        Transform.make(TransformType.ENCRYPTION, EncryptionId.AES_GCM_16, 256),
        Transform(TransformType.PRF, PrfId.HMAC_SHA2_384),
        Transform(TransformType.KEY_EXCHANGE, KeyExchangeId.CURVE25519),
    )
    header = Header(int.from_bytes(os.urandom(8)), 0, ExchangeType.IKE_SA_INIT, Flags.INITIATOR, 0)
    payloads = (
        SecurityAssociation((Proposal(1, Protocol.IKE, b"", transforms),)),
        KeyExchange(KeyExchangeId.CURVE25519, os.urandom(32)),
        Nonce(os.urandom(32)),
    )
    return emit_message(header, payloads)
