"""What the gateway wants done, beside Transmit, Compute and the FIB's RouteOps, DumpRequest and Resolve.

The data plane effects are carried out in order and at once; every one has its call in
`esp.dataplane.DataPlane`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.bfd.probing import Arm
from gateway.bgp.settings import SpeakerSettings
from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, SaParameters
from gateway.ha.beating import Beat
from gateway.ha.replica import Said
from gateway.node.instances import InstanceSettings
from gateway.routing.model import Prefix, Route


@dataclass(frozen=True, slots=True)
class OpenTunnel:
    """Make the connection's TUN, with its addresses, and give it to the data plane. Answer: TunnelReady.

    What comes out of it may go where our table or the host's own routes lead, but by the host's default route only to
    `local_destinations`.
    """

    connection: int
    name: str
    mtu: int
    addresses: tuple[str, ...]
    local_destinations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SetInstances:
    """The routing instances there are, and to which of them each TUN belongs, by connection. `guarded`: what stood in another
    table is closed where its packets are looked up now, so that the rules that led there may go."""

    instances: tuple[InstanceSettings, ...]
    members: Mapping[str, str]
    guarded: bool = True


@dataclass(frozen=True, slots=True)
class CloseTunnel:
    connection: int
    name: str


@dataclass(frozen=True, slots=True)
class SetTunnelMtu:
    """Inner MTU and MSS clamps, from the negotiated suites. `local_destinations` only where a reload changed them.
    `dscp` of outer packets (None: the inner one's) and `clear_df` as configured."""

    connection: int
    name: str
    mtu: int
    tcp_mss4: int
    tcp_mss6: int
    local_destinations: tuple[str, ...] | None = None
    dscp: int | None = None
    clear_df: bool = False


@dataclass(frozen=True, slots=True)
class AddSa:
    sa: SaParameters


@dataclass(frozen=True, slots=True)
class RemoveSa:
    direction: Direction
    connection: int
    spi: int


@dataclass(frozen=True, slots=True)
class MoveSa:
    """`local`: where our end is now, where it has changed, too."""

    connection: int
    spi: int
    remote: Endpoint
    local: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class SetPolicies:
    """Outbound SAs in order of preference."""

    connection: int
    spis: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    connection: int
    spi: int
    limit: int


@dataclass(frozen=True, slots=True)
class Advance:
    """So many sequence numbers of an outbound SA are never used."""

    connection: int
    spi: int
    by: int


@dataclass(frozen=True, slots=True)
class BgpLine:
    """One command line for ExaBGP."""

    text: str


@dataclass(frozen=True, slots=True)
class BgpStart:
    """Run ExaBGP with these settings, or reload it when it runs. `forwards`: packets go where this gateway last announced, as
    neighbors are told when a session begins (the F bit of RFC 4724 3)."""

    settings: SpeakerSettings = field(repr=False)
    forwards: bool = False


@dataclass(frozen=True, slots=True)
class BgpUnresponsive:
    """ExaBGP left commands unanswered, for the `times`-th time in a row."""

    times: int


@dataclass(frozen=True, slots=True)
class BgpDrained:
    """Every withdrawal is out: ExaBGP may be stopped."""


@dataclass(frozen=True, slots=True)
class ProbeOpen:
    """A probe between two addresses, of a kind of native/probe.h. `interface`: the TUN it stays in, 0: outside of all."""

    id: int
    kind: str
    key: int
    local: str
    remote: str
    interface: int


@dataclass(frozen=True, slots=True)
class ProbeArm:
    """Its program from now on."""

    id: int
    arm: Arm


@dataclass(frozen=True, slots=True)
class ProbeSend:
    """One packet of it, now."""

    id: int
    octets: bytes


@dataclass(frozen=True, slots=True)
class ProbeClose:
    id: int


@dataclass(frozen=True, slots=True)
class PairBeat:
    """What heartbeats to send to the other gateway of the pair."""

    beat: Beat


@dataclass(frozen=True, slots=True)
class PairTransmit:
    """A datagram to the witness."""

    data: bytes
    local: Endpoint
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class MoveFence:
    """Until when, on the node's clock, SAs of shared addresses may send."""

    until: float


@dataclass(frozen=True, slots=True)
class HoldAddresses:
    """The shared addresses are this host's, and its neighbors are told; or they are not."""

    addresses: tuple[str, ...]
    held: bool


@dataclass(frozen=True, slots=True)
class ReplicaSeek:
    """Whether to keep a session with the other gateway open from here, for a copy of its SAs."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class ReplicaSay:
    """To the other gateway, in the session there is."""

    said: Said = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReplicaClose:
    """End the session there is."""


@dataclass(frozen=True, slots=True)
class SaveEpoch:
    """Write down the highest epoch known, for the next process."""

    epoch: int


@dataclass(frozen=True, slots=True)
class TableGuard:
    """The guard of one table, and of it the learned prefixes; without an `instance` that of the gateway's own."""

    entries: tuple[Route, ...] = ()
    learned: tuple[Prefix, ...] = ()
    instance: InstanceSettings | None = None


@dataclass(frozen=True, slots=True)
class SaveGuard:
    """Write down what must be in the kernel whether or not we run."""

    tables: tuple[TableGuard, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened that people want to read. `failure`/`context` name what explain.py has a sentence for. `each`: it is written
    however often it happens; of others that come in masses only how many there were."""

    level: str
    event: str
    tunnel: str
    text: str
    failure: str = ""
    context: dict[str, str] = field(default_factory=dict)
    each: bool = False
