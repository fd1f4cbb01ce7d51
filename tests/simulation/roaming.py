"""The initiator's half of MOBIKE (RFC 4555), which gateway/ has not: `a` asks for it, and says where it is when it moves.

    moved -> a while later -> HDR, SK {N(UPDATE_SA_ADDRESSES), N(NATD_S), N(NATD_D)} on every IKE_SA that was not told

It moves as the host behind a NAT does that gets another outer address. And the question of RFC 4555 3.7: whether ESP goes to an
address from which nobody has answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.snapshots import EXCHANGE_AT
from simulation.trace import Broken

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction
from gateway.ike import nat
from gateway.ike.exchanges.base import Exchange
from gateway.ike.message import Message
from gateway.ike.payloads import Notify, Payload
from gateway.ike.registry import ExchangeType, Flags, NotifyType
from gateway.ike.sa import IkeSa
from gateway.ike.window import Datagrams
from gateway.node import effects, inputs
from gateway.node.gateway import Gateway

if TYPE_CHECKING:
    from simulation.shell import Shell
    from simulation.world import World

NOTICED = (0.0, 2.0)
"""Seconds until a node notices where it is."""
FLAGS_AT = 19
PRETENDED = 20
"""Octets of a source hash that is none."""


class Roaming:
    """Of the connections of a world for which it is agreed."""

    def __init__(self, world: World) -> None:
        self.generation = 0
        """How often it moved."""
        self.told: dict[int, int] = {}
        """What the peer knows, by the SPI with which a chain of IKE_SAs began."""
        self._world = world
        self._chance = random.Random(f"{world.seed} roaming")
        self._names = {name for name, plan in world.plan.connections.items() if plan.roams}
        self._answered: set[tuple[str, Endpoint]] = set()
        self._telling = False

    # --- the initiator ------------------------------------------------------------------------------------------

    def equip(self, shell: Shell) -> None:
        """The node has just started."""
        endpoint = shell.node.ike
        adopt = endpoint.adopt

        def equipped(sa: IkeSa) -> None:
            adopt(sa)
            if sa.is_initiator and sa.name in self._names and sa.established_at is None:
                self.told[sa.initiator_spi] = self.generation
                sa.request = _asking(sa)  # type: ignore[method-assign]

        endpoint.adopt = equipped  # type: ignore[method-assign]

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
        known = self.told.get(sa.origin.initiator_spi)
        return sa.mobike and sa.origin.is_initiator and known is not None and known < self.generation

    def _tell_all(self, node: Gateway, sas: list[IkeSa], now: float) -> None:
        for sa in sas:
            if sa.established and not sa.quiet and not sa.has_exchange(UpdateAddresses):
                sa.enqueue(UpdateAddresses(lambda: self.generation, self._note), now)
                node.ike._stir(sa.name)
                node.command(inputs.Operate("look", sa.name), now)

    def _note(self, chain: int, generation: int) -> None:
        self.told[chain] = generation

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


class UpdateAddresses(Exchange):
    """RFC 4555 3.5."""

    kind = ExchangeType.INFORMATIONAL

    def __init__(self, where: Callable[[], int], told: Callable[[int, int], None]) -> None:
        self.where, self.told = where, told
        self.generation = 0

    def start(self, sa: IkeSa, now: float) -> None:
        self.generation = self.where()
        pretended = sa.services.random.octets(PRETENDED)
        detection = nat.notifications(sa.initiator_spi, sa.responder_spi, sa.local, sa.remote, pretended)
        sa.request(self.kind, (Notify(NotifyType.UPDATE_SA_ADDRESSES), *detection), now)

    def on_response(self, sa: IkeSa, message: Message, now: float) -> bool:
        if message.error() is not None:
            raise Broken(f"UPDATE_SA_ADDRESSES was refused: {message.error()}")
        self.told(sa.origin.initiator_spi, self.generation)
        sa.finish(now)
        return True


def _asking(sa: IkeSa):  # type: ignore[no-untyped-def]
    """`sa.request` with N(MOBIKE_SUPPORTED) in its IKE_AUTH (RFC 4555 3.2)."""
    whole = sa.request

    def request(
        kind: ExchangeType, payloads: tuple[Payload, ...], now: float, repeat_id: int | None = None
    ) -> Datagrams:
        if kind is ExchangeType.IKE_AUTH:
            sa.mobike = True
            payloads = (*payloads, Notify(NotifyType.MOBIKE_SUPPORTED))
        return whole(kind, payloads, now, repeat_id)

    return request
