"""Where routes can point: connections and next hops, and the nexthop objects each of them needs.

One nexthop and one group per connection or next hop and family, and one group per combination of them, because routes must name a group: the kernel
refuses to replace a group by a single nexthop, an IPv4 nexthop under an IPv6 route, and a blackhole
beside other members. Failing closed is then one message: the group's member becomes the family's blackhole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gateway.routing.identifiers import Identifiers
from gateway.routing.model import (
    Address,
    Entry,
    Group,
    Nexthop,
    Resolution,
    Single,
    Target,
    ViaCircuit,
    ViaConnection,
    ViaNextHop,
    ViaTiers,
    members_of,
)

CROWDED = "no nexthop id is left for it in the range of this table"


@dataclass(slots=True)
class Connection:
    interface: int = 0  # 0: no device
    up: bool = False


class Targets:
    """State of every target, and the ids of its objects."""

    def __init__(self, ids: Identifiers, next_hops: Mapping[Address, Resolution | None]) -> None:
        self.connections: dict[str, Connection] = {}
        self.next_hops = next_hops
        self.failing: set[Single] = set()  # by their liveness checks
        self.circuits: set[str] = set()  # that work, by connection
        self._free = ids
        self._ids: dict[tuple[Target | None, int], tuple[int, int]] = {}
        self._owners: dict[int, Target] = {}
        self._room = False

    def avoid(self, used: frozenset[int]) -> None:
        """Ids never to hand out: what the first dump found in use, by an earlier process of ours or by anyone."""
        self._free.avoid(used)

    def refusal(self, target: Target, family: int) -> str:
        """Why no route of this family can point there, "" if it can (even if only to fail closed)."""
        if isinstance(target, ViaTiers):
            refusals = [self.refusal(member, family) for member in target.members]
            return refusals[0] if all(refusals) else ""
        if isinstance(target, ViaConnection):
            return "" if target.name in self.connections else f"connection {target.name} does not exist"
        if isinstance(target, ViaCircuit):
            works = target.connection in self.circuits
            return "" if works else f"the private circuit beside {target.connection} does not answer"
        if target.address.version != family:
            return f"next hop {target.address} is of the other address family"
        if self.next_hops.get(target.address) is None:
            return f"next hop {target.address} is not reachable through the main table"
        return ""

    def usable(self, target: Target) -> bool:
        """True if packets get somewhere."""
        if isinstance(target, ViaTiers):
            return any(self.usable(member) for member in target.members)
        if isinstance(target, ViaConnection):
            connection = self.connections.get(target.name)
            return connection is not None and connection.up and connection.interface != 0
        if isinstance(target, ViaCircuit):
            return target.connection in self.circuits
        return self.next_hops.get(target.address) is not None

    def works(self, target: Target) -> bool:
        """Usable, and not failing."""
        return any(self.usable(member) and member not in self.failing for member in members_of(target))

    def group(self, target: Target, family: int) -> int:
        """Id of the target's group."""
        return self.identifiers(target, family)[1]

    def owner(self, identifier: int) -> Target | None:
        """Whose nexthop or group this is; None for a blackhole or what is not ours."""
        return self._owners.get(identifier)

    def blackhole(self, family: int) -> Nexthop:
        """The family's blackhole, shared by all connections."""
        return Nexthop(self.identifiers(None, family)[0], family, 0)

    def nexthop(self, target: Single, family: int) -> Nexthop | None:
        """The target's own nexthop; None without a device or resolution."""
        identifier = self.identifiers(target, family)[0]
        if isinstance(target, ViaConnection):
            connection = self.connections.get(target.name)
            return Nexthop(identifier, family, connection.interface) if connection and connection.interface else None
        if isinstance(target, ViaCircuit):
            return None  # the host's own routes lead there
        resolution = self.next_hops.get(target.address)
        return Nexthop(identifier, family, resolution.interface, resolution.gateway) if resolution else None

    def objects(self, target: Target, family: int, present: Callable[[Nexthop], bool]) -> Iterator[Entry]:
        """What the kernel must hold for this target, the nexthops of its members apart where it has several. The group of
        what leads into tunnels always has a member that exists: a TUN only once the kernel has the nexthop (`present`) and
        the tunnel is up."""
        if not isinstance(target, ViaTiers) and (own := self.nexthop(target, family)) is not None:
            yield own
        carrying = self._carrying(target, family, present)
        if any(isinstance(member, ViaConnection) for member in members_of(target)):
            blackhole = self.blackhole(family)
            yield blackhole
            carrying = carrying or (blackhole.id,)
        if carrying:
            yield Group(self.group(target, family), carrying)

    def _carrying(self, target: Target, family: int, present: Callable[[Nexthop], bool]) -> tuple[int, ...]:
        """The nexthops that packets are to take now. A single next hop may come in the same batch as its group; a TUN may
        not, nor what joins others: such a group stands, and carries, already."""
        if isinstance(target, ViaNextHop):
            own = self.nexthop(target, family)
            return (own.id,) if own is not None else ()
        tiers = target.tiers if isinstance(target, ViaTiers) else ((target,),)
        # What fails is better than nothing
        for tier in (*(tuple(one for one in tier if one not in self.failing) for tier in tiers), *tiers):
            usable = [one for one in tier if self.usable(one) and not self.refusal(one, family)]
            found = [nexthop for one in usable if (nexthop := self.nexthop(one, family)) and present(nexthop)]
            if found:
                return tuple(one.id for one in found)
        return ()

    def identifiers(self, target: Target | None, family: int) -> tuple[int, int]:
        """(nexthop id, group id) of the target, of the family's blackhole for None; assigned at first use."""
        known = self._ids.get((target, family))
        if known is None:
            known = (self._free.take(), self._free.take() if target is not None else 0)
            self._ids[(target, family)] = known
            if target is not None:
                self._owners.update(dict.fromkeys(known, target))
        return known

    def known(self, target: Target, family: int) -> tuple[int, ...]:
        """The ids already assigned to the target, if any."""
        return self._ids.get((target, family), ())

    def crowded(self, target: Target, family: int) -> str:
        """Why there are no ids for it, "" if there are; those of its members and of the blackhole counted in."""
        if (target, family) in self._ids or self._free.left(2 * len(members_of(target)) + 3):
            return ""
        return CROWDED

    def retire_unused(self, needed: Callable[[Target, int], bool], held: Callable[[int], bool]) -> None:
        """All those that no route needs."""
        for target, family in list(self._ids):
            if target is not None and not needed(target, family):
                self.retire(target, family, held)

    def retire(self, target: Target, family: int, held: Callable[[int], bool]) -> None:
        """No route needs it: its ids are given back unless the kernel holds something by them, or is about to (`held`)."""
        known = self._ids.get((target, family))
        if known is not None and not any(map(held, known)):
            del self._ids[(target, family)]
            for identifier in known:
                del self._owners[identifier]
            self._free.give_back(known)
            self._room = True

    def room_again(self) -> bool:
        """Whether ids were given back since this was last asked."""
        room, self._room = self._room, False
        return room
