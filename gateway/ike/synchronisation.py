"""Message ID and replay counter synchronisation (RFC 6311): the other end of an IKE_SA is a cluster whose active member changed.

    the new member                                     its peer
    HDR(0), SK {N(IKEV2_MESSAGE_ID_SYNC: M1, P1),
                [N(IPSEC_REPLAY_COUNTER_SYNC)]}   -->
                        <--  HDR(0), SK {N(IKEV2_MESSAGE_ID_SYNC: P2, M2)}

M1, P1: what the member is going to send and expects next, as far as it knows; P2, M2: what its peer does, never lower. Message ID 0 is
outside every window, so a replay is told by M1 alone: what is not higher than everything seen before is dropped without a word.
This is the peer's side; `exchanges/synchronise.py` is the member's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike.errors import PeerError, Violation
from gateway.ike.events import ChildAdvance
from gateway.ike.exchanges.recovered import Recovered
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, NotifyType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

CAPABILITIES = (NotifyType.IKEV2_MESSAGE_ID_SYNC_SUPPORTED, NotifyType.IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED)
NONCE_OCTETS = 4
NOTIFY_OCTETS = NONCE_OCTETS + 8
DELTA_OCTETS = (4, 8)
LAST_ID = 0xFFFF0000
"""No message ID is moved beyond this: what comes after it still has to rekey the IKE_SA."""
DELTA_MOST = 1 << 28
"""Of 2^32 sequence numbers, over the life of a CHILD_SA. One whose peer wants more of them left out is rekeyed instead."""
ESN_DELTA_MOST = 1 << 31
"""At once, of extended ones: the receiver infers the upper half, which it cannot over a gap of 2^32 (RFC 4303 A2.2)."""


@dataclass(slots=True)
class Agreement:
    """What both said in IKE_AUTH, and the highest M1 since."""

    message_ids: bool = False
    counters: bool = False
    highest: int = -1


@dataclass(frozen=True, slots=True)
class Counters:
    """IKEV2_MESSAGE_ID_SYNC (RFC 6311 5.1): message IDs that its sender is going to send, and to expect, next."""

    nonce: bytes
    send: int
    receive: int

    def notify(self) -> Notify:
        data = self.nonce + self.send.to_bytes(4, "big") + self.receive.to_bytes(4, "big")
        return Notify(NotifyType.IKEV2_MESSAGE_ID_SYNC, data)


def offered() -> tuple[Notify, ...]:
    """For IKE_AUTH: the peer may be a cluster (RFC 6311 4)."""
    return tuple(Notify(kind) for kind in CAPABILITIES)


def heed(sa: IkeSa, message: Message) -> None:
    """The peer's word in IKE_AUTH."""
    sa.agreement = Agreement(*(message.notify(kind) is not None for kind in CAPABILITIES))


def agree(sa: IkeSa, message: Message) -> tuple[Notify, ...]:
    """The responder's word: what the initiator can, we can."""
    heed(sa, message)
    return tuple(Notify(kind) for kind in CAPABILITIES if message.notify(kind) is not None)


def counters_of(message: Message) -> Counters | None:
    """None: it is about something else, or cannot be read."""
    notify = message.notify(NotifyType.IKEV2_MESSAGE_ID_SYNC)
    if notify is None or len(notify.data) != NOTIFY_OCTETS:
        return None
    numbers = notify.data[NONCE_OCTETS:]
    return Counters(notify.data[:NONCE_OCTETS], int.from_bytes(numbers[:4], "big"), int.from_bytes(numbers[4:], "big"))


def answer(sa: IkeSa, message: Message, local: Endpoint, remote: Endpoint, now: float) -> bool:
    """Whether a sealed request was one for synchronisation; it is answered, or PeerError."""
    header = message.header
    if header.message_id or header.exchange != ExchangeType.INFORMATIONAL or message.fragment is not None:
        return False
    if not (sa.agreement.message_ids and sa.established):
        return False
    try:
        opened = sa.opened(message)
    except PeerError as error:
        if error.notify is None:
            raise
        # Authentic but malformed inside: answered as any other (RFC 7296 2.21.3)
        return False
    if opened is None:
        return False
    told = counters_of(opened)
    if told is None:
        return False
    window = sa.window
    # RFC 6311 5.1: not higher than what was seen is dropped, which is what makes a replay worthless
    if told.send <= max(window.expected - 1, sa.agreement.highest):
        raise PeerError(Violation.MESSAGE_ID, f"synchronisation to {told.send}, expected {window.expected}")
    if window.answering:
        raise PeerError(Violation.MESSAGE_ID, "synchronisation while a request is being answered")
    send, receive = max(told.receive, window.next_request), max(told.send, window.expected)
    if max(send, receive) > LAST_ID:
        raise PeerError(Violation.MESSAGE_ID, "synchronisation to the end of the message IDs")
    sa.heard(opened, local, remote, now)
    sa.agreement.highest = told.send
    pending = window.moved(send, receive)
    sa.respond_outside((Counters(told.nonce, send, receive).notify(),), now)
    _advance(sa, opened, now)
    if isinstance(sa.exchange, Recovered):
        sa.exchange.give_up(sa, now)
    elif pending is not None:
        # The member that had it is gone
        sa.request(*pending.content, now)
    sa.notice(
        "info", "ike-synchronised", f"the peer's cluster changed its member: next request {send}, from it {receive}"
    )
    return True


def _advance(sa: IkeSa, message: Message, now: float) -> None:
    """The new member does not know how far the replay windows of its inbound SAs are (RFC 6311 5.2)."""
    notify = message.notify(NotifyType.IPSEC_REPLAY_COUNTER_SYNC)
    if notify is None or not sa.agreement.counters or len(notify.data) not in DELTA_OCTETS:
        return
    delta = int.from_bytes(notify.data, "big")
    for child in (one for one in sa.children.values() if not one.left):
        fits = delta <= ESN_DELTA_MOST if child.choice.esn else child.left_out + delta <= DELTA_MOST
        if fits:
            child.left_out += delta
            sa.services.emit(ChildAdvance(sa.name, child.spi_out, delta))
        else:
            child.rekey_at = now
