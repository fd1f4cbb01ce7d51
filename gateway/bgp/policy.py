"""Which paths are accepted, and what each neighbor is told: what always holds, then the operator's policies.

Import: no loops (RFC 4271 9.1.2), no martians, nothing of our own, no default route unless allowed.
Export: our own prefixes; and what one side of the gateway taught us goes to the other side: site prefixes to
the VNet, VNet prefixes to the site. Never between two sites, never between two VNet-side neighbors (no
transit) unless asked. The other gateway of a pair hears both sides and is passed on to nobody. RFC 1997 communities.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from gateway.bgp.path import (
    DEFAULT_LOCAL_PREFERENCE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
    Announcement,
    Attributes,
    Path,
)
from gateway.bgp.prefixes import PrefixSet
from gateway.bgp.route_policy import Route, apply
from gateway.bgp.settings import Address, NeighborSettings, Prefix, Role, SpeakerSettings

# RFC 6890, RFC 4291: never routed between networks
MARTIANS = PrefixSet(
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
                 "::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")
)  # fmt: skip

OWN_AS = "own-as-in-path"
DEFAULT_ROUTE = "default-route"
MARTIAN = "martian"
NEVER = "never-prefix"
OWN_PREFIX = "own-prefix"
OWN_NEXT_HOP = "own-next-hop"
MAX_PREFIXES = "max-prefixes"
POLICY = "policy"

# Azure's gateways and route servers, and the edges of ExpressRoute, which takes back routes with its own AS in them:
# what came through one of them by way of somebody else is not passed on, or it goes round
MICROSOFT = frozenset({65515, 12076})

# learned on the key's side, told to these sides
PASSED_ON: dict[Role, frozenset[Role]] = {
    Role.SITE: frozenset({Role.FABRIC, Role.PAIR}),
    Role.FABRIC: frozenset({Role.SITE, Role.PAIR}),
    Role.PAIR: frozenset(),
}


def accept(settings: SpeakerSettings, neighbor: NeighborSettings, path: Path) -> tuple[Path, str]:
    """The path as it is used, and "" or the reason why it is not."""
    reason = import_verdict(settings, neighbor, path)
    policy = neighbor.import_policy
    if reason or policy is None:
        return path, reason
    route, why = apply(policy, Route(path.prefix, path.next_hop, path.attributes, path.neighbor))
    if route is None:
        return path, why
    attributes = route.attributes
    if route.prepend:
        attributes = replace(
            attributes,
            as_path=(path.neighbor_as,) * route.prepend + attributes.as_path,
            as_path_length=attributes.as_path_length + route.prepend,
        )
    return replace(path, next_hop=route.next_hop, attributes=attributes), ""


def import_verdict(settings: SpeakerSettings, neighbor: NeighborSettings, path: Path) -> str:
    """The reason to reject `path` whatever the operator's policy says, or ""."""
    prefix = path.prefix
    # RFC 4271 9.1.2: a path with our own AS in it is a loop
    if settings.local_as in path.as_path and path.as_path.count(settings.local_as) > neighbor.allow_own_as:
        return OWN_AS
    if prefix.prefixlen == 0:
        return "" if neighbor.accept_default else DEFAULT_ROUTE
    if MARTIANS.covers(prefix):
        return MARTIAN
    if settings.never_set.covers(prefix):
        return NEVER
    # a site must not pull part of our own prefixes out of the VNet
    if prefix in settings.own or (settings.role(neighbor) is Role.SITE and settings.advertise_set.covers(prefix)):
        return OWN_PREFIX
    # RFC 4271 5.1.3: a route whose next hop is ourselves is not usable
    if path.next_hop == neighbor.local_address or path.next_hop.is_unspecified:
        return OWN_NEXT_HOP
    return ""


def own_prefixes(settings: SpeakerSettings, neighbor: NeighborSettings) -> tuple[Prefix, ...]:
    """Our own prefixes for this neighbor. A session carries the family of its addresses."""
    prefixes = settings.advertise if neighbor.advertise is None else neighbor.advertise
    return tuple(prefix for prefix in prefixes if prefix.version == neighbor.address.version)


def export(
    settings: SpeakerSettings, neighbor: NeighborSettings, prefix: Prefix, best: Path | None, source: Role | None
) -> Announcement | None:
    """What `neighbor` is told about `prefix`; `source` is the role of the neighbor `best` came from."""
    if prefix.version != neighbor.address.version:
        return None
    if prefix in (settings.own if neighbor.advertise is None else neighbor.own):
        return originate(settings, neighbor, prefix)
    if best is None or source is None or not _passes(settings, neighbor, best, source):
        return None
    attributes = best.attributes
    # RFC 4271 5.1.4: a MED from one AS is not passed to another
    med = attributes.med if settings.internal(neighbor) else None
    if neighbor.export_policy is None:
        return _announcement(settings, neighbor, neighbor.local_address, attributes, med)
    if med != attributes.med:
        attributes = replace(attributes, med=med)
    return _told(settings, neighbor, Route(prefix, neighbor.local_address, attributes, best.neighbor))


def originate(settings: SpeakerSettings, neighbor: NeighborSettings, prefix: Prefix) -> Announcement | None:
    """A route that begins here."""
    return _told(settings, neighbor, Route(prefix, neighbor.local_address, Attributes(origin="igp")))


def _told(settings: SpeakerSettings, neighbor: NeighborSettings, route: Route) -> Announcement | None:
    if neighbor.export_policy is not None:
        changed, _ = apply(neighbor.export_policy, route)
        if changed is None:
            return None
        route = changed
    return _announcement(settings, neighbor, route.next_hop, route.attributes, route.attributes.med, route.prepend)


def _announcement(
    settings: SpeakerSettings,
    neighbor: NeighborSettings,
    next_hop: Address,
    attributes: Attributes,
    med: int | None,
    prepend: int = 0,
) -> Announcement:
    internal = settings.internal(neighbor)
    preference = attributes.local_preference
    return Announcement(
        next_hop=next_hop,
        # RFC 4271 5.1.2: prepend our AS towards another AS, leave the path alone inside ours
        as_path=attributes.as_path if internal else (settings.local_as,) * (1 + prepend) + attributes.as_path,
        origin=attributes.origin,
        med=med,
        # RFC 4271 5.1.5: LOCAL_PREF only inside the AS
        local_preference=(DEFAULT_LOCAL_PREFERENCE if preference is None else preference) if internal else None,
        communities=attributes.communities,
        large_communities=attributes.large_communities,
    )


def _passes(settings: SpeakerSettings, neighbor: NeighborSettings, best: Path, source: Role) -> bool:
    internal = settings.internal(neighbor)
    attributes = best.attributes
    if neighbor.advertise is not None or best.neighbor == neighbor.name:
        return False
    if not _crosses(settings.role(neighbor), source, attributes, neighbor.transit):
        return False
    # RFC 4271 9.2.1: what IBGP taught us is not told to IBGP
    if internal and not best.external:
        return False
    # the neighbor would reject it as a loop
    if not internal and neighbor.remote_as in attributes.as_path:
        return False
    # RFC 9774 3: AS_SETs must not be advertised, and flattening one would lie about the path
    if attributes.has_as_set:
        return False
    # RFC 1997: well-known communities
    barred = {NO_ADVERTISE} if internal else {NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED}
    return barred.isdisjoint(attributes.communities)


def _crosses(role: Role, source: Role, attributes: Attributes, transit: bool) -> bool:
    """Whether it may go from the one side of the gateway to the other."""
    if transit:
        return source is not Role.PAIR
    if role is not Role.PAIR and not MICROSOFT.isdisjoint(attributes.as_path[1:]):
        return False
    return role in PASSED_ON[source]
