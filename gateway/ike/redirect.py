"""Redirects (RFC 5685): a responder sends its initiators to another gateway, before or while they have an IKE_SA with it.

    HDR(SPIi,0), SAi1, KEi, Ni, N(REDIRECT_SUPPORTED)  -->
                              <--  HDR(SPIi,0), N(REDIRECT, there | Ni)
    HDR(SPIi,0), SAi1, KEi, Ni, N(REDIRECTED_FROM, here)  -->  there

                              <--  HDR, SK {N(REDIRECT, there)}                 in IKE_AUTH, or any time later
    HDR, SK {}  -->

Who is redirected must prove nothing new: the other gateway must have the identity and the key of this one. A redirect holds for
one attempt; what fails begins again where the configuration says.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Collection
from ipaddress import ip_address
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import Message
from gateway.ike.payloads import Nonce, Notify
from gateway.ike.registry import NotifyType
from gateway.ike.settings import ConnectionSettings

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

REDIRECTS_MAX, LOOP_SECONDS = 5, 300.0  # RFC 5685 7
_ADDRESS_OCTETS = {1: 4, 2: 16}  # RFC 5685 9.2: GW Ident Type
_FQDN = 3


class Redirects:
    """Of all connections: where the next attempt goes, how often one was redirected, and whom we send away."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[str, str]] = {}
        self._followed: dict[str, deque[float]] = {}
        self._drained: dict[str, str] = {}

    def follow(self, sa: IkeSa, there: str, now: float) -> None:
        """The next attempt goes there. PeerError when it does not."""
        if sa.settings.redirect != "follow":
            raise PeerError(Violation.REDIRECT, f"to {there}, and `redirect` is not follow")
        if there == sa.remote.host or (":" in there) != (":" in sa.local.host):
            raise PeerError(Violation.REDIRECT, f"to {there}, from {sa.remote.host}")
        followed = self._followed.setdefault(sa.name, deque(maxlen=REDIRECTS_MAX))
        if len(followed) == REDIRECTS_MAX and now < followed[0] + LOOP_SECONDS:
            raise PeerError(Violation.REDIRECT, f"to {there}, the sixth within five minutes")
        followed.append(now)
        self._next[sa.name] = (there, sa.remote.host)
        sa.notice("info", "ike-redirected", f"{sa.remote.host} sends us to {there}")

    def forget(self, connection: str) -> None:
        """The attempt that was to go there is not made."""
        self._next.pop(connection, None)

    def beginning(self, settings: ConnectionSettings) -> tuple[Endpoint, str]:
        """Where an attempt goes, and from where it was sent there."""
        there, here = self._next.pop(settings.name, ("", ""))
        return (Endpoint(there, settings.remote.port), here) if there else (settings.remote, "")

    def drain(self, connection: str, to: str) -> None:
        """From now on its initiators are sent `to` that address; empty: no longer."""
        self._drained.pop(connection, None)
        if to:
            self._drained[connection] = to

    def keep_only(self, connections: Collection[str]) -> None:
        """Nobody is sent away for a connection that is not configured any more."""
        self._drained = {name: to for name, to in self._drained.items() if name in connections}

    def order_of(self, sa: IkeSa) -> tuple[Notify, ...]:
        """RFC 5685 6: for the answer to IKE_AUTH of who is to go elsewhere since its IKE_SA_INIT, and can."""
        to = self._drained.get(sa.name, "")
        return (order(to),) if to and sa.redirectable else ()

    def refusal(self, connection: str, message: Message) -> tuple[Notify, ...]:
        """RFC 5685 3: the answer to IKE_SA_INIT of who is to go elsewhere, and can. Nothing is kept of it."""
        to, nonce = self._drained.get(connection, ""), message.first(Nonce)
        if not to or not can(message) or not isinstance(nonce, Nonce):
            return ()
        return (Notify(NotifyType.REDIRECT, _identity(to) + nonce.data),)


def capability(sa: IkeSa) -> tuple[Notify, ...]:
    """For our IKE_SA_INIT."""
    if sa.settings.redirect != "follow":
        return ()
    if sa.redirected_from:
        return (Notify(NotifyType.REDIRECTED_FROM, _identity(sa.redirected_from)),)
    return (Notify(NotifyType.REDIRECT_SUPPORTED),)


def can(message: Message) -> bool:
    """Whether the initiator would follow."""
    return any(message.notify(kind) for kind in (NotifyType.REDIRECT_SUPPORTED, NotifyType.REDIRECTED_FROM))


def order(to: str) -> Notify:
    """For an INFORMATIONAL of ours."""
    return Notify(NotifyType.REDIRECT, _identity(to))


def heed_init(sa: IkeSa, notify: Notify, now: float) -> None:
    """Of an IKE_SA_INIT response, which nobody authenticated. PeerError when it is not followed."""
    there, nonce = _parse(notify.data)
    if not hmac.compare_digest(nonce, sa.ni):
        # RFC 5685 3: it must at least have seen our request
        raise PeerError(Violation.REDIRECT, "without our nonce")
    sa.services.redirects.follow(sa, there, now)
    sa.quiet = True
    sa.destroy(now, "")
    sa.services.begin(sa.settings, now)


def heed(sa: IkeSa, message: Message, now: float) -> bool:
    """Of a message that verified: another IKE_SA begins there, and when it is up this one goes. False: there is none."""
    notify = message.notify(NotifyType.REDIRECT)
    if notify is None or not sa.established or not sa.origin.is_initiator:
        return False
    try:
        there, rest = _parse(notify.data)
        if rest:
            raise PeerError(Violation.REDIRECT, "something after the address")
        sa.services.redirects.follow(sa, there, now)
    except PeerError as refused:
        sa.services.rejected[refused.why.value] += 1
        sa.notice("warning", "ike-redirect-refused", f"not redirected: {refused.detail}")
        return False
    if sa.services.reauthenticate(sa, now):
        return True
    sa.services.redirects.forget(sa.name)
    sa.notice("warning", "ike-redirect-refused", "not redirected: another attempt of ours is under way")
    return False


def _identity(address: str) -> bytes:
    """RFC 5685 9.2: GW Ident Type, GW Identity Len, New Responder GW Identity."""
    packed = ip_address(address).packed
    return bytes((1 if len(packed) == 4 else 2, len(packed))) + packed


def _parse(data: bytes) -> tuple[str, bytes]:
    """The address, and what follows it."""
    kind, length = (data[0], data[1]) if len(data) >= 2 else (0, 0)
    if kind == _FQDN:
        raise PeerError(Violation.REDIRECT, "to a name; only addresses are followed")
    if kind not in _ADDRESS_OCTETS or length != _ADDRESS_OCTETS[kind] or len(data) < 2 + length:
        raise PeerError(Violation.REDIRECT, "to nothing that we understand")
    there = ip_address(data[2 : 2 + length])
    if there.is_unspecified or there.is_multicast or there.is_loopback or there.is_link_local:
        raise PeerError(Violation.REDIRECT, f"to {there}, which is no gateway's address")
    return str(there), data[2 + length :]
