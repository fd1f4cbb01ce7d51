"""Answers in clear: to who shares no keys with us, no longer than what was asked, once for each request (RFC 7296 2.5, 2.6, 2.7)."""

from __future__ import annotations

from gateway.contract import Endpoint, Transmit
from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import Header, emit_message, header_of
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, Flags, NotifyType
from gateway.ike.sa import NON_ESP_MARKER
from gateway.ike.settings import NATT_PORT

ANSWERED_MIN = 40
"""Octets of a request below which an answer in clear would be longer than it."""


def answer(header: Header, local: Endpoint, remote: Endpoint, notifies: tuple[Notify, ...]) -> Transmit:
    """To a message with that header."""
    flags = Flags.RESPONSE if header.from_original_initiator else Flags.RESPONSE | Flags.INITIATOR
    answered = Header(header.initiator_spi, header.responder_spi, header.exchange, flags, header.message_id)
    octets = emit_message(answered, notifies)
    return Transmit(NON_ESP_MARKER + octets if local.port == NATT_PORT else octets, local, remote)


def worth_an_answer(data: bytes, notify: NotifyType | None) -> Header | None:
    """RFC 7296 2.5: the header of a message that could not be read, if its sender may be told why."""
    if len(data) < ANSWERED_MIN:
        return None
    header = header_of(data)
    if notify == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD:
        told = header.exchange == ExchangeType.IKE_SA_INIT and not header.is_response
    else:
        told = notify == NotifyType.INVALID_MAJOR_VERSION and not header.is_response
    return header if told else None


def unknown(header: Header) -> PeerError:
    """For a message of an IKE_SA that is none of ours."""
    return PeerError(Violation.UNKNOWN_SPI, f"{header.exchange.name} for {header.receiver_spi:016x}")
