"""The [bgp] section: the speaker, its neighbors, and the policies named by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway.config.addresses import AddressField, Ipv4AddressField, PrefixField
from gateway.config.liveness_model import Bfd
from gateway.config.policies import parse_as_path, parse_community, parse_default_route, parse_prefix_match, parse_split
from gateway.config.types import Asn, Duration, Integer, Metric, Name, SecretSource, Section, Switch


def _checked(text: str, parse: Callable[[str], object]) -> str:
    parse(text)
    return text


def _default_route(text: str) -> str:
    if text not in ("never", "always"):
        parse_default_route(text)
    return text


PrefixEntry = Annotated[str, AfterValidator(lambda text: _checked(text, parse_prefix_match))]
AsPathPattern = Annotated[str, AfterValidator(lambda text: _checked(text, parse_as_path))]
Community = Annotated[str, AfterValidator(lambda text: _checked(text, parse_community))]
Split = Annotated[str, AfterValidator(lambda text: _checked(text, parse_split))]
DefaultRoute = Annotated[str, AfterValidator(_default_route)]

KINDS: dict[str, int] = {
    "router": 0,
    "azure-route-server": 1000,
    "azure-vpn-gateway": 4000,
    "expressroute": 4000,
    "expressroute-premium": 10000,
    "aws-direct-connect": 100,
    "aws-vpn-gateway": 100,
    "aws-transit-gateway": 1000,
}
"""Kinds of neighbors, and the prefixes each takes before it closes the session or drops some; 0: as many as there are."""
Kind = Literal[
    "router",
    "azure-route-server",
    "azure-vpn-gateway",
    "expressroute",
    "expressroute-premium",
    "aws-direct-connect",
    "aws-vpn-gateway",
    "aws-transit-gateway",
]


class PrefixList(Section):
    """Prefixes by name, for the rules of policies. The first entry that matches decides; nothing matching means no."""

    prefixes: tuple[PrefixEntry, ...] = Field(
        min_length=1,
        description='entries in order: `"10.0.0.0/8"` that prefix alone, `"10.0.0.0/8 ge 16 le 24"` what lies inside with such a length, `"deny ..."` not these',
    )


class PolicyRule(Section):
    """One rule of a policy. All conditions given must hold; without any it matches everything."""

    prefix_list: Name | None = Field(
        default=None, description="condition: the name of a prefix list that has the prefix"
    )
    prefixes: tuple[PrefixEntry, ...] = Field(
        default=(), description="condition: a prefix list of its own that has the prefix"
    )
    as_path: AsPathPattern | None = Field(
        default=None,
        description='condition: a regular expression over the AS path, `_` is a blank or either end: `"^65010_"`, `"_12076_"`, `"^$"`',
    )
    communities: tuple[Community, ...] = Field(
        default=(),
        description='condition: one of these is there; `"65010:100"`, `"65010:*"`, `"65010:1:2"`, `"no-export"`',
    )
    learned_from: tuple[Name, ...] | None = Field(
        default=None, description='condition: the neighbor that taught us the route; `"own"` for what begins here'
    )
    action: Literal["accept", "reject", "continue"] = Field(
        default="accept", description="continue: make the changes and let the next rules decide"
    )
    local_preference: Metric | None = Field(default=None, description="change: within our AS")
    med: Metric | None = Field(default=None, description="change: MULTI_EXIT_DISC, less is better")
    prepend: Integer = Field(
        default=0,
        ge=0,
        le=10,
        description="change: the AS in front once more so often: ours when announced to another AS, the neighbor's when learned",
    )
    next_hop: AddressField | None = Field(default=None, description="change: the next hop")
    set_communities: tuple[Community, ...] | None = Field(
        default=None, description="change: these of both kinds instead of all that are there"
    )
    add_communities: tuple[Community, ...] = Field(default=(), description="change: these too")
    delete_communities: tuple[Community, ...] = Field(
        default=(), description="change: without these; `*` matches any number"
    )


class Policy(Section):
    """What to accept from a neighbor or to announce to it, named by `import_policy` and `export_policy`.

    Rules are tried in the order in which they stand in the file. What always holds, holds before: no policy accepts a loop,
    a martian, one of our own prefixes or an outer address of a tunnel, and none announces a route to the wrong side
    (see `transit`) or against its community.
    """

    default: Literal["accept", "reject"] = Field(
        default="reject", description="what becomes of routes that no rule decides"
    )
    rule: dict[Name, PolicyRule] = Field(default_factory=dict, description="rules by name, in order")


class Neighbor(Section):
    """One BGP neighbor."""

    address: AddressField = Field(description="the neighbor's address")
    remote_as: Asn = Field(description="the neighbor's AS number")
    local_address: AddressField | None = Field(
        default=None,
        description="our address of the session; default: tunnel_address of `connection` facing it, else what this host's routes choose, "
        "else the first local_addrs of its family",
    )
    connection: Name | None = Field(
        default=None, description="the session runs inside this connection's tunnel; its routes point into the TUN"
    )
    instance: Name | None = Field(
        default=None,
        description="the routing instance it belongs to; default: that of `connection`, else the gateway's own table",
    )
    multihop: Integer = Field(
        default=1, ge=1, le=255, description="TTL of the session; Azure Route Server needs 2 or more"
    )
    ttl_security: Switch = Field(default=False, description="GTSM (RFC 5082): accept only TTL 255")
    password: SecretSource | None = Field(default=None, description="TCP MD5 password (RFC 2385)")
    hold_time: Integer = Field(default=30, ge=3, le=65535, description="hold time offered, in seconds")
    passive: Switch = Field(default=False, description="wait for the neighbor to connect")
    advertise: tuple[PrefixField, ...] | None = Field(
        default=None,
        description="prefixes announced to this neighbor; default: bgp.advertise (an instance's `local`) and what "
        "other kinds of neighbor taught us",
    )
    bfd: Bfd | None = Field(default=None, description="BFD with the neighbor; without it only hold_time")
    kind: Kind = Field(
        default="router",
        description="what it is, which says how many prefixes it takes: Azure Route Server 1000, Azure VPN gateway 4000, ExpressRoute 4000 or 10000 (premium), Direct Connect and AWS VPN gateway 100, transit gateway 1000",
    )
    max_announced: Integer | None = Field(
        default=None,
        ge=0,
        description="prefixes announced to it at most, for such neighbors close the session above; more are held back and said, from 80 % on it is warned; 0: no limit; default: by `kind`",
    )
    max_prefixes: Integer = Field(default=4000, ge=1, description="prefixes accepted; from 80 % on it is warned")
    max_prefixes_action: Literal["warn", "discard", "teardown"] = Field(
        default="discard",
        description="what becomes of more. warn: accepted; discard: not accepted; teardown: the session is closed for `max_prefixes_restart`",
    )
    max_prefixes_restart: Duration = Field(default=300.0, ge=1, description="until a session torn down is begun again")
    import_policy: Name | None = Field(default=None, description="policy for what it teaches us; default: everything")
    export_policy: Name | None = Field(default=None, description="policy for what it is told; default: everything")
    accept_default: Switch = Field(
        default=False,
        description="a default route is accepted from it, whole or in pieces (shorter than /8, of IPv6 /7)",
    )
    allow_own_as: Integer = Field(
        default=0, ge=0, le=10, description="how often our AS may stand in a path it teaches us"
    )
    transit: Switch = Field(
        default=False,
        description="it is told also what neighbors on its own side of the gateway taught us (sites of sites, fabric of fabric), and what came through an AS of Microsoft",
    )
    aggregate: tuple[PrefixField, ...] = Field(
        default=(), description="announced instead of what lies inside them, while anything does"
    )
    more_specific: tuple[Split, ...] = Field(
        default=(),
        description='prefixes announced also in parts, because a longer match wins, as over ExpressRoute: `"10.200.0.0/16 /17"`',
    )
    outdo: Switch = Field(
        default=False,
        description="it is told the two halves of every protected prefix, or part of one, that it teaches us, so that the gateway's longer match wins over a private circuit in clear; within `max_announced`; gateways of different ASes on one route server all need it, and a route server that passes on large communities: else each names the other's halves as carried in clear",
    )
    default_route: DefaultRoute = Field(
        default="never",
        description="whether it is told a default route: `never`, `always`, or a prefix: while we have a route to that",
    )
    graceful_restart: Integer = Field(
        default=0,
        ge=0,
        le=4095,
        description="seconds it is asked to keep our routes when the session breaks (RFC 4724); 0: off, which is right where another gateway stands by, and with BFD",
    )


class Bgp(Section):
    """BGP speaker."""

    local_as: Asn = Field(description="our AS number")
    router_id: Ipv4AddressField | None = Field(default=None, description="default: the first IPv4 address configured")
    advertise: tuple[PrefixField, ...] = Field(default=(), description="our own prefixes, announced to every neighbor")
    listen_port: Integer = Field(
        default=179, ge=0, le=65535, description="port to listen on for passive neighbors; 0: connect only"
    )
    stale_time: Duration = Field(
        default=120.0, ge=0, description="how long routes stay in the kernel after their session or ExaBGP went away"
    )
    service: Literal["auto", "child", "unit"] = Field(
        default="auto",
        description="who starts the process that runs ExaBGP and outlives the daemon. unit: gatewayd-bgp.service; child: the daemon; auto: unit where gatewayd.service started the daemon, else child",
    )
    orphan_time: Duration = Field(
        default=10.0,
        ge=0,
        description="how long that process keeps sessions and announced routes while there is no daemon, and so no data plane; then it withdraws every route and closes the sessions; 0: at once",
    )
    max_paths: Integer = Field(
        default=8,
        ge=1,
        le=8,
        description="paths used at the same time where they are equal in all but the last tie-breaks (of AS paths only the length counts, as in Azure); flows are spread by addresses and ports; 1: only the best",
    )
    prefix_list: dict[Name, PrefixList] = Field(default_factory=dict, description="prefix lists by name")
    policy: dict[Name, Policy] = Field(default_factory=dict, description="policies by name")
    neighbor: dict[Name, Neighbor] = Field(default_factory=dict, description="neighbors by name")
