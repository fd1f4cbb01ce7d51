"""Which paths are accepted, and what each neighbor is told: what always holds, then the operator's policies.

Import: no loops (RFC 4271 9.1.2), no martians, nothing of our own, no default route unless allowed.
Export: our own prefixes; and what one side of the gateway taught us goes to the other side: site prefixes to
the VNet, VNet prefixes to the site. Never between two sites, never between two VNet-side neighbors (no
transit) unless asked. The other gateway of a pair hears both sides and is passed on to nobody. RFC 1997 communities.
"""

from __future__ import annotations

from functools import lru_cache
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
from gateway.bgp.prefixes import ADDRESSES_REMEMBERED, PrefixSet
from gateway.bgp.route_policy import Route, apply
from gateway.bgp.settings import Address, NeighborSettings, Prefix, Role, SpeakerSettings
from gateway.bgp.underlay import mark

# RFC 6890, RFC 4291: never routed between networks
MARTIANS = PrefixSet(
    ip_network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
                 "::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8")
)  # fmt: skip

DEFAULT_LENGTHS = {4: 7, 6: 6}
"""By version: prefixes of this length and below are a default route, whole or in pieces, as `runtime/rules.py` has it."""

STANDBY_PREFERENCE = 50
"""LOCAL_PREF of what is learned in a tunnel that is the backup of a private circuit."""

OWN_AS = "own-as-in-path"
DEFAULT_ROUTE = "default-route"
MARTIAN = "martian"
NEVER = "never-prefix"
OWN_PREFIX = "own-prefix"
OWN_NEXT_HOP = "own-next-hop"
BAD_NEXT_HOP = "bad-next-hop"
EMPTY_PATH = "empty-as-path"
MALFORMED = "malformed-attributes"
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
    if neighbor.standby and path.attributes.local_preference is None:
        path = path._replace(attributes=path.attributes._replace(local_preference=STANDBY_PREFERENCE))
    reason = import_verdict(settings, neighbor, path)
    policy = neighbor.import_policy
    if reason or policy is None:
        return path, reason
    route, why = apply(policy, Route(path.prefix, path.next_hop, path.attributes, path.neighbor))
    if route is None:
        return path, why
    attributes = route.attributes
    if route.prepend:
        attributes = attributes._replace(
            as_path=(path.neighbor_as,) * route.prepend + attributes.as_path,
            as_path_length=attributes.as_path_length + route.prepend,
        )
    return path._replace(next_hop=route.next_hop, attributes=attributes), ""


def import_verdict(settings: SpeakerSettings, neighbor: NeighborSettings, path: Path) -> str:
    """The reason to reject `path` whatever the operator's policy says, or ""."""
    prefix = path.prefix
    # RFC 4271 9.1.2: a path with our own AS in it is a loop
    as_path = path.attributes.as_path
    if settings.local_as in as_path and as_path.count(settings.local_as) > neighbor.allow_own_as:
        return OWN_AS
    if MARTIANS.covers(prefix):
        return MARTIAN
    if prefix.prefixlen <= DEFAULT_LENGTHS[prefix.version] and not neighbor.accept_default:
        return DEFAULT_ROUTE
    if settings.never_set.covers(prefix):
        return NEVER
    # a site must not pull part of our own prefixes out of the VNet
    ours = settings.instance(neighbor)
    if prefix in ours.own or (ours.advertise_set.covers(prefix) and settings.role(neighbor) is Role.SITE):
        return OWN_PREFIX
    # RFC 4271 5.1.3: a route whose next hop is ourselves is not usable
    if path.next_hop in settings.own_addresses:
        return OWN_NEXT_HOP
    if fault := _next_hop_fault(path.next_hop):
        return fault
    # RFC 4271 5.1.2: another AS has put itself into the path; without it this would be the shortest of all
    if path.external and not path.as_path:
        return EMPTY_PATH
    return ""


@lru_cache(ADDRESSES_REMEMBERED)
def _next_hop_fault(next_hop: Address) -> str:
    """Whatever the settings. Next hops are few, and judged with every prefix."""
    if next_hop.is_unspecified:
        return OWN_NEXT_HOP
    # RFC 4271 6.3: the next hop must be a valid host address
    return BAD_NEXT_HOP if next_hop.is_multicast or next_hop.is_loopback or next_hop.is_reserved else ""


def heard_sides(settings: SpeakerSettings, neighbor: NeighborSettings) -> frozenset[Role]:
    """What was learned on these sides of the gateway may be told to `neighbor`; of the others nothing is."""
    if neighbor.advertise is not None:
        return frozenset()
    if neighbor.transit:
        return frozenset(Role) - {Role.PAIR}
    return frozenset(side for side, told in PASSED_ON.items() if settings.role(neighbor) in told)


def own_prefixes(settings: SpeakerSettings, neighbor: NeighborSettings) -> tuple[Prefix, ...]:
    """Our own prefixes for this neighbor. A session carries the family of its addresses."""
    prefixes = settings.instance(neighbor).advertise if neighbor.advertise is None else neighbor.advertise
    return tuple(prefix for prefix in prefixes if prefix.version == neighbor.address.version)


def export(
    settings: SpeakerSettings, neighbor: NeighborSettings, prefix: Prefix, best: Path | None, source: Role | None
) -> Announcement | None:
    """What `neighbor` is told about `prefix`; `source` is the role of the neighbor `best` came from."""
    if prefix.version != neighbor.address.version:
        return None
    if prefix in (settings.instance(neighbor).own if neighbor.advertise is None else neighbor.own):
        return originate(settings, neighbor, prefix)
    if best is None or source is None or barrier(settings, neighbor, best, source):
        return None
    attributes = best.attributes
    # RFC 4271 5.1.4: a MED from one AS is not passed to another
    med = attributes.med if settings.internal(neighbor) else None
    if neighbor.export_policy is None:
        return _announcement(settings, neighbor, neighbor.local_address, attributes, med)
    if med != attributes.med:
        attributes = attributes._replace(med=med)
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
    marks = (mark(settings.local_as),) if neighbor.outdo else ()
    return Announcement(
        next_hop=next_hop,
        # RFC 4271 5.1.2: prepend our AS towards another AS, leave the path alone inside ours
        as_path=attributes.as_path if internal else (settings.local_as,) * (1 + prepend) + attributes.as_path,
        origin=attributes.origin,
        med=med,
        # RFC 4271 5.1.5: LOCAL_PREF only inside the AS
        local_preference=(DEFAULT_LOCAL_PREFERENCE if preference is None else preference) if internal else None,
        communities=attributes.communities,
        large_communities=attributes.large_communities + marks,
    )


def import_rule(neighbor: NeighborSettings, path: Path) -> str:
    """The operator's rule that decides about a path as received, for people."""
    policy = neighbor.import_policy
    if policy is None:
        return "no policy"
    return apply(policy, Route(path.prefix, path.next_hop, path.attributes, path.neighbor)).why


def export_rule(
    settings: SpeakerSettings, neighbor: NeighborSettings, prefix: Prefix, best: Path | None, source: Role | None
) -> str:
    """What decides whether and how `prefix` itself is told to `neighbor`, for people."""
    if prefix in (settings.instance(neighbor).own if neighbor.advertise is None else neighbor.own):
        route = Route(prefix, neighbor.local_address, Attributes(origin="igp"))
    elif best is None or source is None:
        return "we have no route there"
    elif reason := barrier(settings, neighbor, best, source):
        return reason
    else:
        # RFC 4271 5.1.4: as `export` has it
        med = best.attributes.med if settings.internal(neighbor) else None
        route = Route(prefix, neighbor.local_address, best.attributes._replace(med=med), best.neighbor)
    if neighbor.export_policy is None:
        return "no policy"
    return apply(neighbor.export_policy, route).why


def barrier(settings: SpeakerSettings, neighbor: NeighborSettings, best: Path, source: Role) -> str:
    """Why a path is not told to `neighbor` whatever the operator's policy says, or ""."""
    internal = settings.internal(neighbor)
    attributes = best.attributes
    if neighbor.advertise is not None:
        return "it is told its own list only (advertise)"
    if best.neighbor == neighbor.name:
        return "it taught us this path"
    if not _crosses(settings.role(neighbor), source, attributes, neighbor.transit):
        return "no transit: learned on its side of the gateway"
    # RFC 4271 9.2.1: what IBGP taught us is not told to IBGP
    if internal and not best.external:
        return "IBGP is not told what IBGP taught us"
    # the neighbor would reject it as a loop
    if not internal and neighbor.remote_as in attributes.as_path:
        return "its AS is in the path"
    # RFC 9774 3: AS_SETs must not be advertised, and flattening one would lie about the path
    if attributes.has_as_set:
        return "there is an AS_SET in the path"
    # RFC 1997: well-known communities
    barred = {NO_ADVERTISE} if internal else {NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED}
    return "" if barred.isdisjoint(attributes.communities) else "a well-known community forbids it"


def _crosses(role: Role, source: Role, attributes: Attributes, transit: bool) -> bool:
    """Whether it may go from the one side of the gateway to the other."""
    if transit:
        return source is not Role.PAIR
    if role is not Role.PAIR and not MICROSOFT.isdisjoint(attributes.as_path[1:]):
        return False
    return role in PASSED_ON[source]
