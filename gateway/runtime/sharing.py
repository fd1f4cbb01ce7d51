"""What a pair with shared addresses needs of the host and the cloud: the session for copies of SAs, and the addresses themselves."""

from __future__ import annotations

from collections.abc import Callable

from gateway.config.model import HaPeer
from gateway.contract import RandomSource
from gateway.ha.address_values import AddressCall
from gateway.node import effects
from gateway.node.inputs import AddressAnswered, ReplicaCommand
from gateway.node.pair_settings import PairSettings
from gateway.runtime.fabric_calls import AddressCalls
from gateway.runtime.netlink import Netlink
from gateway.runtime.replica_link import ReplicaLink, ReplicaSettings, Tell
from gateway.runtime.shared_addresses import SharedAddresses

ReplicaEffect = effects.HoldAddresses | AddressCall | effects.ReplicaSeek | effects.ReplicaSay | effects.ReplicaClose


class Sharing:
    """`follow` at the start and at each reload, `close` at the end."""

    def __init__(
        self, mark: int, random: RandomSource, netlink: Netlink, command: Callable[[ReplicaCommand], None], tell: Tell
    ) -> None:
        self._link = ReplicaLink(mark, random, command, tell)
        self._addresses = SharedAddresses(netlink, tell)
        self._calls = AddressCalls(mark, lambda ticket, outcome: command(AddressAnswered(ticket, outcome)))

    async def follow(self, pair: PairSettings | None) -> None:
        """OSError (a sentence) when the port is not to be had."""
        await self._link.follow(_settings(pair) if pair is not None and pair.shared else None)

    def configure(self, ha: HaPeer | None) -> None:
        """Whom to tell in the cloud; before `perform`, and at each reload."""
        self._calls.configure(ha.fabric if ha is not None else None)

    def perform(self, effect: ReplicaEffect) -> None:
        match effect:
            case effects.HoldAddresses():
                self._addresses.want(effect)
            case AddressCall():
                self._calls.call(effect)
            case effects.ReplicaSeek(wanted):
                self._link.seek(wanted)
            case effects.ReplicaSay(said):
                self._link.say(said)
            case effects.ReplicaClose():
                self._link.end()

    async def close(self) -> None:
        await self._link.close()
        await self._calls.close()
        await self._addresses.close()


def _settings(pair: PairSettings) -> ReplicaSettings:
    beats = pair.heartbeat
    return ReplicaSettings(beats.local, beats.remote, beats.cluster, (beats.secret, *beats.older_secrets))
