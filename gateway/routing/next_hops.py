"""Addresses on the underlay that routes lead to: how the main table reaches each, asked again whenever it may have changed.

Some are named by routes of this FIB; others are only *followed*, because BGP must know whether they can be reached before
it chooses a path (RFC 4271 9.1.2.1). Who follows hears of answers only, never that one is asked for again: what is
looked up anew after a link went is not gone before it is known to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.routing.model import Address, Resolution, Resolve

_NONE: Mapping[Address, bool] = {}


class NextHops:
    """`ways`: how each is reached; None: not at all, or not yet known."""

    def __init__(self) -> None:
        self.ways: dict[Address, Resolution | None] = {}
        self._named: set[Address] = set()
        self._followed: dict[Address, bool | None] = {}  # the last answer; None: there was none yet
        self._to_ask: dict[Address, None] = {}
        self._news: dict[Address, bool] = {}

    def name(self, address: Address) -> None:
        """A route leads there."""
        self._named.add(address)
        self._want(address)

    def release(self, address: Address) -> None:
        """No route does any more."""
        self._named.discard(address)
        self._drop(address)

    def follow(self, address: Address, wanted: bool) -> None:
        """Say whether it is reached, now if that is known, and whenever it is another thing."""
        if not wanted:
            self._followed.pop(address, None)
            self._news.pop(address, None)
            self._drop(address)
            return
        known = self._followed.get(address)
        if known is None and self.ways.get(address) is not None:
            known = True
        self._followed[address] = known
        if known is not None:
            self._news[address] = known
        elif address in self.ways:
            self._to_ask[address] = (
                None  # not reached, or its answer is on the way: that of a route was not ours to hear
            )
        self._want(address)

    def resolved(self, address: Address, resolution: Resolution | None) -> bool:
        """The answer; whether anybody wanted it."""
        if address not in self.ways:
            return False
        self.ways[address] = resolution
        if address in self._followed and self._followed[address] is not (reached := resolution is not None):
            self._followed[address] = self._news[address] = reached
        return True

    def lost(self, interface: int) -> list[Address]:
        """Those that were reached by this link, which went."""
        gone = [address for address, way in self.ways.items() if way is not None and way.interface == interface]
        for address in gone:
            self.ways[address] = None
            self._to_ask[address] = None
        return gone

    def ask_again(self) -> None:
        """Links, addresses or routes of the underlay changed."""
        self._to_ask.update(dict.fromkeys(self.ways))

    def poll(self) -> Iterator[Resolve]:
        while self._to_ask:
            address = next(iter(self._to_ask))
            del self._to_ask[address]
            yield Resolve(address)

    def news(self) -> Mapping[Address, bool]:
        """Of those followed, since it was last asked for: whether they are reached."""
        if not self._news:
            return _NONE
        found, self._news = self._news, {}
        return found

    def _want(self, address: Address) -> None:
        if address not in self.ways:
            self.ways[address] = None
            self._to_ask[address] = None

    def _drop(self, address: Address) -> None:
        if address not in self._named and address not in self._followed:
            self.ways.pop(address, None)
            self._to_ask.pop(address, None)
