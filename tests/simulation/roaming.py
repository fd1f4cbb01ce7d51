"""MOBIKE (RFC 4555) where `a`, the initiator, moves, as the host behind a NAT does that gets another outer address.

    moved -> a while later -> it notices: a liveness check, which says where it is, on every IKE_SA that was not told

And the question of RFC 4555 3.7: whether ESP goes to an address from which nobody has answered.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from simulation.snapshots import EXCHANGE_AT
from simulation.trace import Broken

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.mobike import may_move
from gateway.ike.registry import ExchangeType, Flags
from gateway.ike.sa import IkeSa
from gateway.node import effects, inputs
from gateway.node.gateway import Gateway

if TYPE_CHECKING:
    from simulation.shell import Shell
    from simulation.world import World

NOTICED = (0.0, 2.0)
"""Seconds until a node notices where it is."""
FLAGS_AT = 19


class Roaming:
    """Of the connections of a world for which it is agreed."""

    def __init__(self, world: World) -> None:
        self.generation = 0
        """How often it moved."""
        self.told: dict[int, int] = {}
        """What was said last, by the SPI with which a chain of IKE_SAs began."""
        self._world = world
        self._chance = random.Random(f"{world.seed} roaming")
        self._names = {name for name, plan in world.plan.connections.items() if plan.roams}
        self._answered: set[tuple[str, Endpoint]] = set()
        self._telling = False

    # --- the initiator ------------------------------------------------------------------------------------------

    def moved(self) -> None:
        self.generation += 1
        if not self._telling:
            self._telling = True
            self._later()

    def _later(self) -> None:
        self._world.schedule(self._world.now + self._chance.uniform(*NOTICED), self._tell)

    def _tell(self) -> None:
        shell = self._world.shells["a"]
        left = [sa for sa in shell.node.ike._sas.values() if self._is_to_be_told(sa)] if shell.running else []
        self._telling = bool(left)
        if left and not shell.frozen:
            shell.feed(lambda node, now: self._tell_all(node, left, now))
        if left:
            self._later()

    def _is_to_be_told(self, sa: IkeSa) -> bool:
        return may_move(sa) and self.told.get(sa.origin.initiator_spi, 0) < self.generation

    def _tell_all(self, node: Gateway, sas: list[IkeSa], now: float) -> None:
        for sa in sas:
            if sa.established and not sa.quiet:
                self.told[sa.origin.initiator_spi] = self.generation
                sa.enqueue(Liveness(), now)
                node.ike._stir(sa.name)
                node.command(inputs.Operate("look", sa.name), now)

    # --- the responder ------------------------------------------------------------------------------------------

    def arrived(self, shell: Shell, data: bytes, source: Endpoint) -> None:
        """An intact datagram reached a node: from where it was asked, or had an answer."""
        ike = data.removeprefix(bytes(4))
        if shell.name != "a" and len(ike) > FLAGS_AT:
            answers = bool(ike[FLAGS_AT] & Flags.RESPONSE)
            if answers or ike[EXCHANGE_AT] == ExchangeType.IKE_AUTH:
                self._answered.add((shell.name, source))

    def check_target(self, shell: Shell, effect: object) -> None:
        """RFC 4555 3.7."""
        match effect:
            case effects.MoveSa(connection, spi, remote):
                pass
            case effects.AddSa(sa) if sa.direction is Direction.OUTBOUND:
                connection, spi, remote = sa.connection, sa.spi, sa.remote
            case _:
                return
        names = {tunnel.id: tunnel.name for tunnel in shell.settings.tunnels}
        if shell.name != "a" and names.get(connection) in self._names and (shell.name, remote) not in self._answered:
            raise Broken(f"{shell.name} sends ESP on {spi:08x} to {remote}, from where nobody has answered")
