"""From the [bgp] section of the configuration to what the speaker is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_network

from gateway.bgp.route_policy import (
    Action,
    Changes,
    CommunityPattern,
    PrefixEntry,
    PrefixList,
    RoutePolicy,
    Rule,
)
from gateway.bgp.settings import InstanceSettings, NeighborSettings, OverLimit, SpeakerSettings
from gateway.config import derive
from gateway.config.bgp_model import KINDS
from gateway.config.model import Address, Bgp, Config, Neighbor, Policy, PolicyRule, Prefix
from gateway.config.policies import (
    parse_as_path,
    parse_community,
    parse_default_route,
    parse_prefix_match,
    parse_split,
)


def speaker_settings(
    config: Config, passwords: Mapping[str, bytes], sources: Mapping[str, Address]
) -> SpeakerSettings | None:
    """What the speaker is told; None without a [bgp] section. `passwords` and `sources` (the address this host would use
    towards a neighbor outside of tunnels) are by neighbor name."""
    bgp = config.bgp
    if bgp is None:
        return None
    router_id = derive.router_id(config, bgp)
    if router_id is None:
        raise ValueError("bgp.router_id is needed where no IPv4 address is configured")
    return SpeakerSettings(
        local_as=bgp.local_as,
        router_id=router_id,
        advertise=bgp.advertise,
        stale_time=bgp.stale_time,
        never=_never(config),
        neighbors=tuple(_neighbors(config, bgp, passwords, sources)),
        max_paths=bgp.max_paths,
        listen_port=bgp.listen_port,
        protected=_protected(config, ""),
        instances=tuple(
            InstanceSettings(name, instance.local, _protected(config, name))
            for name, instance in config.instance.items()
        ),
    )


def route_policies(bgp: Bgp) -> dict[str, RoutePolicy]:
    """Its policies by name, used or not."""
    return {name: _policy(bgp, name, policy) for name, policy in bgp.policy.items()}


def _neighbors(
    config: Config, bgp: Bgp, passwords: Mapping[str, bytes], sources: Mapping[str, Address]
) -> Iterator[NeighborSettings]:
    policies = route_policies(bgp)
    for name, neighbor in bgp.neighbor.items():
        configured = neighbor.local_address is not None or neighbor.connection is not None
        local = (
            derive.session_address(config, neighbor)
            if configured
            else sources.get(name) or derive.session_address(config, neighbor)
        )
        if local is None:
            raise ValueError(
                f"bgp.neighbor.{name}: no local address of the family of {neighbor.address}; set local_address"
            )
        settings = NeighborSettings(
            name=name,
            address=neighbor.address,
            remote_as=neighbor.remote_as,
            local_address=local,
            connection=neighbor.connection or "",
            multihop=neighbor.multihop,
            ttl_security=neighbor.ttl_security,
            password=passwords.get(name),
            hold_time=neighbor.hold_time,
            passive=neighbor.passive,
            graceful_restart=neighbor.graceful_restart,
            instance=derive.instance_of(config, neighbor),
            outdo=neighbor.outdo,
            standby=derive.is_backup(config, neighbor),
        )
        yield _with_routes(settings, neighbor, policies)


def _with_routes(
    settings: NeighborSettings, neighbor: Neighbor, policies: Mapping[str, RoutePolicy]
) -> NeighborSettings:
    """What is accepted from it and announced to it."""
    named = neighbor.default_route not in ("never", "always")
    return replace(
        settings,
        advertise=neighbor.advertise,
        accept_default=neighbor.accept_default,
        allow_own_as=neighbor.allow_own_as,
        import_policy=policies[neighbor.import_policy] if neighbor.import_policy else None,
        export_policy=policies[neighbor.export_policy] if neighbor.export_policy else None,
        transit=neighbor.transit,
        aggregate=neighbor.aggregate,
        more_specific=tuple(parse_split(text) for text in neighbor.more_specific),
        default_always=neighbor.default_route == "always",
        default_while=parse_default_route(neighbor.default_route) if named else None,
        max_prefixes=neighbor.max_prefixes,
        over_limit=OverLimit(neighbor.max_prefixes_action),
        restart_after=neighbor.max_prefixes_restart,
        budget=KINDS[neighbor.kind] if neighbor.max_announced is None else neighbor.max_announced,
    )


def _policy(bgp: Bgp, name: str, policy: Policy) -> RoutePolicy:
    rules = tuple(_rule(bgp, rule_name, rule) for rule_name, rule in policy.rule.items())
    return RoutePolicy(name, rules, Action(policy.default))


def _rule(bgp: Bgp, name: str, rule: PolicyRule) -> Rule:
    texts = [*rule.prefixes]
    lists = [_prefix_list(texts)] if texts else []
    if rule.prefix_list is not None:
        lists.append(_prefix_list(bgp.prefix_list[rule.prefix_list].prefixes))
    learned_from = rule.learned_from
    return Rule(
        name,
        Action(rule.action),
        Changes(
            local_preference=rule.local_preference,
            med=rule.med,
            prepend=rule.prepend,
            next_hop=rule.next_hop,
            communities=None if rule.set_communities is None else _communities(rule.set_communities),
            add=_communities(rule.add_communities),
            delete=_patterns(rule.delete_communities),
        ),
        prefixes=tuple(lists),
        as_path=None if rule.as_path is None else parse_as_path(rule.as_path),
        communities=_patterns(rule.communities),
        learned_from=None if learned_from is None else frozenset("" if one == "own" else one for one in learned_from),
    )


def _prefix_list(texts: Iterable[str]) -> PrefixList:
    return PrefixList([PrefixEntry(*parse_prefix_match(text)) for text in texts])


def _communities(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(":".join(map(str, parse_community(text))) for text in texts)


def _patterns(texts: Iterable[str]) -> tuple[CommunityPattern, ...]:
    return tuple(CommunityPattern(parse_community(text)) for text in texts)


def _protected(config: Config, instance: str) -> tuple[Prefix, ...]:
    """What the connections of one table never let out in clear."""
    members = [one for one in config.connection.values() if (one.instance or "") == instance]
    found = [prefix for one in members if one.protection == "always" for prefix in derive.protected_prefixes(one)]
    return tuple(dict.fromkeys(found))


def _never(config: Config) -> tuple[Prefix, ...]:
    """Never learnable: the outer ends of our tunnels, and the cloud platforms' own addresses."""
    ends = [
        address
        for connection in config.connection.values()
        for address in (connection.remote_addrs, connection.local_addrs)
    ]
    platform = ("169.254.169.254/32", "168.63.129.16/32")
    return tuple(dict.fromkeys([ip_network(address) for address in ends] + [ip_network(text) for text in platform]))
