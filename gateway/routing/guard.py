"""The clear-text guard: what our table holds so that a protected prefix never leaves unencrypted.

Under every protected prefix lies a `blackhole` at the highest metric. While the connection's route is
there it wins by metric; when the kernel drops that route together with its TUN (daemon stopped, killed,
device deleted), the blackhole is what is left, so the lookup never reaches the main table.

A `throw` ends the lookup in our table and lets the next rule (main) decide. Throws exempt what must stay
reachable beside a wide protected prefix: connected prefixes, the outer addresses of peers (for traffic
without our mark; our own IKE and ESP carry the mark and never see this table), the metadata and platform
addresses of the clouds, and IPv6 link-local. They have the lowest metric: no learned route replaces one.
A connected IPv6 prefix inside a named protected one is none of them: anybody on a link can make one with a router
advertisement.

Pure functions of their inputs: nothing here knows whether a tunnel is up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from gateway.routing.model import Address, Prefix, Route, RouteKind

GUARD_METRIC = 0xFFFFFFFF
THROW_METRIC = 1

# Cloud metadata service and Azure platform address: routing one of these into a tunnel cuts the VM off its platform.
PLATFORM = (IPv4Network("169.254.169.254/32"), IPv4Network("168.63.129.16/32"))
# RFC 4291 2.5.6: link-local destinations are on the link by definition.
LINK_LOCAL = (IPv6Network("fe80::/10"),)


@dataclass(frozen=True, slots=True)
class Guard:
    """The desired guard. `conflicts`: sentences about protected prefixes that overlap what is exempt."""

    routes: tuple[Route, ...]
    conflicts: tuple[str, ...]
    protected: PrefixSet
    exempt: PrefixSet
    yielding: PrefixSet

    def differing(self, other: Guard) -> PrefixSet:
        """What only one of both names: of a prefix that none of these covers both say the same."""
        pairs = ((self.protected, other.protected), (self.exempt, other.exempt), (self.yielding, other.yielding))
        return PrefixSet(prefix for one, another in pairs for prefix in one.members ^ another.members)

    def yields(self, prefix: Prefix) -> bool:
        """True if it may leave in clear by choice all the same: its longest protected cover is a yielding one."""
        return self.yielding.longest_cover(prefix) >= self.protected.longest_cover(prefix)

    def protects(self, prefix: Prefix) -> bool:
        """True if a route for `prefix` may not point out in clear: the longest cover is a protected prefix."""
        return self.protected.longest_cover(prefix) > self.exempt.longest_cover(prefix)


class PrefixSet:
    """Prefixes by family and length, for longest-cover lookups without building networks."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self.members = frozenset(prefixes)
        self._by_length: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for prefix in self.members:
            lengths = self._by_length[prefix.version]
            lengths.setdefault(prefix.prefixlen, set()).add(int(prefix.network_address))

    def longest_cover(self, prefix: Prefix) -> int:
        """Length of the longest member that contains `prefix`, -1 without one."""
        value, width = int(prefix.network_address), prefix.max_prefixlen
        best = -1
        for length, networks in self._by_length[prefix.version].items():
            if best < length <= prefix.prefixlen and value >> (width - length) << (width - length) in networks:
                best = length
        return best


def guard(
    protected: Iterable[Prefix],
    connected: Iterable[Prefix] = (),
    endpoints: Iterable[Address] = (),
    platform: Iterable[Prefix] = PLATFORM,
    yielding: Iterable[Prefix] = (),
) -> Guard:
    """The guard for these inputs; the same inputs give the same entries in the same order."""
    guarded = frozenset(protected)
    links = frozenset(connected)
    # RFC 4862 5.5.3: an advertised prefix becomes connected, whoever advertised it. It opens nothing that was named.
    named = PrefixSet(prefix for prefix in guarded if prefix.version == 6 and prefix.prefixlen)
    trusted = {prefix for prefix in links if named.longest_cover(prefix) < 0}
    exceptions: set[Prefix] = {*trusted, *(ip_network(address) for address in endpoints), *platform}
    # Also without a protected prefix: a default route learned in a tunnel must not capture these either.
    if any(prefix.version == 6 for prefix in (*guarded, *exceptions)):
        exceptions.update(LINK_LOCAL)
    # An exception equal to a protected prefix would undo it: the guard wins and the conflict is named.
    throws = exceptions - guarded
    routes = [Route(prefix, THROW_METRIC, RouteKind.THROW) for prefix in sorted(throws, key=_order)]
    routes += [Route(prefix, GUARD_METRIC, RouteKind.BLACKHOLE) for prefix in sorted(guarded, key=_order)]
    conflicts = tuple(_conflicts(guarded, links, exceptions | links))
    return Guard(tuple(routes), conflicts, PrefixSet(guarded), PrefixSet(throws), PrefixSet(yielding))


def _conflicts(protected: frozenset[Prefix], connected: frozenset[Prefix], exceptions: set[Prefix]) -> Iterable[str]:
    overlapping = Overlaps(exceptions)
    for prefix in sorted(protected, key=_order):
        for other in overlapping.of(prefix):
            if prefix == other and other not in connected:
                yield f"protected prefix {prefix} is a peer's outer address or a platform address: remove it from `protected`"
            elif other in connected and prefix.prefixlen:
                # A protected default route overlaps everything by nature; only named prefixes are a mistake.
                yield f"protected prefix {prefix} overlaps {other}, which is connected to this host: correct `protected` or the host's address"


class Overlaps:
    """Which of many prefixes overlap a given one, in order, without looking at all of them."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._by_key: dict[tuple[int, int, int], Prefix] = {_order(prefix): prefix for prefix in prefixes}
        self._sorted = sorted(self._by_key)
        self._lengths = sorted({(version, length) for version, _, length in self._sorted})

    def of(self, prefix: Prefix) -> list[Prefix]:
        version: int = prefix.version
        width: int = prefix.max_prefixlen
        first, last = int(prefix.network_address), int(prefix.broadcast_address)
        shorter = [length for family, length in self._lengths if family == version and length < prefix.prefixlen]
        networks = ((version, first >> (width - length) << (width - length), length) for length in shorter)
        around = [self._by_key[network] for network in networks if network in self._by_key]
        start = bisect_left(self._sorted, (version, first, int(prefix.prefixlen)))
        end = bisect_right(self._sorted, (version, last, width))
        inside = [self._by_key[key] for key in self._sorted[start:end] if key[2] >= prefix.prefixlen]
        return sorted([*around, *inside], key=_order)


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return (prefix.version, int(prefix.network_address), prefix.prefixlen)
