"""What one neighbor is told, prefix by prefix: export, and routes that stand for others.

    aggregate        one announcement instead of what lies inside it, while anything does
    more specific    a route announced also in parts, because a longer match wins over any preference
    outdo            the halves of what the neighbor itself teaches us of protected prefixes (underlay.py)
    default route    always, or while another route is there
    attraction       of a pair: how good all of it looks

A function of the loc-RIB, but for who contributes to an aggregate. `about` says which prefixes a change concerns;
`told` what is announced for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_network

from gateway.bgp.attraction import Attraction
from gateway.bgp.path import Announcement, Path
from gateway.bgp.policy import export, heard_sides, originate, own_prefixes
from gateway.bgp.prefixes import Prefix, inside, pieces
from gateway.bgp.settings import NeighborSettings, Role, SpeakerSettings
from gateway.bgp.underlay import Underlay, halves

BestOf = Callable[[Prefix], tuple[Path | None, Role | None]]
DEFAULT = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class Outbound:
    """See the module. `best_of`: the loc-RIB's path to a prefix, and the side it was learned on."""

    def __init__(
        self,
        settings: SpeakerSettings,
        neighbor: NeighborSettings,
        best_of: BestOf,
        underlay: Underlay | None = None,
        attraction: Attraction | None = None,
    ) -> None:
        self._settings = settings
        self._neighbor = neighbor
        self._best_of = best_of
        self._underlay = underlay if neighbor.outdo else None
        self.attraction = attraction
        self._whole = {piece: whole for whole, length in neighbor.more_specific for piece in pieces(whole, length)}
        self._parts: dict[Prefix, list[Prefix]] = {}
        for piece, whole in self._whole.items():
            self._parts.setdefault(whole, []).append(piece)
        self._contributors: dict[Prefix, set[Prefix]] = {aggregate: set() for aggregate in neighbor.aggregate}
        self._default = DEFAULT[neighbor.address.version]
        self._own = frozenset(own_prefixes(settings, neighbor))
        self._hears = tuple(heard_sides(settings, neighbor))
        self.version: int = neighbor.address.version
        # Most neighbors have nothing of the kind
        extra = (self._parts, self._contributors, neighbor.default_always, neighbor.default_while, neighbor.outdo)
        self.plain = not any(extra)

    def standing(self) -> Iterator[Prefix]:
        """What may be announced without being in the loc-RIB; the first of a full budget."""
        yield from self._own
        yield from self._contributors
        yield from self._whole
        for prefix in self._underlay.carried(self._neighbor.name) if self._underlay is not None else ():
            yield from halves(prefix)
        if self._neighbor.default_always or self._neighbor.default_while is not None:
            yield self._default

    def essential(self, prefix: Prefix) -> bool:
        """Whether it goes before what others taught us where not everything may be told."""
        if prefix in self._own or prefix in self._contributors or self._outdoes(prefix):
            return True
        return not prefix.prefixlen and prefix == self._default

    def about(self, prefix: Prefix) -> Iterator[Prefix]:
        """The prefixes whose announcement may differ now that the best path to `prefix` does."""
        yield prefix
        if self.plain:
            return
        yield from self._parts.get(prefix, ())
        if self._underlay is not None:
            yield from halves(prefix)
        aggregate = self._aggregate_of(prefix)
        if aggregate is not None:
            contributors = self._contributors[aggregate]
            before = bool(contributors)
            if self.exported(prefix, *self._best_of(prefix)) is None:
                contributors.discard(prefix)
            else:
                contributors.add(prefix)
            if bool(contributors) != before:
                yield aggregate
        if prefix == self._neighbor.default_while:
            yield self._default

    def told(self, prefix: Prefix) -> Announcement | None:
        """The announcement of `prefix`, None for none."""
        return self.attracting(self._told(prefix))

    def attracting(self, told: Announcement | None) -> Announcement | None:
        """As the pair wants it to look."""
        if told is None or self.attraction is None:
            return told
        return self.attraction.of(self._settings, self._neighbor, told)

    def _told(self, prefix: Prefix) -> Announcement | None:
        exported = self.exported(prefix, *self._best_of(prefix))
        if self.plain or prefix in self._own:
            return exported
        if self._outdoes(prefix):
            return originate(self._settings, self._neighbor, prefix)
        if self._aggregate_of(prefix) is not None:
            return None
        if exported is not None:
            return exported
        if prefix in self._whole:
            whole = self._whole[prefix]
            return self.exported(whole, *self._best_of(whole))
        if self._contributors.get(prefix) or (prefix == self._default and self._default_wanted()):
            return originate(self._settings, self._neighbor, prefix)
        return None

    def _outdoes(self, prefix: Prefix) -> bool:
        return self._underlay is not None and self._underlay.outdoes(prefix, self._neighbor.name)

    def _default_wanted(self) -> bool:
        tracked = self._neighbor.default_while
        return self._neighbor.default_always or (tracked is not None and self._best_of(tracked)[0] is not None)

    def exported(self, prefix: Prefix, best: Path | None, source: Role | None) -> Announcement | None:
        """The announcement of `prefix` itself, of which `best_of` says this."""
        if source not in self._hears and prefix not in self._own:
            return None
        return export(self._settings, self._neighbor, prefix, best, source)

    def _aggregate_of(self, prefix: Prefix) -> Prefix | None:
        """The one it is a part of; the shortest of several, for that is what is left of them."""
        around = [one for one in self._contributors if one != prefix and inside(prefix, one)]
        return min(around, key=lambda one: one.prefixlen, default=None)
