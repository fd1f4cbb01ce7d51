"""From the configuration (config/model.py) to what the cores are told; the only place that knows both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_interface

from gateway.bgp.settings import SpeakerSettings
from gateway.config import derive
from gateway.config.identity import parse_identity
from gateway.config.model import Address, Child, Config, Connection, Prefix
from gateway.config.proposals import ProposalSpec, parse_esp_proposal, parse_ike_proposal
from gateway.contract import Endpoint
from gateway.esp.dataplane import Limits
from gateway.ha.fabric_values import FabricSettings
from gateway.ike.certificate_names import own_identity
from gateway.ike.proposal import Offer, make_offer
from gateway.ike.registry import IdType, Protocol
from gateway.ike.settings import ChildSettings, ConnectionSettings, Credentials, Identity, PostQuantumKey, Trust
from gateway.ike.traffic_selector import from_range
from gateway.node.bgp_settings import speaker_settings
from gateway.node.fabric_settings import fabric_settings
from gateway.node.instances import InstanceSettings, instances
from gateway.node.pair_settings import PairSecrets, PairSettings, pair_settings
from gateway.node.watches import Watch, watches
from gateway.routing.model import SetRoute, ViaCircuit, ViaConnection

ID_TYPES = {
    "ipv4": IdType.IPV4_ADDR,
    "ipv6": IdType.IPV6_ADDR,
    "fqdn": IdType.FQDN,
    "rfc822": IdType.RFC822_ADDR,
    "key_id": IdType.KEY_ID,
    "dn": IdType.DER_ASN1_DN,
}
CIRCUIT, STATIC = 5, 10
"""Distances of routes, as routers have them."""
HARD_SHARE = 1.1
"""A hard limit of octets or packets lies this factor above the soft one."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets and certificates of a configuration, read by the shell. Keys are connection and neighbor names."""

    psks: Mapping[str, bytes] = field(repr=False)
    bgp_passwords: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    pair: PairSecrets = PairSecrets()
    ppks: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    certificates: Mapping[str, Credentials] = field(default_factory=dict, repr=False)
    trusts: Mapping[str, Trust] = field(default_factory=dict, repr=False)
    bfd_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """One connection as the node sees it. `routes` go into its TUN; `protected` never leave in clear;
    `local_destinations` are ours, so that what comes out of the TUN may follow the host's default route to them."""

    id: int
    name: str
    ike: ConnectionSettings
    start_action: str
    addresses: tuple[str, ...]
    link_mtu: int
    protected: tuple[Prefix, ...]
    routes: tuple[Prefix, ...]
    local_destinations: tuple[str, ...]
    limits: Mapping[str, Limits]
    replay_windows: Mapping[str, int]
    remote: Address
    protect_learned: bool = True
    dscp: int | None = None
    clear_df: bool = False
    instance: str = ""
    backup: bool = False  # what it protects leaves in clear by a private circuit while that works
    circuit: bool = False  # which is watched, and reached by the host's own routes
    redirect_to: str = ""  # the other gateway of the pair, for a peer that has a tunnel to the active one alone

    @property
    def yielding(self) -> tuple[Prefix, ...]:
        """Of `protected`: what may leave in clear by choice. Never the tunnel's own networks."""
        own = {ip_interface(text).network for text in self.addresses}
        return tuple(prefix for prefix in self.protected if prefix not in own) if self.backup else ()

    @property
    def candidates(self) -> tuple[SetRoute, ...]:
        """The routes that its configuration alone asks for."""
        into = [SetRoute(prefix, ViaConnection(self.name), "static", STATIC) for prefix in self.routes]
        beside = [
            SetRoute(prefix, ViaCircuit(self.name), "circuit", CIRCUIT) for prefix in self.yielding if self.circuit
        ]
        return (*into, *beside)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    name: str
    tunnels: tuple[TunnelSettings, ...]
    bgp: SpeakerSettings | None
    pair: PairSettings | None = None
    beside: frozenset[Address] = frozenset()
    """Neighbors and the peer gateway that are reached outside of every tunnel."""
    watches: tuple[Watch, ...] = ()
    instances: tuple[InstanceSettings, ...] = ()
    fabric: FabricSettings | None = None

    # Asked for with every route
    on_circuits: frozenset[str] = field(init=False, repr=False, compare=False)
    """The connections whose prefixes follow the host's own routes while their circuit works."""
    keeping: frozenset[str] = field(init=False, repr=False, compare=False)
    """The connections of which learned prefixes stay protected."""

    def __post_init__(self) -> None:
        circuits = frozenset(tunnel.name for tunnel in self.tunnels if tunnel.circuit)
        keeping = frozenset(tunnel.name for tunnel in self.tunnels if tunnel.protect_learned and not tunnel.backup)
        object.__setattr__(self, "on_circuits", circuits)
        object.__setattr__(self, "keeping", keeping)

    def tunnel(self, name: str) -> TunnelSettings | None:
        return next((tunnel for tunnel in self.tunnels if tunnel.name == name), None)


def build(
    config: Config, secrets: Secrets, ids: Mapping[str, int] | None = None, sources: Mapping[str, Address] | None = None
) -> GatewaySettings:
    """The node's settings. `ids`: connection numbers to keep over a reload; new names get fresh ones.
    `sources`: by neighbor name, the address this host would use towards it, for neighbors outside of tunnels."""
    known = dict(ids or {})
    last = max(known.values(), default=0)
    tunnels = []
    for name in config.connection:
        number = known.setdefault(name, last + 1)
        last = max(last, number)
        tunnels.append(_tunnel(number, name, config, secrets))
    speaker = speaker_settings(config, secrets.bgp_passwords, sources or {})
    return GatewaySettings(
        config.gateway.name,
        tuple(tunnels),
        speaker,
        pair_settings(config, secrets.pair),
        frozenset(_beside(config)),
        tuple(watches(config, speaker, secrets.bfd_keys)),
        tuple(instances(config)),
        fabric_settings(config),
    )


def _beside(config: Config) -> Iterator[Address]:
    if config.bgp is not None:
        yield from (one.address for one in config.bgp.neighbor.values() if one.connection is None)
    yield from derive.pair_neighbors(config)


def _tunnel(number: int, name: str, config: Config, secrets: Secrets) -> TunnelSettings:
    connection = config.connection[name]
    shared = config.ha is not None and connection.local_addrs in config.ha.shared_addresses
    children = derive.children_of(connection)
    remote_prefixes = derive.remote_prefixes(connection)
    networks = tuple(address.network for address in connection.tunnel_address)
    return TunnelSettings(
        id=number,
        name=name,
        ike=_ike(name, connection, secrets, shared),
        start_action=connection.start_action,
        addresses=tuple(str(address) for address in connection.tunnel_address),
        link_mtu=connection.link_mtu,
        # The tunnel's own network too: were the TUN gone, BGP inside it would leave by the default route
        protected=tuple(dict.fromkeys((*derive.protected_prefixes(connection), *networks))),
        routes=tuple(
            dict.fromkeys((*(prefix for prefix in remote_prefixes if not derive.is_everything(prefix)), *networks))
        ),
        local_destinations=_local_destinations(config, name),
        limits={child_name: _limits(child) for child_name, child in children.items()},
        replay_windows={child_name: child.replay_window for child_name, child in children.items()},
        remote=connection.remote_addrs,
        protect_learned=connection.protect_learned,
        dscp=None if connection.dscp == "copy" else connection.dscp,
        clear_df=connection.df == "clear",
        instance=connection.instance or "",
        backup=connection.protection == "backup",
        circuit=connection.circuit is not None,
        redirect_to=str(connection.redirect_to or ""),
    )


def _local_destinations(config: Config, name: str) -> tuple[str, ...]:
    """What the configuration names as lying on our side, in as few prefixes as it takes: local_ts, and what we announce
    to everybody and into this tunnel. Announcements to other neighbors name what lies behind tunnels. A default route
    names nothing."""
    named = {prefix for child in derive.children_of(config.connection[name]).values() for prefix in child.local_ts}
    if config.bgp is not None:
        into_tunnel = [neighbor for neighbor in config.bgp.neighbor.values() if neighbor.connection == name]
        named.update(config.bgp.advertise, *(neighbor.advertise or () for neighbor in into_tunnel))
    ours = [prefix for prefix in named if not derive.is_everything(prefix)]
    collapsed: list[Prefix] = [*collapse_addresses(prefix for prefix in ours if isinstance(prefix, IPv4Network))]
    collapsed += collapse_addresses(prefix for prefix in ours if isinstance(prefix, IPv6Network))
    # Two halves are a default route too
    return tuple(str(prefix) for prefix in collapsed if not derive.is_everything(prefix))


def _limits(child: Child) -> Limits:
    return Limits(
        soft_octets=child.rekey_bytes,
        hard_octets=int(child.rekey_bytes * HARD_SHARE),
        soft_packets=child.rekey_packets,
        hard_packets=int(child.rekey_packets * HARD_SHARE),
    )


def _ike(name: str, connection: Connection, secrets: Secrets, shared: bool) -> ConnectionSettings:
    return ConnectionSettings(
        name=name,
        local=Endpoint(str(connection.local_addrs), connection.local_port),
        remote=Endpoint(str(connection.remote_addrs), connection.remote_port),
        shared=shared,
        local_id=_local_id(connection, secrets.certificates.get(name)),
        remote_id=identity(connection.remote_id or str(connection.remote_addrs)),
        psk=secrets.psks.get(name, b""),
        credentials=secrets.certificates.get(name),
        trust=secrets.trusts.get(name),
        ppk=_ppk(connection, secrets.ppks.get(name)),
        offers=tuple(_offer(Protocol.IKE, spec) for spec in _ike_proposals(connection)),
        post_quantum=connection.post_quantum,
        children=tuple(
            _child(child_name, child, connection.resource_sas)
            for child_name, child in derive.children_of(connection).items()
        ),
        quick_crash_detection=connection.quick_crash_detection,
        mobike=connection.mobike,
        redirect=connection.redirect,
        encap=connection.encap,
        rekey_time=connection.rekey_time,
        reauth_time=connection.reauth_time,
        rekey_check=connection.rekey_check,
        childless=connection.childless,
        dpd_delay=connection.dpd_delay,
        retransmit_timeout=connection.retransmit_timeout,
        retransmit_base=connection.retransmit_base,
        retransmit_tries=connection.retransmit_tries,
        fragment_size=connection.fragment_size,
    )


def _ike_proposals(connection: Connection) -> tuple[ProposalSpec, ...]:
    written = tuple(parse_ike_proposal(text) for text in connection.proposals)
    if connection.post_quantum == "off":
        return written
    hybrid = tuple(dict.fromkeys(spec.with_ml_kem() for spec in written))
    fallback = tuple(spec for spec in written if not spec.post_quantum)
    return hybrid + (fallback if connection.post_quantum == "prefer" else ())


def _ppk(connection: Connection, secret: bytes | None) -> PostQuantumKey | None:
    if secret is None or connection.ppk_id is None:
        return None
    return PostQuantumKey(connection.ppk_id.encode(), secret, connection.ppk_required)


def _local_id(connection: Connection, credentials: Credentials | None) -> Identity:
    """As with swanctl the subject of the certificate is whose it is, unless told."""
    if connection.local_id is None and credentials is not None:
        return own_identity(credentials.certificate)
    return identity(connection.local_id or str(connection.local_addrs))


def identity(text: str) -> Identity:
    """Of the text of the configuration."""
    spec = parse_identity(text)
    return Identity(int(ID_TYPES[spec.kind]), spec.data, spec.text)


def _offer(protocol: Protocol, spec: ProposalSpec) -> Offer:
    return make_offer(protocol, spec.encryption, spec.integrity, spec.prf, spec.key_exchange, spec.esn, spec.additional)


def _child(name: str, child: Child, resources: int) -> ChildSettings:
    return ChildSettings(
        name=name,
        offers=tuple(_offer(Protocol.ESP, parse_esp_proposal(text)) for text in child.esp_proposals),
        local_ts=tuple(from_range(prefix[0].packed, prefix[-1].packed) for prefix in child.local_ts),
        remote_ts=tuple(from_range(prefix[0].packed, prefix[-1].packed) for prefix in child.remote_ts),
        rekey_time=child.rekey_time,
        life_time=derive.life_time_of(child),
        resources=resources,
    )
