"""Quick crash detection (RFC 6290): a peer that lost its IKE_SAs is noticed at its first answer, not by silence.

    HDR, SK {IDi, AUTH, ..., N(QUICK_CRASH_DETECTION)}  -->
                        <--  HDR, SK {IDr, AUTH, ..., N(QUICK_CRASH_DETECTION)}
    ... one end forgets everything ...
    HDR, SK {}  -->
                        <--  HDR, N(INVALID_IKE_SPI), N(QUICK_CRASH_DETECTION)

token = HMAC-SHA256(secret, SPIi | SPIr). The secret outlives a restart, so who lost the IKE_SA can still make the token,
and nobody else can. It belongs to one gateway: the other one of a pair has its own. But an address that moves between the two has
one secret, which both know: only who has the address is asked, and answers (RFC 6290 9.2).
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike.bucket import Bucket
from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import HEADER_OCTETS, PAYLOAD_HEADER_OCTETS, Header, Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import NotifyType, Protocol
from gateway.ike.states import IkeState

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

TOKEN_OCTETS = 32
TOKEN_MIN, TOKEN_MAX = 16, 128  # RFC 6290 4.1
TOKENS_MAX = 4  # RFC 6290 4.5: of several generations of the maker's secret
_NOTIFY_OCTETS = PAYLOAD_HEADER_OCTETS + 4
ANSWER_OCTETS = HEADER_OCTETS + 2 * _NOTIFY_OCTETS + TOKEN_OCTETS
"""Of the answer to a message for an IKE_SA that we do not have. Nothing shorter is answered; ours are padded up to it."""
ANSWERS_PER_SECOND, ANSWERS_AT_ONCE = 100.0, 200.0
HOST_PER_SECOND, HOST_AT_ONCE = 30.0, 40.0
"""The same to one address, so that who forges datagrams in one peer's name takes nothing from the others."""
AGAIN_WAIT = 0.5
"""Seconds between two answers to one address about one IKE_SA: not about any, for whoever forges datagrams about IKE_SAs that
never were would have the peer wait for its own."""


class Tokens:
    """Makes tokens, and says when one may be shown. Without a `secret` neither."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._shared: dict[str, bytes] = {}  # by local address
        self._all = Bucket(ANSWERS_PER_SECOND, ANSWERS_AT_ONCE, ANSWERS_AT_ONCE)
        self._hosts: dict[str, Bucket] = {}  # of configured peers: nobody else is answered
        self._waiting: dict[tuple[str, int, int], float] = {}  # until when; no more than are answered in the meantime

    def share(self, hosts: Collection[str], secret: bytes) -> None:
        """The other gateway of the pair makes the same tokens for these local addresses, when it has them."""
        self._shared = dict.fromkeys(hosts, secret)

    def make(self, initiator_spi: int, responder_spi: int, host: str) -> bytes:
        """RFC 6290 5.1, for an IKE_SA of this local address. Empty: we make none."""
        spis, secret = initiator_spi.to_bytes(8, "big") + responder_spi.to_bytes(8, "big"), self._of(host)
        return hmac.digest(secret, spis, sha256) if secret else b""

    def _of(self, host: str) -> bytes:
        return self._shared.get(host, self._secret)

    def answer(self, message: Message, local: Endpoint, remote: Endpoint, now: float) -> tuple[Notify, ...]:
        """To a message of a configured peer for an IKE_SA that is none of ours; empty: no answer."""
        header = message.header
        sealed = message.encrypted is not None or message.fragment is not None
        # RFC 6290 4.5: to a protected request only, and no longer than it
        if not sealed or header.is_response or not header.responder_spi or len(message.octets) < ANSWER_OCTETS:
            return ()
        if not self._of(local.host) or not self._in_time(remote.host, header, now):
            return ()
        made = self.make(header.initiator_spi, header.responder_spi, local.host)
        return (Notify(NotifyType.INVALID_IKE_SPI), _notify(made))

    def _in_time(self, host: str, header: Header, now: float) -> bool:
        """RFC 6290 9.3: nobody collects tokens, or has us flood somebody."""
        its = self._hosts.setdefault(host, Bucket(HOST_PER_SECOND, HOST_AT_ONCE, HOST_AT_ONCE))
        while self._waiting and self._waiting[oldest := next(iter(self._waiting))] <= now:
            del self._waiting[oldest]
        about = (host, header.initiator_spi, header.responder_spi)
        if about in self._waiting or not its.fill(now) or not self._all.fill(now):
            return False
        its.left -= 1.0
        self._all.left -= 1.0
        self._waiting[about] = now + AGAIN_WAIT
        return True


def token(sa: IkeSa) -> tuple[Notify, ...]:
    """Ours for this IKE_SA: for IKE_AUTH, and for the IKE_SA that a rekey made."""
    made = sa.services.tokens.make(sa.initiator_spi, sa.responder_spi, sa.local.host)
    return (_notify(made),) if made and sa.settings.quick_crash_detection else ()


def shown(sa: IkeSa, message: Message) -> bytes:
    """The peer's, from a message that verified; empty: none."""
    notify = message.notify(NotifyType.QUICK_CRASH_DETECTION)
    good = notify is not None and TOKEN_MIN <= len(notify.data) <= TOKEN_MAX
    return notify.data if notify is not None and good and sa.settings.quick_crash_detection else b""


def names_live_sa(header: Header, sas: Iterator[IkeSa]) -> bool:
    """RFC 6290 9.2: whether a token for these SPIs is, or may become, one of an IKE_SA that we hold.

    Both SPIs are compared: which of them is ours is only what the sender says.
    """
    named = {header.initiator_spi, header.responder_spi}
    return any(named & {sa.initiator_spi, sa.responder_spi, sa.exchange.spi if sa.exchange else 0} - {0} for sa in sas)


def claimed(sa: IkeSa, message: Message) -> bool:
    """Whether somebody says in clear that this IKE_SA is lost, and we have something to hold it against."""
    sealed = message.encrypted is not None or message.fragment is not None
    return (
        bool(sa.peer_token)
        and message.header.is_response
        and not sealed
        and message.notify(NotifyType.QUICK_CRASH_DETECTION) is not None
    )


def heed(sa: IkeSa, message: Message, now: float) -> None:
    """RFC 6290 4.5: the right token ends the IKE_SA without a word, a wrong one changes nothing. PeerError for that."""
    tokens = [one.data for one in message.notifies() if one.type == NotifyType.QUICK_CRASH_DETECTION]
    if not any(hmac.compare_digest(sa.peer_token, one) for one in tokens[:TOKENS_MAX]):
        raise PeerError(Violation.CRASH_TOKEN, f"{len(tokens)} wrong tokens")
    if sa.state is IkeState.DELETING and sa.exchange is not None:
        # It is gone there already: what we wanted
        sa.exchange.on_timeout(sa, now)
    else:
        sa.destroy(now, "" if sa.state is IkeState.REKEYED else "PEER_CRASHED")


def _notify(made: bytes) -> Notify:
    # RFC 6290 4.1: the protocol is 1, and there is no SPI
    return Notify(NotifyType.QUICK_CRASH_DETECTION, made, int(Protocol.IKE))
