"""The pair for people: roles, the other gateway, the witness, and why this one would or would not take over now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gateway.ha.message import Advertised, HealthReason, Role, Standing
from gateway.ha.roles import named
from gateway.ha.sealed import Rejection
from gateway.node.high_availability import HighAvailability
from gateway.node.replication import Replication
from gateway.observe.snapshot import HaPathStatus, HaStatus, ReplicaStatus

_LEASE = {Standing.OURS: "ours", Standing.FREE: "free", Standing.OTHER: "other", Standing.UNKNOWN: "unknown"}


def ha_status(
    ha: HighAvailability, now: float, sent: int, sent_away: Iterable[str] = (), replica: ReplicaStatus | None = None
) -> HaStatus:
    """The picture of now; `sent` heartbeats are counted by who sends them. `sent_away`: connections whose peers are redirected."""
    pair = ha.pair
    election, lease, beat = pair.election, pair.lease, pair.heartbeat.status(now)
    own, peer = election.advertised(now), pair.heartbeat.peer_said
    return HaStatus(
        peer_name=beat.peer_name,
        peer_address=beat.peer_address,
        peer_up=beat.peer_up,
        last_heartbeat_at=beat.last_heartbeat_at,
        round_trip=beat.round_trip,
        sent=sent,
        received=beat.received,
        rejected=beat.rejected,
        role=election.role.name.lower(),
        level=_word(ha.attraction.level.name),
        epoch=election.epoch,
        acting_epoch=election.acting_epoch if election.role is Role.ACTIVE else 0,
        priority=own.priority,
        health=own.health,
        reasons=_reasons(own),
        verdict=election.why_not(now),
        last_change=ha.last_change,
        changed_at=ha.changed_at,
        transitions=dict(ha.transitions),
        peer_role=peer.role.name.lower() if peer is not None else "",
        peer_level=_word(peer.level.name) if peer is not None else "",
        peer_epoch=peer.epoch if peer is not None else 0,
        peer_priority=peer.priority if peer is not None else 0,
        peer_health=peer.health if peer is not None else 0,
        peer_reasons=_reasons(peer) if peer is not None else (),
        peer_software=peer.software if peer is not None else "",
        peer_config=_config(own, peer),
        lease=_LEASE[lease.standing(now)] if lease is not None else "none",
        lease_holder=lease.holder if lease is not None else "",
        lease_remaining=lease.remaining(now) if lease is not None else None,
        witness=_witness(ha),
        witness_problem=lease.problem if lease is not None else "",
        paths=tuple(
            HaPathStatus(one.local, one.remote, one.up, one.heard_at, one.round_trip, one.loss)
            for one in pair.heartbeat.paths(now)
        ),
        epoch_announced=election.sightings.highest,
        machine_leaves=ha.machine_leaves,
        sent_away=tuple(sent_away),
        replica=replica,
    )


def replica_status(one: Replication, epoch: int, now: float) -> ReplicaStatus | None:
    """None where no address is shared. `epoch`: the highest known."""
    if not one.hosts:
        return None
    copy, source = one.holder.copy, one.source
    return ReplicaStatus(
        addresses=tuple(sorted(one.hosts)),
        here=one.acting,
        connected=one.dialed is not None,
        connections=len(one.shared) if one.acting else len(copy.contents),
        epoch=one.epoch if one.acting else copy.epoch,
        usable=one.has_copy(epoch, now),
        heard_at=one.source.heard_at if one.acting else one.holder.heard_at,
        behind=source.number - source.acked if one.acting and one.dialed is not None else 0,
        waiting=one.waiting,
    )


def problems(status: HaStatus) -> Iterator[str]:
    """What is wrong, whose setting it is, and the fix."""
    if not status.peer_up:
        yield _silence(status)
    if status.witness and status.lease == "unknown":
        why = status.witness_problem or "nothing came back"
        yield f"pair: the witness {status.witness} does not answer ({why}); without it nobody takes over"
    if status.role == "active" and status.epoch_announced > status.acting_epoch:
        yield (
            f"pair: somebody announces routes of epoch {status.epoch_announced}, and this gateway acts under {status.acting_epoch}: a gateway of "
            "another pair with the same AS, or a forged large community; see `gatewayctl bgp routes`"
        )
    if status.peer_up and status.peer_config == "differs":
        yield (
            f"pair: {status.peer_name} protects or announces other prefixes than this gateway, or by other policies; "
            "after a failover traffic is missing: compare `protected`, [bgp] advertise and [bgp.policy] of the two files"
        )
    dead = [path.remote for path in status.paths if not path.up]
    if status.peer_up and dead:
        yield f"pair: no heartbeats by {', '.join(dead)}; the other paths still work"


def _silence(status: HaStatus) -> str:
    """The likeliest cause of what was counted."""
    rejected = status.rejected
    if rejected.get(Rejection.BAD_MAC.value) and not status.received:
        return f"pair: heartbeats of {status.peer_address} do not verify: `secret` or `cluster` of [ha] is not the same on both gateways"
    if rejected.get(Rejection.BAD_VERSION.value) and not status.received:
        return f"pair: {status.peer_address} speaks another major version of the heartbeat; upgrade the older gateway"
    if rejected.get(Rejection.OWN_REFLECTION.value) and not status.received:
        return f"pair: our own heartbeats come back from {status.peer_address}; is it this gateway's own address?"
    heard = "is not heard any more" if status.last_heartbeat_at is not None else "was never heard"
    return (
        f"pair: the other gateway ({status.peer_address}) {heard}: is it running, and does UDP pass in both directions?"
    )


def _config(own: Advertised, peer: Advertised | None) -> str:
    if peer is None or not any(peer.config_hash):
        return ""
    return "same" if peer.config_hash == own.config_hash else "differs"


def _reasons(said: Advertised) -> tuple[str, ...]:
    return tuple(named(one) for one in HealthReason if said.reasons & one)


def _witness(ha: HighAvailability) -> str:
    if ha.settings.witness is not None:
        return str(ha.settings.witness.remote)
    return "in its storage" if ha.settings.cloud_witness else ""


def _word(name: str) -> str:
    return name.lower().replace("_", "-")
