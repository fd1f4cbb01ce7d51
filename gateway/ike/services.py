"""What an IKE_SA may use of the endpoint it lives in. Keeps the arrows one way: endpoint -> sa -> services."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gateway.contract import RandomSource
from gateway.ike.crash_detection import Tokens
from gateway.ike.key_exchange import KeyExchanges
from gateway.ike.payloads import Notify, Payload
from gateway.ike.recorder import Recorder
from gateway.ike.redirect import Redirects
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.revocation_cache import RevocationCache
from gateway.ike.settings import ConnectionSettings

if TYPE_CHECKING:
    from gateway.ike.errors import PeerError
    from gateway.ike.message import Message
    from gateway.ike.sa import IkeSa
    from gateway.ike.settings import ChildSettings, ConnectionSettings


@dataclass(slots=True)
class Counts:
    """Per connection, for metrics."""

    exchanges: Counter[str] = field(default_factory=Counter)  # "EXCHANGE role result"
    notifies: Counter[str] = field(default_factory=Counter)  # "NOTIFY direction"
    retransmissions: int = 0
    ike_rekeys_ok: int = 0
    ike_rekeys_failed: int = 0
    child_rekeys_ok: Counter[str] = field(default_factory=Counter)
    child_rekeys_failed: Counter[str] = field(default_factory=Counter)

    def notified(self, payloads: Iterable[Payload], direction: str) -> None:
        """Notifies that the registry knows, "in" or "out"."""
        for payload in payloads:
            if isinstance(payload, Notify) and NotifyType(payload.type).known:
                self.notifies[f"{payload.name} {direction}"] += 1

    def answered(self, kind: ExchangeType, payloads: Iterable[Payload]) -> None:
        """A request of the peer, with these."""
        failed = any(isinstance(payload, Notify) and NotifyType(payload.type).is_error for payload in payloads)
        self.exchanges[f"{kind.name} responder {'failed' if failed else 'ok'}"] += 1


WallClock = Callable[[float], float]
"""UNIX seconds at a `now` of the core."""
Then = Callable[[Any, float], None]
Failed = Callable[["PeerError", float], None]


def since_1970(now: float) -> float:
    """For simulations, which begin wherever they say."""
    return now


class Services(Protocol):
    """Implemented by endpoint.IkeEndpoint."""

    random: RandomSource
    key_exchanges: KeyExchanges
    rejected: Counter[str]
    recorder: Recorder
    tokens: Tokens
    redirects: Redirects

    def emit(self, effect: object) -> None: ...
    def wall(self, now: float) -> float:
        """UNIX seconds, for what has dates in it; everything else goes by `now`."""

    revocations: RevocationCache

    def fetch(self, sa: IkeSa, url: str, body: bytes, media: str, limit: int, then: Then, failed: Failed) -> None:
        """`then` gets the octets, or None."""

    def compute(self, sa: IkeSa, job: Callable[[], object], then: Then, failed: Failed) -> None: ...
    def serve(self, sa: IkeSa, message: Message, now: float) -> None:
        """Answers a verified request (exchanges/dispatch.py)."""

    def tick(self, sa: IkeSa, now: float) -> None:
        """Does what is due (exchanges/timers.py)."""

    def counts(self, connection: str) -> Counts: ...
    def new_ike_spi(self) -> int: ...
    def new_child_spi(self, settings: ChildSettings | None = None) -> int: ...
    def adopt(self, sa: IkeSa) -> None: ...
    def sas(self, connection: str) -> list[IkeSa]: ...
    def primary(self, connection: str) -> IkeSa | None:
        """The established IKE_SA that carries the connection."""

    def carries(self, sa: IkeSa, child: str) -> bool:
        """Whether the traffic of that CHILD_SA leaves on this IKE_SA, once it has one."""

    def carried(self, connection: str, child: str) -> bool:
        """Whether any IKE_SA carries that CHILD_SA, or one beside it."""

    def covered(self, sa: IkeSa) -> bool:
        """Whether others carry all that this IKE_SA carries."""

    def established(self, sa: IkeSa, initial_contact: bool, now: float) -> None: ...
    def proven(self, sa: IkeSa, now: float) -> None:
        """Both ends know that both hold it."""

    def rekeys_are_unproven(self, settings: ConnectionSettings) -> bool:
        """Whether nobody has tried yet to rekey what these settings negotiate."""

    def rekeys_are_tried(self, settings: ConnectionSettings) -> None: ...
    def begin(self, settings: ConnectionSettings, now: float) -> None:
        """Another IKE_SA, whatever there is."""

    def reauthenticate(self, sa: IkeSa, now: float) -> bool:
        """Begins a new IKE_SA beside this one, which then takes its place. False: not now."""

    def replaced(self, old: IkeSa, new: IkeSa) -> None:
        """A rekey put `new` in the place of `old`."""

    def destroyed(self, sa: IkeSa, now: float) -> None: ...
    def has_other_sa(self, sa: IkeSa) -> bool: ...
