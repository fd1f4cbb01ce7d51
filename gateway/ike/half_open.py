"""IKE_SAs that somebody asked us for and nobody has authenticated yet (RFC 7296 2.4, 2.6): found, counted, bounded.

    few                 answered
    HALF_OPEN_FREE      answered only to who shows a cookie
    HALF_OPEN_EACH      of one connection: in the place of its oldest, once that has had its turn, or not answered
    HALF_OPEN_MAX       in the place of the oldest of the connection with the most, or not answered

The connection is the source that RFC 8019 4.2 would have limited: the addresses of both ends lead to one of them, whatever
the port. A NAT may stand there, so at the limit places change hands; who keeps asking from behind it still makes its neighbours wait.
What a stranger's request costs is decided here, so that it is little: nothing is made, stored or computed for one that
ends in a refusal or in a cookie. What the answer to a good one is belongs to exchanges/sa_init.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.contract import Endpoint, RandomSource
from gateway.ike.cookies import HALF_OPEN_FREE, Cookies
from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import HEADER_OCTETS, VERSION, Header, find_payload, parse_header
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, Flags, NotifyType, PayloadType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

HALF_OPEN_MAX = 1000
"""Half-open IKE_SAs as responder, of all connections."""
HALF_OPEN_EACH = 100
"""Of one connection. More than get by without a cookie, so nobody fills it who does not receive at the peer's address."""
TURN = 3.0
"""Seconds that one keeps its place against others of its connection. A set-up takes less than one; and this many seconds
for so many places bound the public-key work that one connection can ask for."""
SAY_EVERY = 1.0
"""Seconds between two words about requests that were refused: anybody can make us refuse."""
_NO_SPI = bytes(8)


class HalfOpen:
    """By the peer's end point and SPI, and by our SPI."""

    def __init__(self, random: RandomSource) -> None:
        self._sas: dict[tuple[Endpoint, int], IkeSa] = {}
        self._keys: dict[int, tuple[Endpoint, int]] = {}
        self._of: dict[str, dict[int, IkeSa]] = {}  # by connection and our SPI, the oldest first
        self._holders: dict[int, dict[str, None]] = {}  # the connections that have so many
        self._most = 0
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
        mine = self._of.setdefault(sa.name, {})
        mine[sa.responder_spi] = sa
        self._count(sa.name, len(mine) - 1, len(mine))

    def forget(self, our_spi: int) -> None:
        key = self._keys.pop(our_spi, None)
        if key is None:
            return
        name = self._sas.pop(key).name
        mine = self._of[name]
        del mine[our_spi]
        self._count(name, len(mine) + 1, len(mine))
        if not mine:
            del self._of[name]

    def _count(self, name: str, before: int, after: int) -> None:
        """Of one connection, one more or one less: so the most changes by one at most."""
        if before:
            del self._holders[before][name]
            if not self._holders[before]:
                del self._holders[before]
        if after:
            self._holders.setdefault(after, {})[name] = None
        self._most = max(after, self._most if self._most in self._holders else self._most - 1)

    def leaving(self, name: str, now: float) -> IkeSa | None:
        """Who gives its place to a new one of that connection; None: there is room. PeerError when the new one has to wait."""
        mine = self._of.get(name, {})
        if len(mine) < HALF_OPEN_EACH:
            if len(self._sas) < HALF_OPEN_MAX:
                return None
            # Whoever has two more has more than its share; of equals none makes way, or a crowd would never get done
            if self._most > len(mine) + 1:
                return _oldest(self._of[next(iter(self._holders[self._most]))])
        oldest = _oldest(mine)
        if oldest is None or now < oldest.created_at + TURN:
            raise PeerError(Violation.HALF_OPEN_LIMIT, name)
        return oldest

    def cookie(self, header: Header, nonce: bytes, shown: Notify | None, remote: Endpoint, now: float) -> Notify | None:
        """RFC 7296 2.6: with many half-open, only who receives at its address gets further. The cookie to ask for, if one is."""
        if self.few:
            return None
        terms = (nonce, header.initiator_spi, remote, now)
        if shown is not None and self._cookies.good(shown.data, *terms):
            return None
        return Notify(NotifyType.COOKIE, self._cookies.make(*terms))

    def cookie_unread(self, data: bytes, name: str, remote: Endpoint, now: float) -> tuple[Notify, Header] | None:
        """The cookie for a request that shows none, while many are half-open; what else is in it is not looked at before it
        comes with one. None also of a request that was answered before."""
        if self.few:
            return None
        header, first = parse_header(data)
        if self.sa(remote, header.initiator_spi) is not None:
            return None
        self.leaving(name, now)
        # RFC 7296 2.6: a cookie is the first payload
        nonce = find_payload(data, first, PayloadType.NONCE) if first != PayloadType.NOTIFY else None
        cookie = self.cookie(header, nonce, None, remote, now) if nonce is not None else None
        return (cookie, header) if cookie is not None else None

    def may_say(self, now: float) -> bool:
        """Whether a refusal may be told now: the log must not be what strangers fill."""
        if now < self._say_at:
            return False
        self._say_at = now + SAY_EVERY
        return True


def _oldest(sas: dict[int, IkeSa]) -> IkeSa | None:
    return next(iter(sas.values()), None)


def begins(data: bytes) -> bool:
    """Whether it looks like a request for a new IKE_SA: read without a codec, for it is asked of whatever comes."""
    return (
        len(data) >= HEADER_OCTETS
        and data[18] == ExchangeType.IKE_SA_INIT
        and not data[19] & Flags.RESPONSE
        and data[8:16] == _NO_SPI
        and data[17] >> 4 == VERSION >> 4
    )


def is_init(header: Header) -> bool:
    """Whether it is that of the first message of an IKE_SA."""
    return (
        header.exchange == ExchangeType.IKE_SA_INIT
        and not header.is_response
        and header.message_id == 0
        and header.from_original_initiator
    )
