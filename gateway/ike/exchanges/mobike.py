"""MOBIKE (RFC 4555): the original initiator may change its address or port, and traffic follows once it proved to be there.

    HDR, SK {N(UPDATE_SA_ADDRESSES), N(NATD_S), N(NATD_D)}  -->                  from its new address
                              <--  HDR, SK {N(NATD_S), N(NATD_D)}
                              <--  HDR, SK {N(COOKIE2)}                          return routability
    HDR, SK {N(COOKIE2)}  -->                                                    and only now ESP goes there

As initiator we are elsewhere after a reload with another `local_addrs`, or, unseen, behind a NAT that forgot us: then the peer falls
silent. So every liveness check says where we are (`whereabouts`); one is sent at once after a reload. `remote_addrs` stays where we send.
Whether MOBIKE is on or not, an INFORMATIONAL with NAT detection is answered with ours.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
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
    from gateway.ike.window import Datagrams

LEFT_FOR = 30.0
"""Seconds for which the peer may go on sending to where we were after it knows: as long as its own question is repeated."""
COOKIE_OCTETS = 32
COOKIE_MIN, COOKIE_MAX = 8, 64  # RFC 4555 4.2.5


@dataclass(slots=True)
class Whereabouts:
    """Of our own end. `left`: addresses where the peer may still send, `until` some time of the core's clock; when it heard last."""

    left: set[str] = field(default_factory=set)
    until: float = 0.0
    said_at: float = 0.0


def offered(sa: IkeSa) -> tuple[Notify, ...]:
    """RFC 4555 3.2: into our IKE_AUTH."""
    return (Notify(NotifyType.MOBIKE_SUPPORTED),) if sa.settings.mobike else ()


def agree(sa: IkeSa, message: Message) -> tuple[Notify, ...]:
    """What the peer's IKE_AUTH says of it; into our answer to one that asks for it."""
    sa.mobike = sa.settings.mobike and message.notify(NotifyType.MOBIKE_SUPPORTED) is not None
    return offered(sa) if sa.mobike else ()


# --- as the original initiator ------------------------------------------------------------------------------------------


def may_move(sa: IkeSa) -> bool:
    """RFC 4555 3.5: whether it is for us to say where we are."""
    return sa.mobike and sa.origin.is_initiator


def move(sa: IkeSa, host: str, now: float) -> None:
    """Our end is there from now on. RFC 4555 3.5: the peer's has not changed, so traffic leaves there before the peer answered."""
    left = sa.whereabouts.left if now < sa.whereabouts.until else set()
    sa.whereabouts.left, sa.whereabouts.until = (left | {sa.local.host}) - {host}, inf
    sa.local = Endpoint(host, sa.local.port)
    succession.moved(sa, sa.traffic_remote or sa.remote, sa.local)
    sa.notice("info", "address-changed", f"our address is {sa.local} now; the peer is told (RFC 4555)")
    # What had no answer over the old address, and the peer is told of the new one only after it
    sa.window.anew(sa.jittered(now, sa.settings.retransmit_timeout))
    sa.repeat()


def whereabouts(sa: IkeSa) -> tuple[Notify, ...]:
    """RFC 4555 3.5: from where this is sent we are to be reached."""
    if not may_move(sa):
        return ()
    detection = nat.notifications(sa.initiator_spi, sa.responder_spi, sa.local, sa.remote, nat.pretended_source(sa))
    return (Notify(NotifyType.UPDATE_SA_ADDRESSES), *detection)


def heed(sa: IkeSa, message: Message, now: float) -> str:
    """The answer to them; why the peer does not take it, or "". RFC 4555 3.8: there may be a NAT where we are now, or none any more."""
    for refusal in (NotifyType.UNACCEPTABLE_ADDRESSES, NotifyType.UNEXPECTED_NAT_DETECTED):
        if message.notify(refusal) is not None:
            return refusal.name
    sa.whereabouts.said_at, sa.whereabouts.until = now, min(sa.whereabouts.until, now + LEFT_FOR)
    found = nat.detect(message, sa.local, sa.remote)
    if found.supported:
        sa.nat = found
    return ""


def hosts(sa: IkeSa, now: float) -> set[str]:
    """Our addresses where something may come for it."""
    return {sa.local.host} | (sa.whereabouts.left if now < sa.whereabouts.until else set())


# --- as responder -------------------------------------------------------------------------------------------------------


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
        if remote != sa.remote:
            sa.traffic_remote = sa.traffic_remote or sa.remote
        if isinstance(sa.exchange, CheckAddress):
            # Its question may be repeated to another address than it was asked of, so its answer says nothing now
            sa.exchange.remote = Endpoint("", 0)
        sa.local, sa.remote = local, remote
        sa.nat = nat.detect(message, local, remote)
    if nat.detect(message, local, remote).supported:
        echoed += nat.notifications(sa.initiator_spi, sa.responder_spi, local, remote, nat.pretended_source(sa))
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
    only_asks = True

    def __init__(self) -> None:
        self.cookie = b""
        self.remote = Endpoint("", 0)

    def start(self, sa: IkeSa, now: float) -> None:
        self.cookie, self.remote = sa.services.random.octets(COOKIE_OCTETS), sa.remote
        sa.request(self.kind, (Notify(NotifyType.COOKIE2, self.cookie),), now)

    def again(self, sa: IkeSa, now: float) -> Datagrams | None:
        pending, back = sa.window.pending, sa.traffic_remote
        if pending is not None and pending.tries >= sa.settings.retransmit_tries and back is not None:
            # Nobody there: maybe a copy from elsewhere was the first to arrive, which anybody on the path can make. The same
            # request, since its message ID is used, goes to where traffic is received
            sa.remote, sa.traffic_remote, self.remote = back, None, Endpoint("", 0)
            pending.tries = pending.heard_after = 0
        return None

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
