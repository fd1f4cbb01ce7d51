"""From the configuration to what is watched by BFD or by echo, as `settings.py` does it for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.bfd.echo import EchoSettings
from gateway.bfd.session import SessionSettings
from gateway.bgp.settings import SpeakerSettings
from gateway.config import derive
from gateway.config.model import Address, Circuit, Config, Connection, HaPeer, HaVote
from gateway.routing.model import Single, ViaCircuit, ViaConnection, ViaNextHop


@dataclass(frozen=True, slots=True)
class Watch:
    """One BFD session with a BGP neighbor, or one probe of a tunnel (`neighbor` ""), or of a target of the pair's vote. `connection`:
    inside of it, "" outside of all. `kind`: the probe's, as native/probe.h names it."""

    name: str
    kind: str
    neighbor: str
    connection: str
    local: Address
    remote: Address
    settings: SessionSettings | EchoSettings
    circuit: str = ""  # the connection beside whose private circuit this asks
    hold: float = 0.0  # how long that must work again before it is used
    votes: bool = False

    @property
    def path(self) -> tuple[str, str, Address, Address]:
        """What makes it another one altogether."""
        return self.kind, self.connection, self.local, self.remote

    @property
    def target(self) -> Single | None:
        """Whose routes it speaks for; None: a target of the vote says nothing of routes."""
        if self.votes:
            return None
        if self.circuit:
            return ViaCircuit(self.circuit)
        return ViaConnection(self.connection) if self.connection else ViaNextHop(self.remote)


def watches(config: Config, speaker: SpeakerSettings | None, keys: Mapping[str, bytes]) -> Iterator[Watch]:
    """`speaker`: for the neighbors' local addresses; `keys`: by neighbor name."""
    neighbors = config.bgp.neighbor if config.bgp is not None else {}
    for known in speaker.neighbors if speaker is not None else ():
        bfd = neighbors[known.name].bfd
        if bfd is not None:
            settings = SessionSettings(bfd.interval, bfd.multiplier, keys.get(known.name), bfd.key_id)
            kind = "bfd" if known.multihop == 1 else "bfd-multihop"
            name = f"bfd {known.name}"
            yield Watch(name, kind, known.name, known.connection, known.local_address, known.address, settings)
    for name, connection in config.connection.items():
        if connection.circuit is not None:
            yield _circuit(name, connection, connection.circuit)
        probe = connection.probe
        if probe is None:
            continue
        version = probe.address.version
        facing = derive.interface_facing(connection, probe.address)
        own = facing or next(one for one in connection.tunnel_address if one.version == version)
        echo = EchoSettings(version, probe.interval, probe.multiplier)
        yield Watch(f"probe {name}", f"echo{version}", "", name, own.ip, probe.address, echo)
    ha = config.ha
    if ha is not None and ha.witness is None and ha.without_witness == "vote" and ha.vote is not None:
        yield from _vote(ha, ha.vote)


def _vote(ha: HaPeer, vote: HaVote) -> Iterator[Watch]:
    """Outside of all tunnels, from where the heartbeats leave."""
    for target in vote.targets:
        echo = EchoSettings(target.version, vote.interval, vote.multiplier)
        name, kind = f"vote {target}", f"echo{target.version}"
        yield Watch(name, kind, "", "", ha.local_address, target, echo, votes=True)


def _circuit(name: str, connection: Connection, circuit: Circuit) -> Watch:
    version = circuit.address.version
    local = circuit.local_address or connection.local_addrs
    echo = EchoSettings(version, circuit.interval, circuit.multiplier)
    return Watch(f"circuit {name}", f"echo{version}", "", "", local, circuit.address, echo, name, circuit.hold)
