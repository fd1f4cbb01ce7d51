"""Learned prefixes that stay protected: what once led into a tunnel does not leave in clear when its route goes.

A prefix is kept from the first time its route leads into a tunnel whose connection asks for it, over withdrawal, restart
and reboot, until the operator forgets it. That prefix alone: another route inside it may lead elsewhere, as the VNet's own
inside a site's aggregate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.routing.guard import GUARD_METRIC
from gateway.routing.model import Key, Prefix, Route, RouteKind

LIMIT = 20000
"""A peer that announces ever other prefixes must not fill our memory and the kernel's."""


FULL = f"clear-text guard: {LIMIT} learned prefixes are protected and there is no room for more: those learned now may leave in clear after their withdrawal; forget some (`gatewayctl guard`)"


class Kept:
    """The prefixes, and what changed since somebody last looked."""

    def __init__(self) -> None:
        self._prefixes: dict[Prefix, None] = {}
        self._news: list[Prefix] = []
        self.full = False

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._prefixes

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)

    def add(self, prefix: Prefix) -> bool:
        """Whether it is new, and there was room."""
        if prefix in self._prefixes:
            return False
        self.full = len(self._prefixes) >= LIMIT
        if self.full:
            return False
        self._prefixes[prefix] = None
        self._news.append(prefix)
        return True

    def forget(self, prefixes: Iterable[Prefix]) -> list[Prefix]:
        """Those of them that were kept."""
        gone = [prefix for prefix in prefixes if prefix in self._prefixes]
        for prefix in gone:
            del self._prefixes[prefix]
        self.full = self.full and not gone
        return gone

    def news(self) -> list[Prefix]:
        """Those added since the last call."""
        news, self._news = self._news, []
        return news

    def entries(self) -> dict[Key, Route]:
        return {entry.key: entry for entry in map(closed, self._prefixes)}


def closed(prefix: Prefix) -> Route:
    """The blackhole that is left when nothing else is."""
    return Route(prefix, GUARD_METRIC, RouteKind.BLACKHOLE)
