"""Many initiators in one process: `python -m benchmarks.ike_load SPEC SECONDS [PATIENCE]`.

    IKE_SA_INIT  -->  <--  IKE_AUTH with the first CHILD_SA  -->  <--      and again, with INITIAL_CONTACT, from each address

They set up IKE_SAs as fast as the responder answers. Not an implementation of IKEv2: it says always the same (octets made once by the codecs, what changes is put in their place) and
reads of the answers what it needs for the keys. What comes back is opened and its AUTH checked, so that what is counted is an
IKE_SA. One key pair serves all of them: the responder's work is the same, and the generator must not be what is measured.
Prints one object: set-ups, seconds, its own CPU seconds, what had to be repeated.
"""

from __future__ import annotations

import hmac
import json
import os
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from gateway.ike import traffic_selector
from gateway.ike.authentication import identity_octets, psk_signature
from gateway.ike.certificates import key_hash
from gateway.ike.keymat import IkeKeys
from gateway.ike.message import Header, emit_chain, emit_message, parse_message, sealed_prefix
from gateway.ike.payloads import (
    Certificate,
    CertificateRequest,
    IdentificationInitiator,
    IdentificationResponder,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
    Transform,
)
from gateway.ike.proposal import Choice
from gateway.ike.registry import (
    AuthMethod,
    EncryptionId,
    EsnId,
    ExchangeType,
    Flags,
    HashAlgorithm,
    IdType,
    KeyExchangeId,
    NotifyType,
    PayloadType,
    PrfId,
    Protocol,
    TransformType,
)
from gateway.runtime.randomness import SystemRandom

SUITE = Choice(EncryptionId.AES_GCM_16, 128, 0, PrfId.HMAC_SHA2_256, KeyExchangeId.CURVE25519)
NONCE_OCTETS, KE_OCTETS, SPI_OCTETS = 32, 32, 8
HEADER_OCTETS, PAYLOAD_OCTETS = 28, 4
MARKER = bytes(4)
PATIENCE = 1.0
"""Seconds until what was not answered is sent again."""
ECDSA_SHA256 = bytes.fromhex("0c300a06082a8648ce3d040302")  # RFC 7427 A.3.2, with its length
_ESP_SPI = bytes.fromhex("f1a2b3c4")
"""Where an SPI of ours goes in what is made once."""
_RANDOM = SystemRandom()
_KEY = x25519.X25519PrivateKey.generate()


@dataclass(frozen=True, slots=True)
class Identity:
    """What one initiator is and what it knows. Without a `key` both ends have the `psk`."""

    address: str
    target: str
    name: str
    responder: str
    local_net: tuple[str, str]
    remote_net: tuple[str, str]
    psk: bytes = b""
    key: ec.EllipticCurvePrivateKey | None = None
    certificate: bytes = b""
    authority: bytes = b""  # hash of its key

    @property
    def id_payload(self) -> IdentificationInitiator:
        return IdentificationInitiator(IdType.FQDN, self.name.encode())


@dataclass(slots=True)
class Tally:
    """What came of it."""

    until: float
    setups: int = 0
    sent_again: int = 0
    cookies: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)


class Initiator:
    """One address; one IKE_SA at a time."""

    def __init__(self, identity: Identity, tally: Tally) -> None:
        self.identity, self.tally = identity, tally
        self.sockets = {port: _bound(identity.address, port) for port in (500, 4500)}
        self._init = _init_octets(identity)
        self._first, self._chain = _auth_chain(identity)
        self._spi_at = self._chain.index(_ESP_SPI)
        self._esp_spi = 0x01000000 + int.from_bytes(os.urandom(3), "big")
        self._init_sent = self._sent = b""
        self._port = 500
        self._keys: IkeKeys | None = None
        self._response = self._nonce = self._peer_nonce = b""
        self._peer_key: Any = None
        self.begun_at = self.sent_at = 0.0

    def begin(self, now: float) -> None:
        """A new IKE_SA, unless it is over."""
        self._keys = None
        self.begun_at = now if now < self.tally.until or not self._init_sent else 0.0
        if not self.under_way:
            return
        self._nonce = os.urandom(NONCE_OCTETS)
        self._init_sent = os.urandom(SPI_OCTETS) + self._init[SPI_OCTETS:-NONCE_OCTETS] + self._nonce
        self._send(self._init_sent, 500, now)

    def again(self, now: float) -> None:
        """No answer: once more."""
        self.tally.sent_again += 1
        self._send(self._sent, self._port, now)

    def received(self, port: int, now: float) -> None:
        """Something to be read on one of the sockets."""
        try:
            data = self.sockets[port].recv(65535)
        except BlockingIOError:
            return
        if port == 4500:
            data = data[len(MARKER) :]
        if not self.under_way or data[:SPI_OCTETS] != self._init_sent[:SPI_OCTETS] or not data[19] & Flags.RESPONSE:
            return
        if data[18] == ExchangeType.IKE_SA_INIT and self._keys is None:
            self._answered_init(data, now)
        elif data[18] == ExchangeType.IKE_AUTH and self._keys is not None:
            self._answered_auth(data, now)

    def _send(self, data: bytes, port: int, now: float) -> None:
        self._sent, self._port, self.sent_at = data, port, now
        octets = MARKER + data if port == 4500 else data
        self.sockets[port].sendto(octets, (self.identity.target, port))

    def _answered_init(self, data: bytes, now: float) -> None:
        found = dict(_payloads(data[HEADER_OCTETS:], data[16]))
        if PayloadType.KE not in found:
            self._refused(data, now)
            return
        public, peer_nonce = found[PayloadType.KE][4:], found[PayloadType.NONCE]
        self._response, self._peer_nonce = data, peer_nonce
        shared = _KEY.exchange(x25519.X25519PublicKey.from_public_bytes(public))
        keys = self._keys = IkeKeys.initial(SUITE, shared, self._nonce, peer_nonce, data[: 2 * SPI_OCTETS], True)
        self._esp_spi += 1
        plaintext = b"".join(
            (self._chain[: self._spi_at], self._esp_spi.to_bytes(4, "big"), self._chain[self._spi_at + 4 :])
        ) + self._auth(keys)
        octets = len(plaintext) + keys.sealing.overhead(len(plaintext))
        spis = (int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big"))
        prefix = sealed_prefix(Header(*spis, ExchangeType.IKE_AUTH, Flags.INITIATOR, 1), self._first, octets)
        self._send(prefix + keys.sealing.seal(prefix, plaintext, _RANDOM), 4500, now)

    def _auth(self, keys: IkeKeys) -> bytes:
        """The last payload of the chain."""
        identity = self.identity
        if identity.key is None:
            auth = psk_signature(
                keys, identity.psk, self._init_sent, self._peer_nonce, identity.id_payload, of_initiator=True
            )
            method, data = auth.method, auth.data
        else:
            octets = keys.signed_octets(self._init_sent, self._peer_nonce, identity_octets(identity.id_payload), True)
            method = int(AuthMethod.DIGITAL_SIGNATURE)
            data = ECDSA_SHA256 + identity.key.sign(octets, ec.ECDSA(hashes.SHA256()))
        length = PAYLOAD_OCTETS + 4 + len(data)
        return bytes([0, 0]) + length.to_bytes(2, "big") + bytes([method, 0, 0, 0]) + data

    def _answered_auth(self, data: bytes, now: float) -> None:
        keys = self._keys
        assert keys is not None
        prefix = data[: HEADER_OCTETS + PAYLOAD_OCTETS]
        plaintext = keys.opening.open(prefix, data[len(prefix) :])
        found = dict(_payloads(plaintext, data[HEADER_OCTETS]))
        if PayloadType.AUTH not in found or PayloadType.SA not in found or not self._authentic(keys, found):
            self.tally.refused["IKE_AUTH"] += 1
        else:
            self.tally.setups += 1
            self.tally.times.append(now - self.begun_at)
        self.begin(now)

    @property
    def under_way(self) -> bool:
        return self.begun_at > 0.0

    def _authentic(self, keys: IkeKeys, found: dict[int, bytes]) -> bool:
        shown = IdentificationResponder(found[PayloadType.IDR][0], found[PayloadType.IDR][4:])
        data = found[PayloadType.AUTH][4:]
        if self.identity.key is None:
            wanted = psk_signature(keys, self.identity.psk, self._response, self._nonce, shown, of_initiator=False)
            return hmac.compare_digest(wanted.data, data)
        if self._peer_key is not None:
            return True  # of a certificate the first one is verified: that costs more than all the rest
        self._peer_key = x509.load_der_x509_certificate(found[PayloadType.CERT][1:]).public_key()
        octets = keys.signed_octets(self._response, self._nonce, identity_octets(shown), of_initiator=False)
        assert data.startswith(ECDSA_SHA256)
        self._peer_key.verify(data[len(ECDSA_SHA256) :], octets, ec.ECDSA(hashes.SHA256()))
        return True

    def _refused(self, data: bytes, now: float) -> None:
        """Shows a cookie at once; else it is sent again after a while, and the reason is counted."""
        answer = parse_message(data)
        cookie, error = answer.notify(NotifyType.COOKIE), answer.error()
        if cookie is not None:
            # RFC 7296 2.6: the cookie first, all else unchanged
            _, chain = emit_chain((cookie,))
            sent = self._init_sent
            chain = sent[16:17] + chain[1:]
            head = sent[:16] + bytes([PayloadType.NOTIFY]) + sent[17:24]
            length = (len(sent) + len(chain)).to_bytes(4, "big")
            self.tally.cookies += 1
            self._init_sent = head + length + chain + sent[HEADER_OCTETS:]
            self._send(self._init_sent, 500, now)
            return
        self.tally.refused[error.name if error is not None else "IKE_SA_INIT"] += 1


def load(identities: list[Identity], seconds: float, patience: float = 3 * PATIENCE) -> dict[str, Any]:
    """All of them at once, for so long, each at least once; what is under way then gets so much more time."""
    cpu, begun = time.process_time(), time.monotonic()
    tally = Tally(begun + seconds)
    poll = select.epoll()
    readers = {}
    initiators = [Initiator(one, tally) for one in identities]
    for initiator in initiators:
        for port, one in initiator.sockets.items():
            readers[one.fileno()] = (initiator, port)
            poll.register(one.fileno(), select.EPOLLIN)
    for initiator in initiators:
        initiator.begin(begun)
    look_at = begun + PATIENCE / 4
    now = begun
    # No half-open IKE_SA is left behind: the responder would ask the next initiators for cookies
    while any(initiator.under_way for initiator in initiators) and now < tally.until + patience:
        for fd, _ in poll.poll(0.1):
            initiator, port = readers[fd]
            initiator.received(port, time.monotonic())
        now = time.monotonic()
        if now >= look_at:
            look_at = now + PATIENCE / 4
            for initiator in initiators:
                if initiator.under_way and now - initiator.sent_at > PATIENCE:
                    initiator.again(now)
    times = sorted(tally.times) or [0.0]
    return {
        "setups": tally.setups,
        "seconds": now - begun,
        "cpu": time.process_time() - cpu,
        "sent_again": tally.sent_again,
        "cookies": tally.cookies,
        "refused": dict(tally.refused),
        "p50_ms": times[len(times) // 2] * 1000,
        "p99_ms": times[len(times) * 99 // 100] * 1000,
    }


def _payloads(chain: bytes, first: int) -> list[tuple[int, bytes]]:
    """Type and body of each; a second one of a type takes the first one's place."""
    found, kind, at = [], first, 0
    while kind and at < len(chain):
        following, length = chain[at], int.from_bytes(chain[at + 2 : at + 4], "big")
        found.append((kind, chain[at + PAYLOAD_OCTETS : at + length]))
        kind, at = following, at + length
    return found


def _init_octets(identity: Identity) -> bytes:
    """An IKE_SA_INIT whose first octets are the SPI and whose last ones the nonce. The NAT detection hashes fit
    nothing, so ESP goes in UDP."""
    transforms = (
        Transform.make(TransformType.ENCRYPTION, EncryptionId.AES_GCM_16, 128),
        Transform(TransformType.PRF, PrfId.HMAC_SHA2_256),
        Transform(TransformType.KEY_EXCHANGE, KeyExchangeId.CURVE25519),
    )
    said: list[Payload] = [
        SecurityAssociation((Proposal(1, Protocol.IKE, b"", transforms),)),
        KeyExchange(KeyExchangeId.CURVE25519, _KEY.public_key().public_bytes_raw()),
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, os.urandom(20)),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, os.urandom(20)),
    ]
    if identity.key is not None:
        # RFC 7427 4
        said.append(Notify(NotifyType.SIGNATURE_HASH_ALGORITHMS, int(HashAlgorithm.SHA2_256).to_bytes(2, "big")))
    header = Header(1, 0, ExchangeType.IKE_SA_INIT, Flags.INITIATOR, 0)
    return emit_message(header, (*said, Nonce(bytes(NONCE_OCTETS))))


def _auth_chain(identity: Identity) -> tuple[int, bytes]:
    """All of IKE_AUTH but the AUTH payload, which comes after it."""
    first, chain = emit_chain(_auth_payloads(identity))
    at = len(chain) - len(_payloads(chain, first)[-1][1]) - PAYLOAD_OCTETS
    return first, chain[:at] + bytes([PayloadType.AUTH]) + chain[at + 1 :]


def _auth_payloads(identity: Identity) -> tuple[Payload, ...]:
    esp = (
        Transform.make(TransformType.ENCRYPTION, EncryptionId.AES_GCM_16, 128),
        Transform(TransformType.ESN, EsnId.NO_ESN),
    )
    shown: tuple[Payload, ...] = ()
    if identity.key is not None:
        shown = (Certificate(4, identity.certificate), CertificateRequest(4, identity.authority))
    return (
        identity.id_payload,
        *shown,
        IdentificationResponder(IdType.FQDN, identity.responder.encode()),
        Notify(NotifyType.INITIAL_CONTACT),
        SecurityAssociation((Proposal(1, Protocol.ESP, _ESP_SPI, esp),)),
        TrafficSelectorsInitiator((_range(identity.local_net),)),
        TrafficSelectorsResponder((_range(identity.remote_net),)),
    )


def _range(net: tuple[str, str]) -> TrafficSelector:
    return traffic_selector.from_range(*map(socket.inet_aton, net))


def _bound(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind((address, port))
    return made


def _identity(one: dict[str, Any]) -> Identity:
    """As the specification has it."""
    psk = one.get("psk", "").encode()
    names = (one["address"], one["target"], one["name"], one["responder"])
    nets = (tuple(one["local_net"]), tuple(one["remote_net"]))
    if psk:
        return Identity(*names, *nets, psk)
    key = serialization.load_pem_private_key(one["key"].encode(), None)
    certificate = x509.load_pem_x509_certificate(one["certificate"].encode())
    authority = x509.load_pem_x509_certificate(one["authority"].encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Identity(*names, *nets, b"", key, certificate.public_bytes(serialization.Encoding.DER), key_hash(authority))


if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text())
    sys.stdout.write(json.dumps(load([_identity(one) for one in wanted], *map(float, sys.argv[2:]))))
