"""What shorthands and defaults of the configuration amount to; the node asks here, not the model."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from gateway.config.diagnostics import KeyPath
from gateway.config.model import (
    Address,
    Bgp,
    Child,
    Config,
    Connection,
    DataPlane,
    HaPath,
    HaPeer,
    HaWitness,
    Interface,
    Neighbor,
    Prefix,
)

DEFAULT_CHILD = "net"
SHORTHANDS = ("local_ts", "remote_ts", "esp_proposals")
# RFC 3948 2.1: ESP in UDP and IKE share this port.
NAT_T_PORT = 4500
WORKERS_MAX = 64
NODE_TTL, CLOUD_TTL = 1.0, 6.0
_LIFE_TIME_PERCENT = 110


def children_of(connection: Connection) -> dict[str, Child]:
    """The CHILD_SAs by name, the shorthand of a single one expanded."""
    if connection.child:
        return dict(connection.child)
    given = {name: value for name in SHORTHANDS if (value := getattr(connection, name)) is not None}
    return {DEFAULT_CHILD: Child(**given)}


def workers_of(plane: DataPlane, available: int) -> int:
    """How many data plane threads, where the daemon has so many CPUs."""
    return plane.workers if plane.workers != "auto" else len(plane.cpus) or min(available, WORKERS_MAX)


def life_time_of(child: Child) -> float:
    """Seconds until the hard end of a CHILD_SA."""
    return child.rekey_time * _LIFE_TIME_PERCENT / 100 if child.life_time is None else child.life_time


def remote_prefixes(connection: Connection) -> tuple[Prefix, ...]:
    """The remote traffic selectors of all children, each once."""
    children = children_of(connection).values()
    return tuple(dict.fromkeys(prefix for child in children for prefix in child.remote_ts))


def is_everything(prefix: Prefix) -> bool:
    """Whether it is 0.0.0.0/0 or ::/0."""
    return prefix.prefixlen == 0


def protected_prefixes(connection: Connection) -> tuple[Prefix, ...]:
    """The prefixes that must never leave in clear."""
    if connection.protected is not None:
        return connection.protected
    return tuple(prefix for prefix in remote_prefixes(connection) if not is_everything(prefix))


def instance_of(config: Config, neighbor: Neighbor) -> str:
    """The name of the routing instance it belongs to; "" for none."""
    connection = config.connection.get(neighbor.connection or "")
    return (connection.instance if connection is not None else neighbor.instance) or ""


def is_backup(config: Config, neighbor: Neighbor) -> bool:
    """Whether its connection only takes over what a private circuit no longer carries."""
    connection = config.connection.get(neighbor.connection or "")
    return connection is not None and connection.protection == "backup"


def next_to_us(config: Config) -> tuple[Address, ...]:
    """Whom the host's own links lead to: the peers' outer ends, and the BGP neighbors beside the tunnels."""
    peers = [connection.remote_addrs for connection in config.connection.values()]
    neighbors = config.bgp.neighbor.values() if config.bgp is not None else ()
    return (*dict.fromkeys([*peers, *(neighbor.address for neighbor in neighbors if neighbor.connection is None)]),)


def pair_paths(config: Config) -> Iterator[tuple[KeyPath, HaPeer | HaPath]]:
    """The ways of heartbeats: that of [ha] first, then the others in the order of their names, as on the other gateway."""
    if config.ha is not None:
        yield ("ha",), config.ha
        for name in sorted(config.ha.path):
            yield ("ha", "path", name), config.ha.path[name]


def pair_neighbors(config: Config) -> tuple[Address, ...]:
    """Whom the pair speaks with outside of every tunnel: the other gateway, and the witness."""
    found = [path.remote_address for _, path in pair_paths(config)]
    if config.ha is not None and config.ha.witness is not None and config.ha.witness.address is not None:
        found.append(config.ha.witness.address)
    return (*dict.fromkeys(found),)


def lease_ttl(witness: HaWitness | None) -> float:
    """Seconds. A cloud takes a while to answer."""
    if witness is None or witness.ttl is None:
        return NODE_TTL if witness is None or witness.kind == "node" else CLOUD_TTL
    return witness.ttl


def copy_lasts(dead_time: float, ttl: float) -> float:
    """Seconds for which a copy of SAs may be used that its gateway confirms no more, and for which the active one waits for that: until the
    silence is noticed and the lease over, and twice that."""
    return 1.0 + 2 * (dead_time + ttl)


def uses_ipv6(config: Config) -> bool:
    """Whether any address or prefix of the configuration that is forwarded to or from is IPv6 (any-to-any selectors apart)."""
    named: list[Address | Prefix | Interface] = [*next_to_us(config), *(config.bgp.advertise if config.bgp else ())]
    named += [prefix for instance in config.instance.values() for prefix in instance.local]
    for connection in config.connection.values():
        named += [*connection.tunnel_address, *protected_prefixes(connection)]
    return any(one.version == 6 for one in named)


def session_address(config: Config, neighbor: Neighbor) -> Address | None:
    """Our address of a BGP session; None when the configuration names none of the family."""
    if neighbor.local_address is not None:
        return neighbor.local_address
    connection = config.connection.get(neighbor.connection or "")
    if connection is not None:
        facing = interface_facing(connection, neighbor.address)
        return None if facing is None else facing.ip
    outer = (other.local_addrs for other in config.connection.values())
    return next((address for address in outer if address.version == neighbor.address.version), None)


def interface_facing(connection: Connection, address: Address) -> Interface | None:
    """The tunnel_address whose prefix holds `address`."""
    return next((own for own in connection.tunnel_address if address in own.network), None)


def router_id(config: Config, bgp: Bgp) -> IPv4Address | None:
    """The BGP identifier: as configured, else the first IPv4 address of ours."""
    if bgp.router_id is not None:
        return bgp.router_id
    return next((address for address in _own_addresses(config) if isinstance(address, IPv4Address)), None)


def _own_addresses(config: Config) -> Iterator[Address]:
    for connection in config.connection.values():
        yield connection.local_addrs
    for connection in config.connection.values():
        yield from (own.ip for own in connection.tunnel_address)
    if config.ha is not None:
        yield config.ha.local_address
