"""What the shell tells the gateway, beside datagrams, BGP lines and the FIB's own answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.config.model import Prefix
from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, SaCounters
from gateway.ha import address_values
from gateway.ha.fabric_values import Outcome
from gateway.ha.replica import Said
from gateway.ha.witness import Answer
from gateway.node.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Start:
    """Begin: the guard first, then tunnels and IKE."""


@dataclass(frozen=True, slots=True)
class Stop:
    """First half of an orderly end: withdraw from every BGP neighbor. `BgpDrained` follows; then CloseTunnels."""


@dataclass(frozen=True, slots=True)
class CloseTunnels:
    """Second half: delete the IKE_SAs, after BGP inside the tunnels had its say. The guard stays."""


@dataclass(frozen=True, slots=True)
class RetryTunnels:
    """Open TUNs again that could not be opened before."""


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """A new configuration: what is unchanged is not touched."""

    settings: GatewaySettings


@dataclass(frozen=True, slots=True)
class TunnelReady:
    """The TUN of a connection exists under this interface index; again after it was re-made."""

    name: str
    interface: int


@dataclass(frozen=True, slots=True)
class TunnelFailed:
    """The TUN of a connection could not be configured, or not even made (then `reason` says why): try again later."""

    name: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Underlay:
    """Connected prefixes of the host, our TUNs excepted."""

    connected: frozenset[Prefix]


@dataclass(frozen=True, slots=True)
class TablesLeft:
    """Numbers of routing tables that rules of ours lead to, and no instance has: an earlier process's."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DataPlaneEvent:
    """One of `gateway._native.DataPlane.events`: acquire, expire-soft, expire-hard, peer-moved, ..."""

    kind: str
    connection: int
    spi: int
    remote: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class ProbePacket:
    """A probe met a packet that it did not expect."""

    id: int
    octets: bytes


@dataclass(frozen=True, slots=True)
class ProbeExpired:
    """A probe met nothing for the detection time of this program."""

    id: int
    generation: int


@dataclass(frozen=True, slots=True)
class Counters:
    """A reading of the data plane's counters: of SAs at least those that changed, of drops all that are not zero,
    or none at all where they were not read."""

    sas: Mapping[tuple[Direction, int, int], SaCounters]
    drops: Mapping[tuple[int, str], int] = field(default_factory=dict)

    @property
    def by_connection(self) -> dict[int, dict[tuple[Direction, int], SaCounters]]:
        """Connection number -> (direction, spi) -> counters."""
        found: dict[int, dict[tuple[Direction, int], SaCounters]] = {}
        for (direction, number, spi), value in self.sas.items():
            found.setdefault(number, {})[direction, spi] = value
        return found


@dataclass(frozen=True, slots=True)
class ForgetLearned:
    """The operator's word: these prefixes, once learned in a tunnel, need no protection any more."""

    prefixes: tuple[Prefix, ...]
    instance: str = ""


@dataclass(frozen=True, slots=True)
class TableAnswered:
    """How a call to the cloud's route tables ended."""

    ticket: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class AddressAnswered:
    """How a call to the cloud about shared addresses ended."""

    ticket: int
    outcome: address_values.Outcome


@dataclass(frozen=True, slots=True)
class WitnessAnswered:
    """What a witness in the cloud said to an Ask."""

    ticket: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class WorkersWork:
    """Whether the data plane's threads go on."""

    works: bool


@dataclass(frozen=True, slots=True)
class Operate:
    """Operator intent: initiate, terminate, rekey or drain a connection, or one of its children; drain it `to` an address."""

    verb: str
    connection: str
    child: str = ""
    to: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaOpened:
    """A session with the other gateway for copies of SAs; `dialed`: from here."""

    dialed: bool


@dataclass(frozen=True, slots=True)
class ReplicaSaid:
    """By the other gateway, in that session."""

    said: Said = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReplicaClosed:
    """The session is over."""


ReplicaCommand = ReplicaOpened | ReplicaSaid | ReplicaClosed | AddressAnswered
