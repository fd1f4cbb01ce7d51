"""What [ha] means for the cores of the pair."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway import __version__
from gateway.config import derive
from gateway.config.model import Config, HaPeer
from gateway.contract import Endpoint
from gateway.ha.address_values import AddressSettings
from gateway.ha.heartbeat import Settings as HeartbeatSettings
from gateway.ha.paths import Path
from gateway.ha.roles import ElectionSettings
from gateway.ha.vote import VoteSettings
from gateway.ha.witness_link import WitnessSettings
from gateway.node.address_settings import address_settings

WITNESS_SOURCE_PORT = 0
"""Any: the witness answers whoever asked."""
STEP_BACK = 1.0
"""Seconds for an announcement to get from our ExaBGP to everybody who decides by it."""


@dataclass(frozen=True, slots=True)
class PairSecrets:
    """Those of [ha]; `older` is b"" where there is none."""

    current: bytes = field(default=b"", repr=False)
    older: bytes = field(default=b"", repr=False)
    witness: bytes = field(default=b"", repr=False)


class PairSockets(NamedTuple):
    """By which addresses a gateway of a pair talks: with the other one, and with the witness."""

    heartbeats: tuple[Endpoint, ...] = ()
    witness: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class PairSettings:
    """This gateway's part of the pair. `ttl` of the lease, in seconds; `witness` is the node that grants it, None where that is a
    cloud (`cloud_witness`) or there is no lease."""

    heartbeat: HeartbeatSettings
    election: ElectionSettings
    witness: WitnessSettings | None = None
    cloud_witness: bool = False
    ttl: float = 1.0
    shared: tuple[str, ...] = ()
    """Outer addresses that only the active gateway has."""
    cloud: AddressSettings | None = None
    """Where a cloud has to be told of them."""

    @property
    def token_secret(self) -> bytes:
        """32 octets, alike at both gateways: of crash detection at shared addresses (RFC 6290 5.1)."""
        purpose = b"gatewayd quick crash detection" + self.heartbeat.cluster.to_bytes(4, "big")
        return hmac.digest(self.heartbeat.secret, purpose, "sha256")

    @property
    def both_carry(self) -> bool:
        """A healthy standby attracts traffic as an active one does."""
        return self.election.both_carry

    @property
    def sockets(self) -> PairSockets:
        """Where datagrams of the pair come in."""
        beats = [self.heartbeat.local, *(path.local for path in self.heartbeat.further)]
        return PairSockets((*dict.fromkeys(beats),), (self.witness.local,) if self.witness is not None else ())


def pair_settings(config: Config, secrets: PairSecrets) -> PairSettings | None:
    """None for a gateway on its own."""
    ha = config.ha
    if ha is None:
        return None
    return PairSettings(
        heartbeat=_heartbeat(config, ha, secrets),
        election=_election(config, ha),
        witness=_witness(config, ha, secrets),
        cloud_witness=ha.witness is not None and ha.witness.kind != "node",
        ttl=derive.lease_ttl(ha.witness),
        shared=tuple(map(str, ha.shared_addresses)),
        cloud=address_settings(ha),
    )


def _heartbeat(config: Config, ha: HaPeer, secrets: PairSecrets) -> HeartbeatSettings:
    paths = [
        Path(Endpoint(str(one.local_address), one.port), Endpoint(str(one.remote_address), one.port))
        for _, one in derive.pair_paths(config)
    ]
    return HeartbeatSettings(
        *paths[0],
        name=config.gateway.name,
        secret=secrets.current,
        interval=ha.interval,
        dead_after=ha.dead_after,
        cluster=ha.cluster,
        further=tuple(paths[1:]),
        older_secrets=(secrets.older,) if secrets.older else (),
    )


def _election(config: Config, ha: HaPeer) -> ElectionSettings:
    return ElectionSettings(
        name=config.gateway.name,
        priority=ha.priority,
        witness=ha.witness is not None,
        none=ha.without_witness,
        vote=_vote(ha),
        break_lease=ha.witness is not None and ha.witness.break_lease,
        preempt=ha.preempt,
        preempt_delay=ha.preempt_delay,
        drain_time=ha.drain_time,
        hold_down=ha.hold_down,
        step_back=STEP_BACK,
        both_carry=ha.mode == "active-active",
        config_hash=alike(config),
        software=f"gatewayd {__version__}"[:32],
    )


def _vote(ha: HaPeer) -> VoteSettings:
    """Who is cut off misses its targets a detection time after the last answer, at the latest; the other waits for twice that. And for
    as long as the two may take to hear each other."""
    if ha.witness is not None or ha.without_witness != "vote" or ha.vote is None:
        return VoteSettings()
    wait = max(2 * ha.vote.interval * ha.vote.multiplier, ha.interval * ha.dead_after)
    return VoteSettings(len(ha.vote.targets), wait)


def _witness(config: Config, ha: HaPeer, secrets: PairSecrets) -> WitnessSettings | None:
    if ha.witness is None or ha.witness.address is None:
        return None
    return WitnessSettings(
        local=Endpoint(str(ha.local_address), WITNESS_SOURCE_PORT),
        remote=Endpoint(str(ha.witness.address), ha.witness.port),
        name=config.gateway.name,
        secret=secrets.witness,
        cluster=ha.cluster,
    )


def alike(config: Config) -> bytes:
    """SHA-256 (32 octets) of what the two gateways must have alike to carry the same traffic: what is protected and announced, and by
    which policies. Not addresses, names of connections and secrets, which differ for good reasons."""
    protected = {str(one) for connection in config.connection.values() for one in derive.protected_prefixes(connection)}
    bgp = config.bgp
    told = {
        "protected": sorted(protected),
        "advertise": sorted(str(prefix) for prefix in bgp.advertise) if bgp is not None else [],
        "policies": bgp.model_dump(mode="json", include={"policy", "prefix_list"}) if bgp is not None else {},
        "mode": config.ha.mode if config.ha is not None else "",
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()
