"""The series of the pair, of its addresses in the cloud and of the cloud's route tables: one table, as in `metrics.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from gateway.observe import addresses
from gateway.observe.addresses import CloudInterfaceStatus
from gateway.observe.fabric import FabricTableStatus, call_samples, route_samples
from gateway.observe.family import Family, Sample, wall
from gateway.observe.snapshot import HaStatus, ReplicaStatus, Snapshot

HEARTBEAT_REJECTIONS = ("bad_version", "bad_mac", "replay", "unknown_boot", "own_reflection", "malformed")
ROLES = ("init", "standby", "active", "draining", "fault")
LEASES = ("none", "ours", "other", "free", "unknown")


def _of_pair(value: Callable[[HaStatus], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda s: [((), value(s.ha))] if s.ha is not None else []


def _of_replica(value: Callable[[ReplicaStatus], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda s: [((), value(s.ha.replica))] if s.ha is not None and s.ha.replica is not None else []


def _datagrams(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.ha is not None:
        yield ("in",), snapshot.ha.received
        yield ("out",), snapshot.ha.sent


def _rejected(snapshot: Snapshot) -> Iterator[Sample]:
    if snapshot.ha is not None:
        for reason in dict.fromkeys((*HEARTBEAT_REJECTIONS, *snapshot.ha.rejected)):
            yield (reason,), snapshot.ha.rejected.get(reason, 0)


def _roles(snapshot: Snapshot) -> Iterator[Sample]:
    for role in ROLES if snapshot.ha is not None else ():
        yield (role,), snapshot.ha is not None and snapshot.ha.role == role


def _leases(snapshot: Snapshot) -> Iterator[Sample]:
    for state in LEASES if snapshot.ha is not None else ():
        yield (state,), snapshot.ha is not None and snapshot.ha.lease == state


def _transitions(snapshot: Snapshot) -> Iterator[Sample]:
    for role in ROLES if snapshot.ha is not None else ():
        yield (role,), snapshot.ha.transitions.get(role, 0) if snapshot.ha is not None else 0


def _paths(snapshot: Snapshot) -> Iterator[Sample]:
    """Two paths may lead to one address: a series of its own is what its name is for."""
    up: dict[str, bool] = {}
    for path in snapshot.ha.paths if snapshot.ha is not None else ():
        up[path.remote] = up.get(path.remote, True) and path.up
    for remote, works in up.items():
        yield (remote,), works


def _by_table(value: Callable[[FabricTableStatus], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda s: [((table.name,), value(table)) for table in (s.fabric.tables if s.fabric else ())]


def _by_interface(value: Callable[[CloudInterfaceStatus], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda s: [((one.name,), value(one)) for one in (s.addresses.interfaces if s.addresses else ())]


def _elsewhere(snapshot: Snapshot) -> Iterator[Sample]:
    away = snapshot.ha.sent_away if snapshot.ha is not None else ()
    for peer in snapshot.peers:
        if peer.connection in away:
            yield (peer.address,), 1.0


PAIR_FAMILIES: tuple[Family, ...] = (
    Family("gateway_ha_peer_up", "gauge", "1: heartbeats pass in both directions", (), _of_pair(lambda ha: ha.peer_up)),
    Family(
        "gateway_ha_last_heartbeat_timestamp_seconds", "gauge", "UNIX time of the last authentic heartbeat", (),
        lambda s: [((), wall(s, s.ha.last_heartbeat_at))] if s.ha else [],
    ),
    Family("gateway_ha_round_trip_seconds", "gauge", "last measured round trip; 0: none yet", (), _of_pair(lambda ha: ha.round_trip or 0.0)),
    Family("gateway_ha_heartbeats_total", "counter", "heartbeat datagrams sent and accepted", ("direction",), _datagrams),
    Family("gateway_ha_rejected_total", "counter", "heartbeat datagrams refused", ("reason",), _rejected),
    Family("gateway_ha_path_up", "gauge", "1: this path of the heartbeats works in both directions", ("remote",), _paths),
    Family("gateway_ha_role", "gauge", "exactly one role of this gateway is 1", ("role",), _roles),
    Family("gateway_ha_transitions_total", "counter", "changes of the role, by the new one", ("role",), _transitions),
    Family(
        "gateway_ha_last_change_timestamp_seconds", "gauge", "UNIX time of the last change of the role", (),
        lambda s: [((), wall(s, s.ha.changed_at))] if s.ha else [],
    ),
    Family("gateway_ha_epoch", "gauge", "highest epoch that this gateway knows of", (), _of_pair(lambda ha: ha.epoch)),
    Family(
        "gateway_ha_epoch_announced", "gauge", "highest epoch in large communities of others' routes, of those above what was known; 0: none", (),
        _of_pair(lambda ha: ha.epoch_announced),
    ),
    Family("gateway_ha_health", "gauge", "what this gateway says of itself; 1000 is best", (), _of_pair(lambda ha: ha.health)),
    Family("gateway_ha_peer_health", "gauge", "what the other gateway said of itself last", (), _of_pair(lambda ha: ha.peer_health)),
    Family("gateway_ha_lease", "gauge", "exactly one state of the lease is 1, as far as is known here", ("state",), _leases),
    Family(
        "gateway_ha_lease_seconds", "gauge", "until our lease is over unless it is renewed; 0: we have none", (),
        _of_pair(lambda ha: ha.lease_remaining or 0.0),
    ),
    Family("gateway_ha_machine_leaves", "gauge", "1: the cloud announced that this machine is restarted, moved or taken away", (), _of_pair(lambda ha: ha.machine_leaves)),
    Family(
        "gateway_ha_sent_away", "gauge", "1: its peer has its tunnel with the active gateway, which is the other one", ("tunnel",),
        lambda s: [((name,), 1.0) for name in (s.ha.sent_away if s.ha else ())],
    ),
    Family(
        "gateway_ha_bgp_peer_elsewhere", "gauge", "1: its session is in a tunnel that is at the other gateway, and not expected here", ("peer",),
        _elsewhere,
    ),
    Family("gateway_ha_shared_here", "gauge", "1: the shared addresses are this gateway's", (), _of_replica(lambda one: one.here)),
    Family("gateway_ha_copy_usable", "gauge", "1: this standby could go on with the SAs of the shared addresses", (), _of_replica(lambda one: one.usable)),
    Family("gateway_ha_copy_behind", "gauge", "changes of SAs that the standby has not confirmed", (), _of_replica(lambda one: one.behind)),
    Family(
        "gateway_ha_cloud_address", "gauge", "exactly one place where the cloud has a shared address is 1", ("interface", "address", "place"),
        lambda s: addresses.place_samples(s.addresses),
    ),
    Family("gateway_ha_cloud_troubled", "gauge", "1: something keeps the cloud from having shared addresses where they should be", ("interface",), _by_interface(lambda one: bool(one.trouble))),
    Family("gateway_ha_cloud_drift_total", "counter", "shared addresses that somebody took in the cloud while they were ours", ("interface",), _by_interface(lambda one: one.drift)),
    Family("gateway_ha_cloud_calls_total", "counter", "calls of the cloud about shared addresses", ("interface", "result"), lambda s: addresses.call_samples(s.addresses)),
    Family(
        "gateway_ha_cloud_move_seconds", "gauge", "how long the last move of shared addresses to this gateway took in the cloud; 0: none yet", ("interface",),
        _by_interface(lambda one: one.move_seconds or 0.0),
    ),
    Family("gateway_ha_config_differs", "gauge", "1: the two gateways protect or announce different things", (), _of_pair(lambda ha: ha.peer_config == "differs")),
    Family(
        "gateway_fabric_active", "gauge", "1: this gateway writes the cloud's route tables", (),
        lambda s: [((), s.fabric.active and not s.fabric.outdone_by)] if s.fabric else [],
    ),
    Family("gateway_fabric_routes", "gauge", "wanted routes by what the table has for them", ("table", "state"), lambda s: route_samples(s.fabric)),
    Family("gateway_fabric_foreign_routes", "gauge", "routes of a table that are not ours", ("table",), _by_table(lambda t: len(t.foreign))),
    Family("gateway_fabric_troubled", "gauge", "1: something keeps the table from being right", ("table",), _by_table(lambda t: bool(t.trouble))),
    Family("gateway_fabric_drift_total", "counter", "routes of ours that others changed", ("table",), _by_table(lambda t: t.drift)),
    Family("gateway_fabric_calls_total", "counter", "calls of the cloud", ("table", "result"), lambda s: call_samples(s.fabric)),
    Family(
        "gateway_fabric_switch_seconds", "gauge", "how long the last switch to this gateway took; 0: none yet", ("table",),
        _by_table(lambda t: t.switch_seconds or 0.0),
    ),
)  # fmt: skip
