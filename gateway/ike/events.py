"""What the IKE core says must happen, beside `Transmit` and `Compute` of gateway/contract.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.contract import Endpoint
from gateway.ike.errors import Violation
from gateway.ike.payloads import TrafficSelector
from gateway.ike.proposal import Choice


@dataclass(frozen=True, slots=True)
class IkeUp:
    """An IKE_SA is authenticated, or `rekeyed` replaced its predecessor."""

    connection: str
    initiator_spi: int
    responder_spi: int
    rekeyed: bool


@dataclass(frozen=True, slots=True)
class IkeDown:
    """An IKE_SA is gone, with its CHILD_SAs. `reason` is a name explain.py knows; "" on a replaced one.
    `initiated`: this side had started it."""

    connection: str
    initiator_spi: int
    reason: str
    context: dict[str, str] = field(default_factory=dict)
    initiated: bool = True


@dataclass(frozen=True, slots=True)
class ChildInstall:
    """Both directions of a CHILD_SA, inbound to be installed first. Nothing is sent on it before ChildActivate."""

    connection: str
    child: str
    spi_in: int
    spi_out: int
    choice: Choice
    encryption_key_in: bytes = field(repr=False)
    integrity_key_in: bytes = field(repr=False)
    encryption_key_out: bytes = field(repr=False)
    integrity_key_out: bytes = field(repr=False)
    local_ts: tuple[TrafficSelector, ...] = ()
    remote_ts: tuple[TrafficSelector, ...] = ()
    local: Endpoint = Endpoint("", 0)
    remote: Endpoint = Endpoint("", 0)
    encapsulate: bool = True
    resource: int | None = None
    """RFC 9611: the worker whose traffic alone leaves on it."""


@dataclass(frozen=True, slots=True)
class ChildActivate:
    """From now on the child's traffic leaves on this SA."""

    connection: str
    child: str
    spi_out: int


@dataclass(frozen=True, slots=True)
class ChildRemove:
    """Remove one direction; `spi_in` or `spi_out` is 0 when that direction stays."""

    connection: str
    child: str
    spi_in: int
    spi_out: int


@dataclass(frozen=True, slots=True)
class ChildMoved:
    """The peer's outer address changed: send to `remote` from now on (RFC 7296 2.23); `local`: where ours did, and from there."""

    connection: str
    spi_out: int
    remote: Endpoint
    local: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class ChildAdvance:
    """So many sequence numbers are left out (RFC 6311 5.2)."""

    connection: str
    spi_out: int
    by: int


@dataclass(frozen=True, slots=True)
class ExchangeFailed:
    """Something was refused without taking the IKE_SA down: a CHILD_SA, a rekey."""

    connection: str
    child: str
    reason: str
    context: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """A line for the journal. `why`: that of a peer's request for an IKE_SA which was refused."""

    level: str
    event: str
    connection: str
    text: str
    why: Violation | None = None
