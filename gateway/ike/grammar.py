"""Which payload may stand how often in which message (RFC 7296 1.2 to 1.4, 2.16, Appendix C), as tables.

Unknown payloads, vendor IDs, CERT, CERTREQ and CP are allowed anywhere, and ignored but where they have a meaning; notifications are
allowed anywhere and judged by their exchange. What is violated here is INVALID_SYNTAX.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import Message
from gateway.ike.payloads import (
    NONCE_MAX,
    NONCE_MIN,
    TS_ADDRESS_OCTETS,
    Certificate,
    CertificateRequest,
    Delete,
    Encrypted,
    EncryptedFragment,
    KeyExchange,
    Nonce,
    Notify,
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectors,
    Unknown,
    VendorId,
)
from gateway.ike.payloads import Authentication as Auth
from gateway.ike.payloads import IdentificationInitiator as IdI
from gateway.ike.payloads import IdentificationResponder as IdR
from gateway.ike.payloads import TrafficSelectorsInitiator as TsI
from gateway.ike.payloads import TrafficSelectorsResponder as TsR
from gateway.ike.registry import ExchangeType, NotifyType, Protocol, TsType


@dataclass(frozen=True, slots=True)
class Rule:
    """`minimum` is waived when the message carries an error notification."""

    minimum: int
    maximum: int


ONE, OPTIONAL, ANY = Rule(1, 1), Rule(0, 1), Rule(0, 64)
REQUEST, RESPONSE = False, True

GRAMMAR: dict[tuple[ExchangeType, bool], dict[type[Payload], Rule]] = {
    (ExchangeType.IKE_SA_INIT, REQUEST): {SecurityAssociation: ONE, KeyExchange: ONE, Nonce: ONE},
    # RFC 7296 2.6, 2.7: a COOKIE or INVALID_KE_PAYLOAD response carries nothing else
    (ExchangeType.IKE_SA_INIT, RESPONSE): {SecurityAssociation: OPTIONAL, KeyExchange: OPTIONAL, Nonce: OPTIONAL},
    # RFC 9593 3.1: without KE, and perhaps with identities, it asks for the methods of authentication that were put off
    (ExchangeType.IKE_INTERMEDIATE, REQUEST): {KeyExchange: OPTIONAL, IdI: OPTIONAL, IdR: OPTIONAL},
    (ExchangeType.IKE_INTERMEDIATE, RESPONSE): {KeyExchange: OPTIONAL},
    (ExchangeType.IKE_FOLLOWUP_KE, REQUEST): {KeyExchange: ONE},
    (ExchangeType.IKE_FOLLOWUP_KE, RESPONSE): {KeyExchange: ONE},
    (ExchangeType.IKE_AUTH, REQUEST): {
        IdI: ONE,
        IdR: OPTIONAL,
        Auth: ONE,
        SecurityAssociation: OPTIONAL,
        TsI: OPTIONAL,
        TsR: OPTIONAL,
    },
    (ExchangeType.IKE_AUTH, RESPONSE): {
        IdR: ONE,
        Auth: ONE,
        SecurityAssociation: OPTIONAL,
        TsI: OPTIONAL,
        TsR: OPTIONAL,
    },
    (ExchangeType.CREATE_CHILD_SA, REQUEST): {
        SecurityAssociation: ONE,
        Nonce: ONE,
        KeyExchange: OPTIONAL,
        TsI: OPTIONAL,
        TsR: OPTIONAL,
    },
    (ExchangeType.CREATE_CHILD_SA, RESPONSE): {
        SecurityAssociation: ONE,
        Nonce: ONE,
        KeyExchange: OPTIONAL,
        TsI: OPTIONAL,
        TsR: OPTIONAL,
    },
    (ExchangeType.INFORMATIONAL, REQUEST): {Delete: ANY},
    (ExchangeType.INFORMATIONAL, RESPONSE): {Delete: ANY},
}
ALWAYS_ALLOWED = (Notify, VendorId, Unknown, Certificate, CertificateRequest)
ENCRYPTED_EXCHANGES = frozenset(ExchangeType) - {ExchangeType.IKE_SA_INIT}


def check_envelope(message: Message) -> None:
    """RFC 7296 1.2: IKE_SA_INIT travels in clear, everything else inside SK."""
    sealed = message.encrypted is not None or message.fragment is not None
    if sealed != (message.header.exchange in ENCRYPTED_EXCHANGES):
        raise PeerError(Violation.GRAMMAR, f"{message.header.exchange.name} {'sealed' if sealed else 'in clear'}")


def check(message: Message) -> None:
    """Counts and content of a message in clear or already opened; PeerError INVALID_SYNTAX."""
    header = message.header
    rules = GRAMMAR.get((header.exchange, header.is_response))
    if rules is None:
        raise _violation(f"exchange {header.exchange.name}")
    counts: dict[type[Payload], int] = {}
    for payload in message.payloads:
        if isinstance(payload, ALWAYS_ALLOWED):
            continue
        counts[type(payload)] = counts.get(type(payload), 0) + 1
        _check_content(payload)
    excused = message.error() is not None and header.is_response
    for kind, count in counts.items():
        rule = rules.get(kind)
        if rule is None or count > rule.maximum:
            raise _violation(f"{count} {kind.__name__} in {header.exchange.name}")
    for kind, rule in rules.items():
        if not excused and counts.get(kind, 0) < rule.minimum:
            raise _violation(f"no {kind.__name__} in {header.exchange.name}")


def _violation(detail: str) -> PeerError:
    return PeerError(Violation.GRAMMAR, detail, NotifyType.INVALID_SYNTAX)


def _check_content(payload: Payload) -> None:
    match payload:
        case Nonce(data) if not NONCE_MIN <= len(data) <= NONCE_MAX:
            # RFC 7296 3.9
            raise PeerError(Violation.BAD_NONCE, f"nonce of {len(data)} octets", NotifyType.INVALID_SYNTAX)
        case TrafficSelectors(selectors):
            _check_selectors(selectors)
        case SecurityAssociation(proposals):
            _check_proposals(proposals)
        case Encrypted() | EncryptedFragment():
            raise _violation("SK inside SK")
        case _:
            return


def _check_selectors(selectors: tuple[TrafficSelector, ...]) -> None:
    if not selectors:
        raise _violation("no traffic selectors")
    for selector in selectors:
        octets = TS_ADDRESS_OCTETS.get(TsType(selector.type))
        # RFC 7296 3.13.1: unknown types are skipped later, known ones must have their length
        if octets is not None and len(selector.addresses) != 2 * octets:
            raise _violation(f"traffic selector with {len(selector.addresses)} address octets")


def _check_proposals(proposals: tuple[Proposal, ...]) -> None:
    if not proposals:
        raise _violation("no proposals")
    for index, proposal in enumerate(proposals):
        # RFC 7296 3.3.1: SPI sizes are fixed by the protocol
        allowed = {Protocol.IKE: (0, 8), Protocol.ESP: (4,), Protocol.AH: (4,)}.get(Protocol(proposal.protocol))
        if allowed is not None and len(proposal.spi) not in allowed:
            raise _violation(f"proposal {index + 1} with an SPI of {len(proposal.spi)} octets")
        if not proposal.transforms:
            raise _violation(f"proposal {index + 1} without transforms")
