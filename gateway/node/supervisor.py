"""Asks for what is wanted and missing: an IKE_SA of a connection, a CHILD_SA of an IKE_SA; with back-off, for ever.

Level-triggered: told that something happened to a connection, it looks at what there is, not at what happened. It
looks only at those, in turns, so that a thousand connections at rest cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from gateway.deadlines import Deadlines
from gateway.ike.commands import CreateChildSa, Initiate
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.states import IkeState
from gateway.node.tunnel import Tunnel, child_due


class Supervisor:
    """Of all connections. `tunnels` is the node's own mapping, as it is at each moment."""

    def __init__(self, tunnels: Mapping[str, Tunnel], ike: IkeEndpoint) -> None:
        self._tunnels, self._ike = tunnels, ike
        self._retry: Deadlines[str] = Deadlines(self._retry_at)
        self._waiting: dict[str, None] = {}  # a set in order of insertion

    def look_after(self, name: str) -> None:
        """Something about this connection changed: is what is wanted still there, and when is the next look?"""
        self._waiting[name] = None
        self._retry.touch(name)

    @property
    def busy(self) -> bool:
        """Whether somebody waits to be looked after."""
        return bool(self._waiting)

    def next_deadline(self) -> float | None:
        return self._retry.earliest()

    def due(self, now: float) -> list[str]:
        """Connections whose time has come; the caller says `look_after` of each."""
        return self._retry.due(now)

    def look_after_some(self, limit: int, now: float) -> int:
        """At most so many of those that wait; says how many."""
        names = list(islice(self._waiting, limit))
        for name in names:
            del self._waiting[name]
            if name in self._tunnels:
                self._supervise(self._tunnels[name], now)
        return len(names)

    def _supervise(self, tunnel: Tunnel, now: float) -> None:
        primary = self._ike.primary(tunnel.name)
        if primary is None:
            if self._may_initiate(tunnel) and tunnel.back_off.due(now):
                tunnel.attempts += 1
                self._ike.command(Initiate(tunnel.name), now)
            return
        if now < child_due(primary) or primary.exchange is not None:
            return
        for child in tunnel.missing(primary):
            back_off = tunnel.back_off_of(child)
            if back_off.due(now):
                back_off.failed(now)
                self._ike.command(CreateChildSa(tunnel.name, child), now)

    def _retry_at(self, name: str) -> float | None:
        tunnel = self._tunnels.get(name)
        return min(self._retries(tunnel), default=None) if tunnel is not None else None

    def _retries(self, tunnel: Tunnel) -> Iterator[float]:
        primary = self._ike.primary(tunnel.name)
        if primary is None:
            if self._may_initiate(tunnel) and tunnel.back_off.at is not None:
                yield tunnel.back_off.at
            return
        for child in tunnel.missing(primary):
            if primary.exchange is None:
                yield max(tunnel.back_off_of(child).at or 0.0, child_due(primary))

    def _may_initiate(self, tunnel: Tunnel) -> bool:
        """Wanted, its device there, and nothing of ours under way. What a stranger half opened from the peer's address
        does not hold us back."""
        if not tunnel.wanted or tunnel.elsewhere or tunnel.device_fault or not tunnel.interface:
            return False
        sas = [sa for sa in self._ike.sas(tunnel.name) if sa.state is not IkeState.DELETING]
        return not any(sa.is_initiator or sa.established for sa in sas)
