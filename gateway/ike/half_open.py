"""IKE_SAs that somebody asked us for and nobody has authenticated yet (RFC 7296 2.4, 2.6): found, counted, bounded.

    few                 answered
    HALF_OPEN_FREE      answered only to who shows a cookie
    HALF_OPEN_MAX       not answered

What a stranger's request costs is decided here, so that it is little: nothing is made, stored or computed for one that
ends in a refusal or in a cookie. What the answer to a good one is belongs to exchanges/sa_init.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import Endpoint, RandomSource
from gateway.ike.cookies import HALF_OPEN_FREE, Cookies
from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import HEADER_OCTETS, VERSION, Header, find_payload
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, Flags, NotifyType, PayloadType

if TYPE_CHECKING:
    from gateway.ike.message import Message
    from gateway.ike.sa import IkeSa

HALF_OPEN_MAX = 1000
"""Half-open IKE_SAs as responder; beyond it new ones are dropped, with a cookie too."""
SAY_EVERY = 1.0
"""Seconds between two words about requests that were refused: anybody can make us refuse."""
_NO_SPI = bytes(8)


class HalfOpen:
    """By the peer's end point and SPI, and by our SPI."""

    def __init__(self, random: RandomSource) -> None:
        self._sas: dict[tuple[Endpoint, int], IkeSa] = {}
        self._keys: dict[int, tuple[Endpoint, int]] = {}
        self._cookies = Cookies(random)
        self._say_at = 0.0

    def __len__(self) -> int:
        return max(len(self._sas), len(self._keys))

    @property
    def few(self) -> bool:
        """Nobody needs a cookie."""
        return len(self._sas) < HALF_OPEN_FREE

    def sa(self, remote: Endpoint, initiator_spi: int) -> IkeSa | None:
        """Of an IKE_SA_INIT that came before."""
        return self._sas.get((remote, initiator_spi))

    def add(self, sa: IkeSa, remote: Endpoint) -> None:
        self._sas[remote, sa.initiator_spi] = sa
        self._keys[sa.responder_spi] = (remote, sa.initiator_spi)

    def forget(self, our_spi: int) -> None:
        key = self._keys.pop(our_spi, None)
        if key is not None:
            del self._sas[key]

    def check_room(self, remote: Endpoint) -> None:
        """PeerError when there is none."""
        if len(self._sas) >= HALF_OPEN_MAX:
            raise PeerError(Violation.HALF_OPEN_LIMIT, str(remote))

    def cookie(self, header: Header, nonce: bytes, shown: Notify | None, remote: Endpoint, now: float) -> Notify | None:
        """RFC 7296 2.6: with many half-open, only who receives at its address gets further. The cookie to ask for, if one is."""
        if self.few:
            return None
        terms = (nonce, header.initiator_spi, remote, now)
        if shown is not None and self._cookies.good(shown.data, *terms):
            return None
        return Notify(NotifyType.COOKIE, self._cookies.make(*terms))

    def cookie_unread(self, data: bytes, header: Header, first: int, remote: Endpoint, now: float) -> Notify | None:
        """The cookie for a request that shows none; what else is in it is not looked at before it comes with one."""
        # RFC 7296 2.6: a cookie is the first payload
        if self.few or first == PayloadType.NOTIFY:
            return None
        nonce = find_payload(data, first, PayloadType.NONCE)
        return None if nonce is None else self.cookie(header, nonce, None, remote, now)

    def may_say(self, now: float) -> bool:
        """Whether a refusal may be told now: the log must not be what strangers fill."""
        if now < self._say_at:
            return False
        self._say_at = now + SAY_EVERY
        return True


def begins(data: bytes) -> bool:
    """Whether it looks like a request for a new IKE_SA: read without a codec, for it is asked of whatever comes."""
    return (
        len(data) >= HEADER_OCTETS
        and data[18] == ExchangeType.IKE_SA_INIT
        and not data[19] & Flags.RESPONSE
        and data[8:16] == _NO_SPI
        and data[17] >> 4 == VERSION >> 4
    )


def is_init(message: Message) -> bool:
    """Whether it is the first message of an IKE_SA."""
    header = message.header
    return (
        header.exchange == ExchangeType.IKE_SA_INIT
        and not header.is_response
        and header.message_id == 0
        and header.from_original_initiator
    )
