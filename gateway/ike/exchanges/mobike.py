"""MOBIKE (RFC 4555), as responder: the peer may change its address or port, and its traffic follows once it proved to be there.

    HDR, SK {N(UPDATE_SA_ADDRESSES), N(NATD_S), N(NATD_D)}  -->                  from its new address
                              <--  HDR, SK {N(NATD_S), N(NATD_D)}
                              <--  HDR, SK {N(COOKIE2)}                          return routability
    HDR, SK {N(COOKIE2)}  -->                                                    and only now ESP goes there

Not here: changes of our own address. Whether MOBIKE is on or not, an INFORMATIONAL with NAT detection is answered with ours.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike import nat, succession
from gateway.ike.exchanges.base import Exchange
from gateway.ike.exchanges.delete import DeleteIke
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, NotifyType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

COOKIE_OCTETS = 32
COOKIE_MIN, COOKIE_MAX = 8, 64  # RFC 4555 4.2.5


def agree(sa: IkeSa, message: Message) -> tuple[Notify, ...]:
    """RFC 4555 3.2: into our answer to the IKE_AUTH of a peer that asks for it."""
    sa.mobike = sa.settings.mobike and message.notify(NotifyType.MOBIKE_SUPPORTED) is not None
    return (Notify(NotifyType.MOBIKE_SUPPORTED),) if sa.mobike else ()


def answer(sa: IkeSa, message: Message) -> tuple[Notify, ...]:
    """What of an INFORMATIONAL's notifications wants an answer, and that. Moves the IKE_SA, but not its CHILD_SAs."""
    local, remote = sa.asked_at
    cookie, echoed = message.notify(NotifyType.COOKIE2), []
    if cookie is not None and sa.mobike and COOKIE_MIN <= len(cookie.data) <= COOKIE_MAX:
        # RFC 4555 3.7
        echoed.append(Notify(NotifyType.COOKIE2, cookie.data))
    if wants_move(sa, message):
        if refusal := _refusal(sa, message, local, remote):
            return (Notify(refusal), *echoed)
        # RFC 4555 3.7: traffic, that of CHILD_SAs made meanwhile too, stays where the peer is known to receive
        sa.traffic_remote = sa.traffic_remote or sa.remote
        if isinstance(sa.exchange, CheckAddress):
            # Its question may be repeated to another address than it was asked of, so its answer says nothing now
            sa.exchange.remote = Endpoint("", 0)
        sa.local, sa.remote = local, remote
        sa.nat = nat.detect(message, local, remote)
    if nat.detect(message, local, remote).supported:
        pretended = sa.services.random.octets(20) if sa.settings.encap else None
        echoed += nat.notifications(sa.initiator_spi, sa.responder_spi, local, remote, pretended)
    return tuple(echoed)


def wants_move(sa: IkeSa, message: Message) -> bool:
    """RFC 4555 3.5: only the original initiator says where it is."""
    return (
        sa.mobike
        and sa.established
        and not sa.origin.is_initiator
        and message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None
    )


def _refusal(sa: IkeSa, message: Message, local: Endpoint, remote: Endpoint) -> NotifyType | None:
    no_nat = message.notify(NotifyType.NO_NATS_ALLOWED)
    if no_nat is not None:
        ends = ip_address(remote.host).packed + ip_address(local.host).packed
        # RFC 4555 3.9, 4.2.6
        if no_nat.data != ends + remote.port.to_bytes(2, "big") + local.port.to_bytes(2, "big"):
            return NotifyType.UNEXPECTED_NAT_DETECTED
    # The SAs of the data plane are bound to our end
    return NotifyType.UNACCEPTABLE_ADDRESSES if local != sa.local else None


class CheckAddress(Exchange):
    """RFC 4555 3.7: whether the peer receives at its new address. Traffic stays where it was until it said so."""

    kind = ExchangeType.INFORMATIONAL

    def __init__(self) -> None:
        self.cookie = b""
        self.remote = Endpoint("", 0)

    def start(self, sa: IkeSa, now: float) -> None:
        self.cookie, self.remote = sa.services.random.octets(COOKIE_OCTETS), sa.remote
        sa.request(self.kind, (Notify(NotifyType.COOKIE2, self.cookie),), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        shown = message.notify(NotifyType.COOKIE2)
        if shown is None or not hmac.compare_digest(shown.data, self.cookie):
            # RFC 4555 3.7: somebody else answers for it
            sa.finish(now, "failed")
            sa.enqueue(DeleteIke("ADDRESS_CHECK_FAILED", {"remote": str(self.remote)}), now)
            return True
        # While it was asked for, a rekey may have moved the CHILD_SAs to another IKE_SA
        carrier = sa if sa.children else sa.services.primary(sa.name) or sa
        if carrier.remote == self.remote:
            carrier.traffic_remote = None
            succession.moved(carrier, self.remote)
            sa.notice("info", "peer-moved", f"peer is now at {self.remote}")
        sa.finish(now)
        return True
