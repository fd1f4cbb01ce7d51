"""Every reader of strangers' octets as a function of octets: it may refuse by its own exception, and must keep to a law.

`TARGETS` names them with real input to begin from. Anything else that escapes, or a law that does not hold, is a defect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from fuzz.target import Target
from support.certified import START, trust
from support.esp_material import ALL_SUITES, HERE, THERE, SeededRandom, keys_for, sa_parameters, selector, udp4, udp6
from support.exabgp_model import attribute, end_of_rib, event, neighbor_row, refresh, row, state, update
from support.ike_pair import ESP_OFFERS, IKE_OFFERS, RIGHT, identity
from support.pki import EPOCH, Authority, crl_of, ocsp_of, points_to

from gateway.bfd import packet as bfd
from gateway.bgp import messages as bgp
from gateway.config.load import load_text
from gateway.esp.dataplane import Direction
from gateway.esp.packet import Drop, Opened, open_packet, seal
from gateway.esp.reference import ReferenceDataPlane
from gateway.ha import message as ha
from gateway.ha.heartbeat import Heartbeat
from gateway.ha.heartbeat import Settings as HeartbeatSettings
from gateway.ike import certificates, grammar, proposal, revocation, signatures, traffic_selector
from gateway.ike.certificate_names import describe_name, same_name
from gateway.ike.errors import PeerError
from gateway.ike.fragments import FRAGMENTS_MAX, Reassembly
from gateway.ike.keymat import IkeKeys, open_message, seal_message
from gateway.ike.layout import emit, parse
from gateway.ike.message import (
    MESSAGE_MAX,
    Header,
    emit_chain,
    emit_message,
    parse_chain,
    parse_message,
    sealed_prefix,
)
from gateway.ike.payloads import (
    Authentication,
    Certificate,
    Delete,
    Encrypted,
    EncryptedFragment,
    IdentificationInitiator,
    Nonce,
    Notify,
    SecurityAssociation,
    TrafficSelectorsInitiator,
)
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, ExchangeType, Flags, NotifyType, PrfId, Protocol
from gateway.ike.revocation import Evidence, Standing
from gateway.wire import Reader, Truncated, Writer

# --- IKE: messages --------------------------------------------------------------------------------------------------

HEADER = Header(0x1122334455667788, 0x99AABBCCDDEEFF00, ExchangeType.IKE_SA_INIT, Flags.INITIATOR, 0)
KEYS = IkeKeys.initial(Choice(EncryptionId.AES_GCM_16, 256, 0, PrfId.HMAC_SHA2_384), b"x", b"n", b"n", b"s", True)
PEERS = IkeKeys.initial(Choice(EncryptionId.AES_GCM_16, 256, 0, PrfId.HMAC_SHA2_384), b"x", b"n", b"n", b"s", False)
RICH = (
    proposal.payload(IKE_OFFERS, bytes(8)),
    Nonce(b"n" * 32),
    IdentificationInitiator(2, b"gateway.example"),
    Authentication(14, b"a" * 40),
    Notify(NotifyType.REKEY_SA, b"data", 3, b"\1\2\3\4"),
    Delete(Protocol.ESP, (b"\1\2\3\4", b"\5\6\7\x08")),
    TrafficSelectorsInitiator((traffic_selector.from_range(bytes(4), b"\xff" * 4),)),
    Certificate(4, b"der"),
)


def message(data: bytes) -> None:
    """What is read is written the same, but for what is reserved."""
    try:
        read = parse_message(data)
    except PeerError:
        return
    with suppress(PeerError):
        grammar.check_envelope(read)
        grammar.check(read)
    if not any(isinstance(one, Encrypted | EncryptedFragment) for one in read.payloads):
        assert parse_message(emit_message(read.header, read.payloads)).payloads == read.payloads


def chain(data: bytes) -> None:
    """What a peer with keys may put into SK: the first payload's type, then the chain."""
    with suppress(PeerError):
        parse_chain(data[1:], data[0] if data else 0)


def sealed(data: bytes) -> None:
    """The first octet says whether the rest is what stands in SK, or what an authentic SK holds."""
    rest = data[2:]
    if data[:1] and data[0] & 1:
        length = len(rest) + PEERS.sealing.overhead(len(rest))
        prefix = sealed_prefix(HEADER, data[1] if len(data) > 1 else 0, length)
        octets = prefix + PEERS.sealing.seal(prefix, rest, SeededRandom())
    else:
        octets = sealed_prefix(HEADER, 41, len(rest)) + rest
    with suppress(PeerError):
        open_message(KEYS, parse_message(octets))


def fragments(data: bytes) -> None:
    """Records of message ID, number, total and length, each with its piece: a bounded memory, and wholes of all pieces."""
    reader, reassembly = Reader(data), Reassembly()
    while reader.remaining >= 4:
        head = replace(HEADER, exchange=ExchangeType.IKE_AUTH, message_id=reader.u8())
        number, total, octets = reader.u8(), reader.u8(), reader.u8()
        piece = reader.take(min(octets, reader.remaining)) * (1 + 255 * (octets > 250))
        fragment = EncryptedFragment(number, total, piece, first_inner=33)
        try:
            if reassembly.wanted(head, fragment):
                whole = reassembly.add(head, fragment, piece)
                assert whole is None or (len(whole.plaintext) <= MESSAGE_MAX and not reassembly.plaintexts)
        except PeerError:
            continue
        assert reassembly.octets == sum(map(len, reassembly.plaintexts.values())) <= MESSAGE_MAX
        assert len(reassembly.plaintexts) < FRAGMENTS_MAX


def proposals(data: bytes) -> None:
    """Whatever is chosen of an offer lies inside it, and inside ours."""
    try:
        offer = parse(SecurityAssociation, Reader(data))
    except Truncated:
        return
    for protocol, ours in ((Protocol.IKE, IKE_OFFERS), (Protocol.ESP, ESP_OFFERS)):
        with suppress(PeerError):
            chosen = proposal.select(ours, offer, protocol, 20)
            assert str(proposal.choice_of(chosen)).isprintable()
            assert proposal.accept(proposal.payload(ours, chosen.spi), SecurityAssociation((chosen,))) == chosen
        with suppress(PeerError):
            proposal.accept(proposal.payload(ours, b""), offer)


def selectors(data: bytes) -> None:
    """Narrowing gives what lies inside both, and can be told to people."""
    try:
        received = parse(TrafficSelectorsInitiator, Reader(data)).selectors
    except Truncated:
        return
    with suppress(PeerError):
        grammar._check_selectors(received)
        allowed = (
            traffic_selector.from_range(bytes([10, 0, 0, 0]), bytes([10, 0, 255, 255])),
            traffic_selector.from_range(bytes(16), b"\xff" * 16),
        )
        for one in traffic_selector.narrow(received, allowed):
            assert any(traffic_selector.contains(outer, one) for outer in allowed)
            assert any(traffic_selector.contains(outer, one) for outer in received)
        assert traffic_selector.describe_all(received).isprintable()


def body(payload: object) -> bytes:
    writer = Writer()
    emit(payload, writer)
    return writer.done()


# --- IKE: certificates ----------------------------------------------------------------------------------------------


def fixed(name: str) -> Ed25519PrivateKey:
    """Its signatures are without chance: the same octets in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


ROOT = Authority("root", key=fixed("root"), serial=1)
SUB = Authority("sub", parent=ROOT, key=fixed("sub"), serial=2)
WHERE = points_to(crl=["http://ca.example/crl"], ocsp=["http://ca.example/ocsp"])
END = SUB.issue("end", key=fixed("end"), serial=3, extensions=WHERE, ip=[RIGHT], dns=["gw.example"])
SIGNED = b"what the peer should have signed"
ABILITY = signatures.PeerAbility(signatures.hashes_heard(signatures.hashes_announced()), None)


@cache
def proof() -> Authentication:
    key = signatures.SigningKey.of(END.key)
    scheme = signatures.choose(END.key.public_key(), ABILITY, pss=True, sha1=False)
    assert scheme is not None
    return signatures.sign(key, scheme, SIGNED)


def packed(*pieces: bytes) -> bytes:
    return b"".join(len(piece).to_bytes(2, "big") + piece for piece in pieces)


def pieces_of(data: bytes) -> list[bytes]:
    reader, found = Reader(data), []
    while reader.remaining >= 2 and len(found) < 40:
        found.append(reader.take(min(reader.u16(), reader.remaining)))
    return found


def shown_certificates(data: bytes) -> None:
    """AUTH (method, data), then CERT payloads (encoding, data): nobody but the one with the key is believed."""
    auth, *shown = pieces_of(data) or [b""]
    told = certificates.Shown(
        tuple(Certificate(one[0], one[1:]) for one in shown if one),
        Authentication(auth[0] if auth else 0, auth[1:]), SIGNED, ABILITY,
    )  # fmt: skip
    try:
        path = certificates.prove(told, trust(ROOT), identity(RIGHT), START)
    except PeerError:
        return
    assert path.end_entity.public_key() == END.key.public_key()
    assert path.certificates[-1] == ROOT.certificate


def names(data: bytes) -> None:
    assert describe_name(data).isprintable()
    assert same_name(data, ROOT.certificate.subject.public_bytes()) in (True, False)


def announcements(data: bytes) -> None:
    signatures.hashes_heard(data)
    signatures.methods_heard(pieces_of(data))


def evidence(is_crl: bool) -> Callable[[bytes], None]:
    def judged(data: bytes) -> None:
        """Only what the CA signed says anything: octets outside its signature may differ, what they say may not."""
        found = revocation.judge(END.certificate, SUB.certificate, [Evidence(data, is_crl)], EPOCH)
        assert found.detail.isprintable()
        assert found.standing in {Standing.UNKNOWN, _SAID[is_crl]}

    return judged


_SAID = {True: Standing.REVOKED, False: Standing.GOOD}
DELEGATE = SUB.issue(
    "responder", key=fixed("responder"), serial=4,
    extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)],
)  # fmt: skip


def crl() -> bytes:
    return crl_of(SUB, [END.certificate]).public_bytes(serialization.Encoding.DER)


def certificate_seeds() -> Sequence[bytes]:
    chain_ = [bytes([4]) + one.public_bytes(serialization.Encoding.DER) for one in (END.certificate, SUB.certificate)]
    auth = bytes([proof().method]) + proof().data
    other = Authority("other", key=fixed("other"), serial=9)
    return [
        packed(auth, *chain_), packed(auth, *reversed(chain_)), packed(auth, bytes([4]) + other.der, *chain_),
        packed(auth, bytes([7]) + crl(), *chain_, bytes([12]) + b"url"),
    ]  # fmt: skip


# --- ESP ------------------------------------------------------------------------------------------------------------

SPI, INNER = 0x1000, udp4("10.1.0.1", "10.0.0.1")


def receiving(suite_number: int) -> ReferenceDataPlane:
    plane = ReferenceDataPlane(SeededRandom())
    plane.add_connection(1, "site", 1400)
    mirrored = (selector("10.0.0.0/16", "10.1.0.0/16"), selector("fd00::/64", "fd01::/64"))
    plane.add_sa(sa_parameters(Direction.INBOUND, SPI, ALL_SUITES[suite_number % len(ALL_SUITES)], selectors=mirrored))
    return plane


def esp(data: bytes) -> None:
    """Suite, then a datagram: dropped under a name, or one packet that its SA may carry."""
    number = data[0] if data else 0
    plane = receiving(number)
    for port in (4500, 0):
        for connection, packet in plane.inbound(data[1:], HERE._replace(port=port), THERE._replace(port=port), 1.0):
            assert (connection, packet[12:20]) == (1, INNER[12:20]), "nothing but the packet of the seed has its ICV"
    assert isinstance(open_packet(keys_for(ALL_SUITES[number % len(ALL_SUITES)]), data[1:], 1), Drop | Opened)


def esp_inside(data: bytes) -> None:
    """Next header, then what an authentic packet holds: never outside its selectors, never longer than it was."""
    plane, inner = receiving(0), data[1:]
    datagram = seal(keys_for(ALL_SUITES[0]), SPI, 1, inner, data[0] if data else 59, SeededRandom())
    for _, packet in plane.inbound(datagram, HERE, THERE, 1.0):
        assert inner.startswith(packet)
        addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
        half = len(addresses) // 2
        assert addresses[:2] == b"\x0a\x01" or addresses[:4] == b"\xfd\x01\0\0"
        assert addresses[half : half + 2] == b"\x0a\0" or addresses[half : half + 4] == b"\xfd\0\0\0"
    plane.outbound(1, inner, 1.0)


# --- the other protocols --------------------------------------------------------------------------------------------


def exabgp(data: bytes) -> None:
    bgp.parse_line(data.decode("utf-8", "replace"))


HA_KEYS = ha.keyring([b"sixteen octets!!"], 7)
HEARTBEAT = ha.seal(ha.Message("gw-a", bytes(range(16)), 1, 2), HA_KEYS)


def heartbeat(data: bytes) -> None:
    """As it came, and sealed as by somebody who has the key: refused by name, and a peer only after its proof."""
    for octets in (data, HA_KEYS.seal(bytes(range(16)), 0, 1, data)):
        try:
            read = ha.open_(octets, HA_KEYS)
        except ha.Refused:
            continue
        assert read.name.isprintable()
        end = Heartbeat(HeartbeatSettings(HERE, THERE, "gw-b", b"sixteen octets!!", cluster=7), SeededRandom())
        end.receive(octets, 1.0)
        assert not end.status(1.0).peer_up
        assert len(list(end.poll())) <= 2


def bfd_packet(data: bytes) -> None:
    try:
        read = bfd.parse(data)
    except bfd.Refused:
        return
    assert bfd.parse(bfd.emit(read, b"key")) == read
    bfd.verify(data, b"key")


def bfd_seeds() -> Sequence[bytes]:
    plain = bfd.ControlPacket(
        state=bfd.State.UP, diagnostic=bfd.Diagnostic.NONE, multiplier=3, my_discriminator=1, your_discriminator=2,
        desired_min_tx=300_000, required_min_rx=300_000, required_min_echo_rx=0,
    )  # fmt: skip
    kind = int(bfd.AuthenticationType.METICULOUS_KEYED_SHA1)
    return [bfd.emit(plain), bfd.emit(replace(plain, authentication=bfd.Authentication(kind, 1, 77)), b"key")]


def configuration(data: bytes) -> None:
    """An operator's file, whatever is in it: diagnostics or a configuration."""
    found = load_text(data.decode("utf-8", "replace"))
    assert (found.config is None) == any(one.severity == "error" for one in found.diagnostics)


CONFIGURATION = b"""[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "a.psk"
remote_ts = ["172.16.0.0/16"]
ike_proposals = ["aes256gcm16-prfsha384-ecp384"]
[bgp]
local_as = 65010
router_id = "10.0.1.4"
[bgp.neighbor.edge]
address = "169.254.21.2"
remote_as = 65020
"""


def exabgp_lines() -> Sequence[bytes]:
    peer, attributes = "10.9.0.2", attribute([65010, 65098], community=[[65010, 7]])
    lines = [
        update(peer, {"10.9.0.2": ["172.16.0.0/16"]}, ["10.0.0.0/8"], attributes),
        row(peer, "172.16.0.0/16", peer, attributes), end_of_rib(peer), state(peer, "up"), refresh(peer, "request"),
        event("open", peer, {"open": {"asn": 65010, "hold_time": 30, "router_id": peer}}),
        json.dumps([neighbor_row(peer, up=True)]),
    ]  # fmt: skip
    return [line.encode() for line in lines]


TARGETS = (
    Target("message", message, lambda: [emit_message(HEADER, RICH), emit_message(HEADER, RICH[:2])]),
    Target("chain", chain, lambda: [bytes([first]) + octets for first, octets in (emit_chain(RICH), emit_chain(RICH[4:]))]),
    Target("sealed", sealed, lambda: [
        bytes([1, 33]) + emit_chain(RICH)[1],
        bytes([0, 0]) + seal_message(PEERS, HEADER, RICH, SeededRandom())[32:],
    ]),
    Target("fragments", fragments, lambda: [
        b"".join(bytes([1, number, 3, 4]) + b"piec" for number in (2, 1, 3)),
        b"".join(bytes([1, number, 255, 251]) + b"p" * 251 for number in range(1, 130)),
    ]),
    Target("proposals", proposals, lambda: [body(proposal.payload(ours, bytes(8))) for ours in (IKE_OFFERS, ESP_OFFERS)]),
    Target("selectors", selectors, lambda: [body(RICH[6])]),
    Target("certificates", shown_certificates, certificate_seeds),
    Target("names", names, lambda: [ROOT.certificate.subject.public_bytes()]),
    Target("announcements", announcements, lambda: [
        signatures.hashes_announced(), packed(signatures.methods_announced(True)), signatures.methods_announced(False),
    ]),
    Target("crl", evidence(True), lambda: [crl()]),
    Target("ocsp", evidence(False), lambda: [
        ocsp_of(SUB, END.certificate), ocsp_of(SUB, END.certificate, signer=DELEGATE, show=[DELEGATE.certificate]),
    ]),
    Target("esp", esp, lambda: [
        bytes([number]) + seal(keys_for(suite), SPI, 1, INNER, 4, SeededRandom())
        for number, suite in enumerate(ALL_SUITES)
    ]),
    Target("esp-inside", esp_inside, lambda: [b"\x04" + INNER, b"\x29" + udp6("fd01::1", "fd00::1"), b"\x3b"]),
    Target("exabgp", exabgp, exabgp_lines),
    Target("heartbeat", heartbeat, lambda: [HEARTBEAT, HA_KEYS.open(HEARTBEAT).body]),
    Target("bfd", bfd_packet, bfd_seeds),
    Target("configuration", configuration, lambda: [CONFIGURATION]),
)  # fmt: skip
