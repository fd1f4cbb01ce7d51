"""Which targets routes use, by family, and so which nexthops and groups must be in the kernel. Bookkeeping only."""

from __future__ import annotations

from gateway.routing.model import Prefix, Target, ViaConnection, ViaTiers


class Usage:
    """A target is used by prefixes, and as a member by those tiers that are used."""

    def __init__(self) -> None:
        self._users: dict[tuple[Target, int], set[Prefix]] = {}
        self._within: dict[tuple[Target, int], set[ViaTiers]] = {}
        self.in_tunnels = {4: 0, 6: 0}  # connections that are needed

    def users(self, target: Target, family: int) -> int:
        """How many prefixes take it."""
        return len(self._users.get((target, family), ()))

    def grouped(self, target: Target, family: int) -> bool:
        """Whether a route names its group."""
        return (target, family) in self._users

    def needed(self, target: Target, family: int) -> bool:
        """Whether its nexthop is to be in the kernel."""
        return (target, family) in self._users or (target, family) in self._within

    def use(self, prefix: Prefix, target: Target, family: int) -> list[Target]:
        """The targets whose objects this changes."""
        users = self._users.get((target, family))
        if users is not None:
            users.add(prefix)
            return []
        changed: list[Target] = []
        if isinstance(target, ViaTiers):
            for member in target.members:
                if not self.needed(member, family):
                    self._count(member, family, 1)
                    changed.append(member)
                self._within.setdefault((member, family), set()).add(target)
        if not self.needed(target, family):
            self._count(target, family, 1)
        self._users[(target, family)] = {prefix}
        return [*changed, target]

    def leave(self, prefix: Prefix, target: Target, family: int) -> list[Target]:
        """The targets whose objects this changes."""
        users = self._users[(target, family)]
        users.discard(prefix)
        if users:
            return []
        del self._users[(target, family)]
        changed = [target]
        if not self.needed(target, family):
            self._count(target, family, -1)
        if isinstance(target, ViaTiers):
            for member in target.members:
                within = self._within[(member, family)]
                within.discard(target)
                if not within:
                    del self._within[(member, family)]
                    if not self.needed(member, family):
                        self._count(member, family, -1)
                        changed.append(member)
        return changed

    def _count(self, target: Target, family: int, by: int) -> None:
        self.in_tunnels[family] += by * isinstance(target, ViaConnection)
