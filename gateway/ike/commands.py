"""What an operator, the node or the data plane tells the IKE core."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.contract import Endpoint
from gateway.ike.settings import ConnectionSettings


@dataclass(frozen=True, slots=True)
class Configure:
    """The connections that exist from now on. SAs of vanished ones are deleted; changed settings apply to new SAs."""

    connections: tuple[ConnectionSettings, ...]


@dataclass(frozen=True, slots=True)
class Initiate:
    """Start an IKE_SA unless one is up or on its way."""

    connection: str


@dataclass(frozen=True, slots=True)
class CreateChildSa:
    """Add a configured CHILD_SA to the established IKE_SA."""

    connection: str
    child: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Delete the connection's IKE_SAs, or only one child's CHILD_SA."""

    connection: str
    child: str = ""
    reason: str = "TERMINATED"


@dataclass(frozen=True, slots=True)
class Abandon:
    """Forget the connection's IKE_SAs without a word to the peer: another gateway goes on with them, or nobody can (`reason` "")."""

    connection: str
    reason: str = "AT_THE_OTHER_GATEWAY"


@dataclass(frozen=True, slots=True)
class Rekey:
    """Rekey the IKE_SA, or one child's CHILD_SA."""

    connection: str
    child: str = ""


@dataclass(frozen=True, slots=True)
class CheckLiveness:
    """Something else says that the peer may be gone: ask it now (RFC 7296 2.4) instead of after `dpd_delay`."""

    connection: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Send who initiates this connection `to` another gateway's address (RFC 5685), if it can; empty: no longer."""

    connection: str
    to: str = ""


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """The data plane opened packets from the peer, a sign of life (RFC 7296 2.4), on these inbound SPIs; the last one `at`
    that time, which is before it is told. None: now."""

    connection: str
    spis: frozenset[int] = frozenset()
    at: float | None = None


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """ESP that verified came from another address or port (RFC 7296 2.23)."""

    connection: str
    spi_in: int
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class SaExpired:
    """The data plane reached a limit of the SA: soft asks for a rekey, hard has stopped it. `spi` of either direction."""

    connection: str
    spi: int
    hard: bool


Command = (
    Configure | Initiate | CreateChildSa | Terminate | Abandon | Rekey | CheckLiveness | Drain | TrafficSeen | PeerMoved
    | SaExpired
)  # fmt: skip
