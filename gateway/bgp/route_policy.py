"""Named policies: ordered rules that match a route and accept, change or refuse it.

The operator's part of what is accepted and announced; the rules that always hold are in `policy.py`. A policy is data,
compiled once from the configuration; applying it changes nothing but the route it returns.

    prefix list     first entry that matches decides, nothing matching means no
    rule            every condition given must hold; then its changes are made, and it accepts, rejects or goes on
    policy          the first rule that decides; else its default
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from gateway.bgp.path import Attributes
from gateway.bgp.prefixes import Address, Prefix


class Action(Enum):
    ACCEPT = "accept"
    REJECT = "reject"
    CONTINUE = "continue"  # make the changes, then let the next rules decide


class PrefixEntry(NamedTuple):
    """`prefix` and what lies inside it with a length from `least` to `most`."""

    permit: bool
    prefix: Prefix
    least: int
    most: int


class PrefixList:
    """Entries in order. Looked up by length, so that a list of a thousand costs no more than its lengths."""

    def __init__(self, entries: Sequence[PrefixEntry]) -> None:
        self.entries = tuple(entries)
        self._by_length: dict[tuple[int, int], dict[int, list[int]]] = {}
        for position, entry in enumerate(self.entries):
            networks = self._by_length.setdefault((entry.prefix.version, entry.prefix.prefixlen), {})
            networks.setdefault(int(entry.prefix.network_address), []).append(position)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrefixList) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def permits(self, prefix: Prefix) -> bool:
        first = len(self.entries)
        length, value, width = prefix.prefixlen, int(prefix.network_address), prefix.max_prefixlen
        for (version, outer), networks in self._by_length.items():
            if version != prefix.version or outer > length:
                continue
            shift = width - outer
            for position in networks.get(value >> shift << shift, ()):
                if position < first and self.entries[position].least <= length <= self.entries[position].most:
                    first = position
                    break
        return first < len(self.entries) and self.entries[first].permit


class CommunityPattern(NamedTuple):
    """RFC 1997, RFC 8092: two or three numbers; None stands for any."""

    parts: tuple[int | None, ...]

    def matches(self, community: str) -> bool:
        numbers = community.split(":")
        return len(numbers) == len(self.parts) and all(
            wanted is None or wanted == int(number) for wanted, number in zip(self.parts, numbers, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Changes:
    """What a rule does to a route it matches. None: left as it is."""

    local_preference: int | None = None
    med: int | None = None
    prepend: int = 0
    next_hop: Address | None = None
    communities: tuple[str, ...] | None = None  # of both kinds, instead of what is there
    add: tuple[str, ...] = ()
    delete: tuple[CommunityPattern, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    action: Action = Action.ACCEPT
    changes: Changes = field(default_factory=Changes)
    prefixes: tuple[PrefixList, ...] = ()  # all of them
    as_path: re.Pattern[str] | None = None  # over the numbers, separated by blanks
    communities: tuple[CommunityPattern, ...] = ()  # one of them
    learned_from: frozenset[str] | None = None  # names of neighbors; "" for what is ours


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    name: str
    rules: tuple[Rule, ...] = ()
    default: Action = Action.REJECT


class Route(NamedTuple):
    """What a policy looks at. `prepend`: how often an AS is to be put in front, once more than it is anyway."""

    prefix: Prefix
    next_hop: Address
    attributes: Attributes
    neighbor: str = ""
    prepend: int = 0


class Verdict(NamedTuple):
    """`route` as changed, None when refused; `why`: the rule that decided, for people."""

    route: Route | None
    why: str


def apply(policy: RoutePolicy, route: Route) -> Verdict:
    """The verdict of a policy; the given route is not changed."""
    for rule in policy.rules:
        if not _matches(rule, route):
            continue
        if rule.action is Action.REJECT:
            return Verdict(None, f"policy {policy.name}, rule {rule.name}")
        route = _changed(rule.changes, route)
        if rule.action is Action.ACCEPT:
            return Verdict(route, f"policy {policy.name}, rule {rule.name}")
    why = f"policy {policy.name}, no rule"
    return Verdict(route if policy.default is Action.ACCEPT else None, why)


def as_path_text(attributes: Attributes) -> str:
    """As the patterns see a path."""
    return " ".join(map(str, attributes.as_path))


def _matches(rule: Rule, route: Route) -> bool:
    if rule.learned_from is not None and route.neighbor not in rule.learned_from:
        return False
    if not all(one.permits(route.prefix) for one in rule.prefixes):
        return False
    if rule.communities and not any(
        pattern.matches(one) for pattern in rule.communities for one in _communities(route.attributes)
    ):
        return False
    return rule.as_path is None or rule.as_path.search(as_path_text(route.attributes)) is not None


def _changed(changes: Changes, route: Route) -> Route:
    if changes == _NOTHING:
        return route
    attributes = route.attributes
    kept = changes.communities
    if kept is None:
        kept = tuple(
            one for one in _communities(attributes) if not any(pattern.matches(one) for pattern in changes.delete)
        )
    both = tuple(dict.fromkeys((*kept, *changes.add)))
    preference = attributes.local_preference if changes.local_preference is None else changes.local_preference
    attributes = attributes._replace(
        local_preference=preference,
        med=attributes.med if changes.med is None else changes.med,
        communities=tuple(one for one in both if one.count(":") == 1),
        large_communities=tuple(one for one in both if one.count(":") == 2),
    )
    return route._replace(
        attributes=attributes,
        next_hop=route.next_hop if changes.next_hop is None else changes.next_hop,
        prepend=route.prepend + changes.prepend,
    )


def _communities(attributes: Attributes) -> tuple[str, ...]:
    return attributes.communities + attributes.large_communities


_NOTHING = Changes()
