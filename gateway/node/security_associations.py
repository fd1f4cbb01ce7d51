"""From a negotiated CHILD_SA to what the data plane is told (RFC 4301 4.4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, Encryption, Integrity, Limits, SaParameters, Selector, Suite
from gateway.ike.events import ChildInstall
from gateway.ike.payloads import TrafficSelector
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, IntegrityId
from gateway.ike.settings import IKE_PORT, NATT_PORT

ENCRYPTION = {
    EncryptionId.AES_GCM_16: Encryption.AES_GCM_16,
    EncryptionId.AES_GCM_12: Encryption.AES_GCM_12,
    EncryptionId.AES_GCM_8: Encryption.AES_GCM_8,
    EncryptionId.CHACHA20_POLY1305: Encryption.CHACHA20_POLY1305,
    EncryptionId.AES_CBC: Encryption.AES_CBC,
}
INTEGRITY = {
    IntegrityId.NONE: Integrity.NONE,
    IntegrityId.HMAC_SHA1_96: Integrity.HMAC_SHA1_96,
    IntegrityId.HMAC_SHA2_256_128: Integrity.HMAC_SHA2_256_128,
    IntegrityId.HMAC_SHA2_384_192: Integrity.HMAC_SHA2_384_192,
    IntegrityId.HMAC_SHA2_512_256: Integrity.HMAC_SHA2_512_256,
}
SEQUENCE_MAX = 2**32 - 1  # RFC 4303 2.2: never cycles
ESN_SEQUENCE_MAX = 2**64 - 1


def suite(choice: Choice) -> Suite:
    return Suite(
        ENCRYPTION[EncryptionId(choice.encryption)],
        choice.key_octets,
        INTEGRITY[IntegrityId(choice.integrity)],
        bool(choice.esn),
    )


def suite_text(choice: Choice) -> str:
    """`AES_GCM_16-256/ESN` as the CLI shows it."""
    return str(replace(choice, key_exchange=0))


def sequence_limit(choice: Choice) -> int:
    return ESN_SEQUENCE_MAX if choice.esn else SEQUENCE_MAX


def selectors(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> tuple[Selector, ...]:
    """Every pair of one family and one protocol."""
    return tuple(_pairs(local, remote))


def _pairs(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> Iterator[Selector]:
    for ours in local:
        for theirs in remote:
            protocols = {ours.protocol, theirs.protocol} - {0}
            if ours.type == theirs.type and len(protocols) <= 1:
                yield Selector(
                    max(protocols, default=0),
                    ours.first, ours.last, ours.start_port, ours.end_port,
                    theirs.first, theirs.last, theirs.start_port, theirs.end_port,
                )  # fmt: skip


def parameters(
    event: ChildInstall, connection: int, limits: Limits, replay_window: int
) -> tuple[SaParameters, SaParameters]:
    """Inbound first: it must stand before the peer may send."""
    local, remote = (natt(event.local), natt(event.remote)) if event.encapsulate else (event.local, event.remote)
    inbound = SaParameters(
        direction=Direction.INBOUND,
        spi=event.spi_in,
        connection=connection,
        suite=suite(event.choice),
        encryption_key=event.encryption_key_in,
        integrity_key=event.integrity_key_in,
        local=local,
        remote=remote,
        selectors=selectors(event.local_ts, event.remote_ts),
        encapsulate=event.encapsulate,
        replay_window=replay_window,
        limits=limits,
    )
    outbound = replace(
        inbound,
        direction=Direction.OUTBOUND,
        spi=event.spi_out,
        encryption_key=event.encryption_key_out,
        integrity_key=event.integrity_key_out,
        local=local if event.encapsulate else Endpoint(local.host, 0),
        remote=remote if event.encapsulate else Endpoint(remote.host, 0),
        worker=event.resource,
    )
    return inbound, outbound


def natt(endpoint: Endpoint) -> Endpoint:
    """RFC 3948 2: ESP in UDP goes between the ports 4500, also where IKE stayed on 500."""
    return Endpoint(endpoint.host, NATT_PORT) if endpoint.port == IKE_PORT else endpoint
