"""The kernel's table as far as we know it, with the kernel's own habits: what it deletes along.

Not a cache of anything read here: it is fed by answers to our operations and by dumps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.routing.model import Entry, Group, Key, Nexthop, Route, RouteKind


class Mirror:
    """Entries by key, and who uses which nexthop or group."""

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}
        self.entry = self._entries.get
        """The entry of a key, None without."""
        self._users: dict[int, set[Key]] = {}
        self._on: dict[int, set[int]] = {}  # nexthops by interface

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Key]:
        return iter(self._entries)

    def in_use(self, identifier: int) -> bool:
        """True while a group holds this nexthop, or a route this group."""
        return bool(self._users.get(identifier))

    def in_clear(self, route: Route) -> bool:
        """Whether it leads, or may lead, beside the tunnels: only there nexthops of ours have a gateway."""
        group = self._entries.get(route.group)
        if not isinstance(group, Group):
            return route.kind is not RouteKind.BLACKHOLE
        hops = [self._entries.get(member) for member in group.members]
        return not all(isinstance(hop, Nexthop) and hop.gateway is None for hop in hops)

    def put(self, entry: Entry) -> None:
        """Added or replaced."""
        key = entry.key
        if key in self._entries:
            self._forget_uses(key)
        self._entries[key] = entry
        if isinstance(entry, Nexthop):
            self._on.setdefault(entry.interface, set()).add(entry.id)
        for identifier in _uses(entry):
            users = self._users.get(identifier)
            if users is None:
                users = self._users[identifier] = set()
            users.add(key)

    def drop(self, key: Key) -> list[Key]:
        """Deleted; returns every key that went, because the kernel deletes a nexthop's emptied groups and their routes."""
        if key not in self._entries:
            return []
        self._forget_uses(key)
        del self._entries[key]
        gone = [key]
        if not isinstance(key, int):
            return gone
        for user in self._users.pop(key, set()):
            group = self._entries[user]
            remaining = tuple(member for member in group.members if member != key) if isinstance(group, Group) else ()
            if remaining and isinstance(group, Group):
                self._entries[user] = Group(group.id, remaining)
            else:
                gone += self.drop(user)
        return gone

    def drop_interface(self, interface: int) -> list[Key]:
        """The device is gone or down: its nexthops went, and with them what hung on them."""
        return [key for identifier in sorted(self._on.get(interface, ())) for key in self.drop(identifier)]

    def reader(self, entries: Iterable[Entry]) -> Reader:
        """Of a dump."""
        return Reader(self, dict(self._entries), entries)

    def forget(self, key: Key) -> None:
        """Not there, and what hung on it is another question."""
        if key in self._entries:
            self._forget_uses(key)
            del self._entries[key]

    def _forget_uses(self, key: Key) -> None:
        old = self._entries.get(key)
        if isinstance(old, Nexthop):
            nexthops = self._on[old.interface]
            nexthops.discard(old.id)
            if not nexthops:
                del self._on[old.interface]
        for identifier in _uses(old) if old is not None else ():
            users = self._users.get(identifier)
            if users is not None:
                users.discard(key)


class Reader:
    """A dump on its way into the mirror, in pieces: of tens of thousands of entries nearly all are as they were. Until it is read
    the mirror is neither what it was nor what it will be, so nothing is asked of the kernel meanwhile."""

    def __init__(self, mirror: Mirror, before: dict[Key, Entry], entries: Iterable[Entry]) -> None:
        self._mirror = mirror
        self._before = before
        self._entries = iter(entries)
        self.changed: set[Key] = set()
        """Keys whose entries are others than before, or gone: complete when all is read."""

    def read(self, count: int) -> bool:
        """So many more entries. True: that was all."""
        for _ in range(count):
            entry = next(self._entries, None)
            if entry is None:
                self._end()
                return True
            key = entry.key
            if self._before.pop(key, None) != entry:
                self._mirror.put(entry)
                self.changed.add(key)
        return False

    def _end(self) -> None:
        for key in self._before:
            self._mirror.forget(key)
        self.changed |= self._before.keys()


def _uses(entry: Entry) -> tuple[int, ...]:
    if isinstance(entry, Group):
        return entry.members
    if isinstance(entry, Route) and entry.group:
        return (entry.group,)
    return ()
