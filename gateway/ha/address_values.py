"""What the cloud is told of the shared addresses and what it answers: the values between `address_fabric.py` and the shell.

An address is canonical text; a network interface is text as the cloud writes it. How a call fails is said as for route tables, by
`fabric_values.Failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gateway.ha.fabric_values import Done, Failed, Read


@dataclass(frozen=True, slots=True)
class Interface:
    """One of our network interfaces, the other gateway's in the same subnet, and the addresses that are at one of the two."""

    name: str
    ours: str
    theirs: str
    addresses: tuple[str, ...]
    freed: frozenset[str] = frozenset()
    """Those that the cloud assigns to nobody before they are taken off where they are: all of Azure's, IPv6 in AWS."""


@dataclass(frozen=True, slots=True)
class AddressSettings:
    """[ha.fabric]."""

    interfaces: tuple[Interface, ...]
    check_interval: float = 60.0
    dry_run: bool = False


class Place(Enum):
    """Where the cloud has an address."""

    UNKNOWN = "unknown"
    OURS = "ours"
    PEER = "peer"
    ABSENT = "absent"
    FOREIGN = "foreign"
    """At an interface of neither gateway."""
    FIXED = "fixed"
    """An interface's own first address, which does not move."""


# --- operations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Free:
    """Off the other gateway's interface, and off no other."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assign:
    """To our interface; what goes along with an address in the cloud (a public one) comes along."""

    addresses: tuple[str, ...]


Operation = Read | Free | Assign


@dataclass(frozen=True, slots=True)
class AddressCall:
    """An effect: carry this out and say how it ended, by `computed(ticket, outcome, now)`. Always answered, in bounded time."""

    ticket: int
    interface: Interface
    operation: Operation

    @property
    def subject(self) -> str:
        return self.interface.name


# --- outcomes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """One address, and at which interface it was seen; "" for none. `public`: what the Internet knows it by."""

    address: str
    place: Place
    interface: str = ""
    public: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Each address of an interface. `remarks`: what else was seen on the way."""

    placed: tuple[Placed, ...]
    remarks: tuple[str, ...] = ()


Outcome = Places | Done | Failed


# --- intent, events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moved:
    """The cloud has every address of the interface at ours, `seconds` after we were told to be active."""

    interface: str
    epoch: int
    addresses: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Strayed:
    """Somebody took an address that was at our interface."""

    interface: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Hindered:
    """What keeps addresses from being at our interface; empty: nothing any more."""

    interface: str
    sentence: str


Event = Moved | Strayed | Hindered


# --- the picture ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddressView:
    """An address: where the cloud has it, and the sentence of why not where it should be."""

    address: str
    place: Place
    interface: str
    public: str
    error: str


@dataclass(frozen=True, slots=True)
class InterfaceView:
    """An interface as last seen. `trouble` lasts; `last_error` may be a call that is being repeated."""

    name: str
    ours: str
    theirs: str
    addresses: tuple[AddressView, ...]
    planned: tuple[str, ...]
    read_at: float | None
    last_call: str
    last_call_at: float | None
    last_error: str
    trouble: str
    remarks: tuple[str, ...]
    drift: int
    calls: int
    failures: int
    settled: bool
    move_seconds: float | None


@dataclass(frozen=True, slots=True)
class AddressFabricView:
    """All of them. `active`: they shall be ours."""

    active: bool
    epoch: int
    dry_run: bool
    interfaces: tuple[InterfaceView, ...]
