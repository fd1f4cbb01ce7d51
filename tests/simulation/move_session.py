"""A TCP session between the two gateways: what one end says arrives in its order, or the session ends.

Nothing gets through a cut; who sent something into it and hears of no arrival for PATIENCE gives up, as TCP_USER_TIMEOUT does for
`runtime/replica_link.py`. The other end learns of that when it says something itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from simulation.move_plan import OTHER

from gateway.ha.replica import Said

if TYPE_CHECKING:
    from simulation.move_world import MoveWorld

PATIENCE = 2.0
AGAIN = 0.2
"""Seconds until it is sent again, or dialed again."""


class Session:
    """Between `a` and `b`; an end is open until its process ends it or gives it up. `begins_at`: who dialed hears nothing before."""

    def __init__(self, world: MoveWorld, begins_at: float) -> None:
        self._world, self._begins_at = world, begins_at
        self._open = {"a": True, "b": True}
        self._way: dict[str, deque[tuple[float, Said | None]]] = {
            "a": deque(),
            "b": deque(),
        }  # what each said; None: it ends

    def say(self, sender: str, said: Said | None) -> None:
        way, world = self._way[sender], self._world
        due = max([world.delay(), self._begins_at, *(at for at, _ in way)])
        way.append((due, said))
        world.schedule(due, lambda: self._pass(sender))

    def abort(self, name: str) -> None:
        """The end of a process that runs, or whose host runs still."""
        self.vanish(name)
        self.say(name, None)

    def vanish(self, name: str) -> None:
        """Without a word to the other end."""
        self._open[name] = False

    def _pass(self, sender: str) -> None:
        way, world = self._way[sender], self._world
        while way and way[0][0] <= world.now:
            due, said = way[0]
            if world.is_cut(sender, OTHER[sender]):
                if world.now - due >= PATIENCE:
                    self._lose(sender)
                else:
                    world.schedule(world.now + AGAIN, lambda: self._pass(sender))
                return
            way.popleft()
            self._arrive(OTHER[sender], said)

    def _arrive(self, name: str, said: Said | None) -> None:
        sender, world = OTHER[name], self._world
        if not self._open[name]:
            self._lose(sender)
        elif said is None:
            self._lose(name)
        else:
            if world.is_cut(name, sender):
                world.schedule(world.now + PATIENCE, lambda: self._unacknowledged(sender))
            world.machines[name].hear(self, said)

    def _unacknowledged(self, sender: str) -> None:
        if self._world.is_cut(OTHER[sender], sender):
            self._lose(sender)

    def _lose(self, name: str) -> None:
        self._way[name].clear()
        if self._open[name]:
            self._open[name] = False
            self._world.machines[name].lost(self)
