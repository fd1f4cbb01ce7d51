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

from collections.abc import Iterator, Mapping

from gateway.bgp.path import Path
from gateway.bgp.prefixes import Prefix, inside

_MARK = "26487:1"  # the two local parts of RFC 8092 2: "gw"
_PARTS = 1  # bits longer than what is to be outdone


class Underlay:
    """Neighbors, and the origin ASes of what they teach, by prefix, for one routing instance."""

    def __init__(self) -> None:
        self._carriers: dict[Prefix, Mapping[str, int]] = {}
        # Parts with another origin than what they are a part of. They stay here when that goes, for what answers it goes later
        self._doubtful: set[tuple[Prefix, str]] = set()

    def __bool__(self) -> bool:
        return bool(self._carriers)

    def notice(self, prefix: Prefix, neighbors: Mapping[str, int]) -> list[Prefix]:
        """These teach a protected prefix, or none does any more. The prefixes whose halves may be told now, or no longer."""
        before = self._carriers.get(prefix, {})
        if neighbors == before:
            return []
        if neighbors:
            self._carriers[prefix] = neighbors
        else:
            del self._carriers[prefix]
        changed = [prefix]
        for name, origin in neighbors.items():
            around = {self._carriers[one].get(name) for one in _supernets(prefix) if one in self._carriers} - {None}
            if around - {origin}:
                self._doubtful.add((prefix, name))
            elif around:
                self._doubtful.discard((prefix, name))
            for one, by in self._carriers.items():
                if by.get(name, origin) != origin and one != prefix and inside(one, prefix):
                    self._doubtful.add((one, name))
                    changed.append(one)
        return changed

    def carried(self, neighbor: str) -> list[Prefix]:
        """By that neighbor's side."""
        return [prefix for prefix, neighbors in self._carriers.items() if neighbor in neighbors]

    def outdoes(self, prefix: Prefix, neighbor: str) -> bool:
        """Whether it is a half of something that neighbor teaches."""
        if not self._carriers or not prefix.prefixlen:
            return False
        whole = prefix.supernet(_PARTS)
        return neighbor in self._carriers.get(whole, ()) and (whole, neighbor) not in self._doubtful


def _supernets(prefix: Prefix) -> Iterator[Prefix]:
    return (prefix.supernet(new_prefix=length) for length in range(prefix.prefixlen))


def mark(asn: int) -> str:
    """The large community of what a gateway of this AS tells a neighbor with `outdo`."""
    return f"{asn}:{_MARK}"


def is_of_a_gateway(path: Path) -> bool:
    """Whether a gateway on its way says that it leads into its tunnel."""
    marks = path.attributes.large_communities
    return bool(marks) and any(mark(asn) in marks for asn in path.as_path)


def halves(prefix: Prefix) -> Iterator[Prefix]:
    """None of a host's address."""
    if prefix.prefixlen < prefix.max_prefixlen:
        yield from prefix.subnets(_PARTS)
