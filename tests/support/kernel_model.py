"""A model of the kernel's FIB rules: an independent re-statement of what Linux does, not of what the FIB expects.

What it enforces was seen on a real kernel: nexthops need their device, groups their members, a group holds a
blackhole alone, routes their group and its family; deleting a nexthop empties groups and takes their routes along.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from gateway.routing.model import Dump, Group, Nexthop, Op, OpError, Route, RouteKind, Verb

Prefix = IPv4Network | IPv6Network


class Kernel:
    def __init__(self, interfaces: set[int] | None = None) -> None:
        self.interfaces = interfaces or set()
        self.nexthops: dict[int, Nexthop] = {}
        self.groups: dict[int, Group] = {}
        self.routes: dict[tuple[Prefix, int], Route] = {}
        self.foreign: dict[tuple[Prefix, int], Route] = {}

    def apply(self, op: Op) -> OpError | None:
        entry = op.entry
        if isinstance(entry, Nexthop):
            return self._nexthop(op.verb, entry)
        if isinstance(entry, Group):
            return self._group(op.verb, entry)
        return self._route(op.verb, entry)

    def dump(self) -> Dump:
        entries = (*self.nexthops.values(), *self.groups.values(), *self.routes.values())
        return Dump(entries, frozenset({*self.nexthops, *self.groups}))

    def delete_interface(self, index: int) -> None:
        self.interfaces.discard(index)
        for nexthop in [n for n in self.nexthops.values() if n.interface == index]:
            self._delete_nexthop(nexthop.id)

    def lookup(self, prefix: Prefix) -> str | int | frozenset[str | int]:
        """Where a packet to the first address of `prefix` goes: "blackhole", "main", or an interface index."""
        address = prefix.network_address
        matching = [route for route in (*self.routes.values(), *self.foreign.values()) if address in route.prefix]
        if not matching:
            return "main"
        best = min(matching, key=lambda route: (-route.prefix.prefixlen, route.metric))
        if best.kind is not RouteKind.UNICAST:
            return "blackhole" if best.kind is RouteKind.BLACKHOLE else "main"
        return self.lookup_route(best)

    def lookup_route(self, route: Route) -> str | int | frozenset[str | int]:
        """Where this unicast route leads; a set where flows are shared."""
        ways = frozenset(self.nexthops[member].interface or "blackhole" for member in self.groups[route.group].members)
        return next(iter(ways)) if len(ways) == 1 else ways

    def _nexthop(self, verb: Verb, nexthop: Nexthop) -> OpError | None:
        if verb is Verb.DELETE:
            return None if self._delete_nexthop(nexthop.id) else OpError(2, "No such file or directory")
        if nexthop.id in self.groups or (verb is Verb.ADD and nexthop.id in self.nexthops):
            return OpError(17, "File exists")
        if nexthop.interface and nexthop.interface not in self.interfaces:
            return OpError(19, "No such device")
        self.nexthops[nexthop.id] = nexthop
        return None

    def _group(self, verb: Verb, group: Group) -> OpError | None:
        if verb is Verb.DELETE:
            return None if self._delete_group(group.id) else OpError(2, "No such file or directory")
        if group.id in self.nexthops or (verb is Verb.ADD and group.id in self.groups):
            return OpError(17, "File exists")
        members = [self.nexthops.get(member) for member in group.members]
        if not members or None in members:
            return OpError(22, "Invalid nexthop id")
        if len(members) > 1 and any(member and not member.interface for member in members):
            return OpError(22, "Blackhole nexthop can not be used in a group with more than 1 path")
        self.groups[group.id] = group
        return None

    def _route(self, verb: Verb, route: Route) -> OpError | None:
        key = (route.prefix, route.metric)
        if verb is Verb.DELETE:
            return None if self.routes.pop(key, None) else OpError(3, "No such process")
        if verb is Verb.ADD and (key in self.routes or key in self.foreign):
            return OpError(17, "File exists")
        assert key not in self.foreign, "a foreign route was replaced"
        if route.kind is RouteKind.UNICAST:
            group = self.groups.get(route.group)
            if group is None:
                return OpError(22, "Nexthop id does not exist")
            if any(self.nexthops[member].family != route.prefix.version for member in group.members):
                return OpError(22, "Nexthop family mismatch")
        self.routes[key] = route
        return None

    def _delete_nexthop(self, identifier: int) -> bool:
        if self.nexthops.pop(identifier, None) is None:
            return False
        for group in [g for g in self.groups.values() if identifier in g.members]:
            left = tuple(member for member in group.members if member != identifier)
            if left:
                self.groups[group.id] = Group(group.id, left)
            else:
                self._delete_group(group.id)
        return True

    def _delete_group(self, identifier: int) -> bool:
        if self.groups.pop(identifier, None) is None:
            return False
        self.routes = {key: route for key, route in self.routes.items() if route.group != identifier or not identifier}
        return True
