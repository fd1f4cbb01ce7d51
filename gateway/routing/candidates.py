"""What was asked for: per prefix one route of each source, and who leads where. Bookkeeping only."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.routing.model import Address, Prefix, SetRoute, Single, Target, ViaNextHop, ViaTiers, members_of


class Candidates:
    """Routes by prefix and source, found by their target too, and by each member of it."""

    def __init__(self) -> None:
        self._by_prefix: dict[Prefix, dict[str, SetRoute]] = {}
        self._by_target: dict[Target, set[Prefix]] = {}
        self._contested: set[Prefix] = set()  # those with several routes
        self._parts: dict[Single, dict[ViaTiers, None]] = {}  # the tiers a target is a member of

    def __len__(self) -> int:
        return len(self._by_prefix)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._by_prefix)

    def of(self, prefix: Prefix) -> tuple[SetRoute, ...]:
        return tuple(self._by_prefix.get(prefix, {}).values())

    def through(self, target: Target) -> tuple[Prefix, ...]:
        """The prefixes of which some route has exactly this target."""
        return tuple(self._by_target.get(target, ()))

    def count(self, target: Target) -> int:
        """How many these are."""
        return len(self._by_target.get(target, ()))

    def contested(self, target: Target) -> frozenset[Prefix]:
        """Those of them of which there are other routes too."""
        return frozenset(self._contested.intersection(self._by_target.get(target, ())))

    def tiers_of(self, target: Target) -> tuple[ViaTiers, ...]:
        return () if isinstance(target, ViaTiers) else tuple(self._parts.get(target, ()))

    def put(self, route: SetRoute) -> SetRoute | None:
        """The one it replaces, which is to be `released`."""
        sources = self._by_prefix.get(route.prefix)
        if sources is None:
            sources = self._by_prefix[route.prefix] = {}
        replaced = sources.get(route.source)
        sources[route.source] = route
        if len(sources) > 1:
            self._contested.add(route.prefix)
        through = self._by_target.get(route.target)
        if through is None:
            through = self._by_target[route.target] = set()
        through.add(route.prefix)
        if isinstance(route.target, ViaTiers):
            for member in route.target.members:
                self._parts.setdefault(member, {})[route.target] = None
        return replaced

    def take(self, prefix: Prefix, source: str) -> SetRoute | None:
        """The one that goes, which is to be `released`."""
        sources = self._by_prefix.get(prefix, {})
        removed = sources.pop(source, None)
        if len(sources) < 2:
            self._contested.discard(prefix)
        if removed is not None and not sources:
            del self._by_prefix[prefix]
        return removed

    def release(self, gone: SetRoute) -> list[Address]:
        """Forgets what no route names any more; the next hops among it."""
        target, prefix = gone.target, gone.prefix
        if any(route.target == target for route in self.of(prefix)):
            return []
        prefixes = self._by_target[target]
        prefixes.discard(prefix)
        if prefixes:
            return []
        del self._by_target[target]
        forgotten = []
        for member in members_of(target):
            parts = self._parts.get(member, {})
            if isinstance(target, ViaTiers):
                parts.pop(target, None)
                if not parts:
                    self._parts.pop(member, None)
            if isinstance(member, ViaNextHop) and not parts and member not in self._by_target:
                forgotten.append(member.address)
        return forgotten
