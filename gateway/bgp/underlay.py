"""What the cloud's fabric would carry itself, in clear: protected prefixes, or parts, that it teaches us.

A route server or an ExpressRoute gateway that knows the site by the private circuit carries the VNet's packets there
past this gateway, wherever its route is as long as what we announce or longer. Such prefixes are named, and a
neighbor with `outdo` is told the two halves of each, because a longer match wins over any preference.

Another gateway of another AS on the same route server announces the same prefixes, and halves, and each would take the
other's for the fabric's and halve them again, without end. So all that a neighbor with `outdo` is told is marked as a
gateway's (RFC 8092). A route server may remove the mark; so a part of what a neighbor teaches, taught by it with another
origin AS, is named but never halved: a gateway originates its halves, the circuit teaches what the site originates.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice

from gateway.bgp.path import Path
from gateway.bgp.prefixes import PREFIXES_REMEMBERED, Prefix

_MARK = "26487:1"  # the two local parts of RFC 8092 2: "gw"
_PARTS = 1  # bits longer than what is to be outdone

_Key = tuple[int, int, int]
"""Version, network, length: in their order what lies inside a prefix follows it."""


class Underlay:
    """Neighbors, and the origin ASes of what they teach, by prefix, for one routing instance."""

    def __init__(self) -> None:
        self._carriers: dict[Prefix, Mapping[str, int]] = {}
        # The same prefixes, so that thousands of them are not gone through for each
        self._by_key: dict[_Key, Prefix] = {}
        self._sorted: list[_Key] = []
        # Parts with another origin than what they are a part of. They stay here when that goes, for what answers it goes later
        self._doubtful: set[tuple[Prefix, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._carriers)

    def notice(self, prefix: Prefix, neighbors: Mapping[str, int]) -> list[Prefix]:
        """These teach a protected prefix, or none does any more. The prefixes whose halves may be told now, or no longer."""
        before = self._carriers.get(prefix, {})
        if neighbors == before:
            return []
        if not neighbors:
            self._remove(prefix)
            return [prefix]
        if not before:
            self._add(prefix)
        self._carriers[prefix] = neighbors
        changed = [prefix]
        for name, origin in neighbors.items():
            around = {self._carriers[one].get(name) for one in self._around(prefix)} - {None}
            if around - {origin}:
                self._doubtful.add((prefix, name))
            elif around:
                self._doubtful.discard((prefix, name))
            for one in self._within(prefix):
                if self._carriers[one].get(name, origin) != origin:
                    self._doubtful.add((one, name))
                    changed.append(one)
        return changed

    def _add(self, prefix: Prefix) -> None:
        key = _key(prefix)
        self._by_key[key] = prefix
        insort(self._sorted, key)

    def _remove(self, prefix: Prefix) -> None:
        key = _key(prefix)
        del self._carriers[prefix], self._by_key[key], self._sorted[bisect_left(self._sorted, key)]

    def _around(self, prefix: Prefix) -> Iterator[Prefix]:
        """Those that it lies inside of."""
        version, number, own = _key(prefix)
        for length in range(own):
            beyond = prefix.max_prefixlen - length
            if (key := (version, number >> beyond << beyond, length)) in self._by_key:
                yield self._by_key[key]

    def _within(self, prefix: Prefix) -> Iterator[Prefix]:
        """Those that lie inside of it."""
        key, last = _key(prefix), (prefix.version, int(prefix.broadcast_address))
        for one in islice(self._sorted, bisect_right(self._sorted, key), None):
            if one[:2] > last:
                break
            yield self._by_key[one]

    def carried(self, neighbor: str) -> list[Prefix]:
        """By that neighbor's side."""
        return [prefix for prefix, neighbors in self._carriers.items() if neighbor in neighbors]

    def outdoes(self, prefix: Prefix, neighbor: str) -> bool:
        """Whether it is a half of something that neighbor teaches."""
        if not self._carriers or not prefix.prefixlen:
            return False
        whole = prefix.supernet(_PARTS)
        return neighbor in self._carriers.get(whole, ()) and (whole, neighbor) not in self._doubtful


def _key(prefix: Prefix) -> _Key:
    return (prefix.version, int(prefix.network_address), prefix.prefixlen)


def mark(asn: int) -> str:
    """The large community of what a gateway of this AS tells a neighbor with `outdo`."""
    return f"{asn}:{_MARK}"


def is_of_a_gateway(path: Path) -> bool:
    """Whether a gateway on its way says that it leads into its tunnel."""
    marks = path.attributes.large_communities
    return bool(marks) and any(mark(asn) in marks for asn in path.as_path)


@lru_cache(PREFIXES_REMEMBERED)
def halves(prefix: Prefix) -> tuple[Prefix, ...]:
    """None of a host's address."""
    return tuple(prefix.subnets(_PARTS)) if prefix.prefixlen < prefix.max_prefixlen else ()
