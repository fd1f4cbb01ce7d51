"""The snapshot as Prometheus series: one table, read top to bottom.

Label values are configured names, fixed words and peers' configured addresses; never an SPI, a port, an
identity or anything else a peer can choose, so the number of series is bounded by the configuration. Every
series exists from the first scrape on, so that `increase()` sees the first failure. A configured tunnel that
is down is a series with value 0, not an absent one. docs/metrics.md is generated from the table:
`python -m gateway.observe.metrics`.
"""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.bfd.packet import Refusal
from gateway.ike.errors import Violation
from gateway.ike.registry import NotifyType
from gateway.ike.states import IkeState
from gateway.observe.addresses import PLACES
from gateway.observe.fabric import STATES as FABRIC_STATES
from gateway.observe.family import Distribution, Family, Sample, wall
from gateway.observe.pair_metrics import HEARTBEAT_REJECTIONS, LEASES, PAIR_FAMILIES, ROLES
from gateway.observe.snapshot import ChildStatus, LivenessStatus, Snapshot, WorkerStatus

# Labels of native/drop_reasons.h and the direction named there; "any" where both directions can meet the reason.
DROP_REASONS = {
    "no_sa": "out",
    "sequence_exhausted": "out",
    "not_active": "out",
    "hard_limit": "any",
    "too_big": "out",
    "inner_malformed": "any",
    "seal_failed": "out",
    "loop": "out",
    "send_failed": "out",
    "tun_read_failed": "out",
    "tun_packet_lost": "out",
    "tun_queue_full": "out",
    "unknown_spi": "in",
    "too_short": "in",
    "replay": "in",
    "integrity": "in",
    "bad_trailer": "in",
    "selector": "in",
    "ecn": "in",
    "dummy": "in",
    "tun_write_failed": "in",
    "punt_full": "in",
    "keepalive": "in",
}
IKE_STATES = ("DOWN", *(state.value for state in IkeState))
CARRYING = ("INSTALLED", "REKEYING")  # states of a CHILD_SA that passes traffic
BGP_STATES = ("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established")
RIBS = ("adj_in", "accepted", "best", "adj_out", "stale", "held_back", "carried")
ROUTE_STATES = ("desired", "installed", "failed", "guard", "guard_missing")
EXCHANGES = (
    "IKE_SA_INIT",
    "IKE_INTERMEDIATE",
    "IKE_AUTH",
    "CREATE_CHILD_SA",
    "IKE_FOLLOWUP_KE",
    "INFORMATIONAL",
)
# RFC 7296 3.10.1: error notifies are below 16384; only they are exported before they were ever seen.
ERROR_NOTIFIES = tuple(notify.name for notify in NotifyType if notify < 16384)
_NOTIFY_NAMES = frozenset(notify.name for notify in NotifyType)
_OTHER = "OTHER"
# Of native/dataplane.h: the most packets of each of a worker's counters of bursts; what its cycles are counted by.
BURST_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)
_BOUND_LABELS = tuple(f"{bound:.1f}" for bound in BURST_BOUNDS)
STAGES = {
    "read": "from the TUN",
    "segment": "selectors, SA, segments",
    "seal": "sequence numbers, cipher",
    "send": "to the socket",
    "receive": "from the socket",
    "open": "SPI, replay window, cipher",
    "deliver": "selectors, coalescing",
    "write": "to the TUN",
}
CALLS = ("tun_reads", "tun_writes", "udp_reads", "udp_sends", "packet_sends")
FALLBACKS = ("full", "refused")
_KINDS: dict[str, Callable[..., Metric]] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class SnapshotCollector(Collector):
    """Collects from whatever `source` returns at the moment of the scrape."""

    def __init__(self, source: Callable[[], Snapshot]) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        return families(self._source())

    def describe(self) -> Iterator[Metric]:
        """Names only, so that registering does not take a snapshot."""
        for family in FAMILIES:
            yield _metric(family)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Every family of the table filled from one snapshot."""
    for family in FAMILIES:
        metric = _metric(family)
        for labels, value in family.samples(snapshot):
            if isinstance(value, Distribution):
                metric.add_metric(labels, list(value.buckets), value.total)
            else:
                metric.add_metric(labels, value)
        yield metric


def render(snapshot: Snapshot) -> bytes:
    """The exposition text (format 0.0.4) of one snapshot."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: snapshot))
    return generate_latest(registry)


def documentation() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated from `gateway/observe/metrics.py` by `python -m gateway.observe.metrics > docs/metrics.md`.",
        "",
        "Scrape `http://127.0.0.1:9550/metrics` (address and port: section `[metrics]`). Every series is exported from the",
        "start; a timestamp of 0 means never. The process's own `process_*` and `python_gc_*` series are served as well.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{f.name}` | {f.kind} | {', '.join(f'`{label}`' for label in f.labels) or '-'} | {f.help} |"
        for f in FAMILIES
    ]
    lines += [
        "",
        "## Values of labels",
        "",
        f"- `state` of `gateway_ike_sa_state` and `gateway_ike_sas`: {_listed(IKE_STATES)}",
        f"- `state` of `gateway_bgp_peer_state`: {_listed(BGP_STATES)}",
        f"- `state` of `gateway_routes`: {_listed(ROUTE_STATES)} (of the clear-text guard: in the kernel, and not)",
        f"- `rib`: {_listed(RIBS)} (protected prefixes that its side would carry in clear)",
        f"- `reason` of `gateway_esp_drops_total`, with `direction`: {_listed(f'{r} ({d})' for r, d in DROP_REASONS.items())}",
        f"- `reason` of `gateway_ike_rejected_total`: {_listed(v.value for v in Violation)}",
        f"- `reason` of `gateway_ha_rejected_total`: {_listed(HEARTBEAT_REJECTIONS)}",
        f"- `role` of `gateway_ha_role` and `gateway_ha_transitions_total`: {_listed(ROLES)}",
        f"- `state` of `gateway_ha_lease`: {_listed(LEASES)} (none: there is no witness; other: the other gateway has it)",
        f"- `place` of `gateway_ha_cloud_address`: {_listed(PLACES)}",
        f"- `state` of `gateway_fabric_routes`: {_listed(FABRIC_STATES)}",
        f"- `stage` of `gateway_worker_cycles_total`: {_listed(f'{stage} ({what})' for stage, what in STAGES.items())}",
        "- `le` of `gateway_worker_batch_size_bucket`: "
        f"{_listed(_BOUND_LABELS)}; `_sum` are packets, `_count` bursts, so their ratio is the mean size",
        f"- `call` of `gateway_worker_system_calls_total`: {_listed(CALLS)}",
        f"- `reason` of `gateway_worker_packet_socket_fallbacks_total`: {_listed(FALLBACKS)} (the device's queue, or anything else)",
        f"- `notify`: IANA names; a number without a name counts as {_OTHER}",
        "",
    ]
    return "\n".join(lines)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _metric(family: Family) -> Any:
    return _KINDS[family.kind](family.name, family.help, labels=family.labels)


def _latest(instants: Iterable[float | None]) -> float | None:
    return max((at for at in instants if at is not None), default=None)


# --- samples: one generator per family that is more than a line -------------------------------------------------


def _build(snapshot: Snapshot) -> Iterator[Sample]:
    yield (snapshot.version, platform.python_version(), snapshot.engine), 1


def _ike_state(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel in snapshot.tunnels:
        for state in IKE_STATES:
            yield (tunnel.name, state), tunnel.ike_state == state


def _post_quantum(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel in snapshot.tunnels:
        if tunnel.ike_state in ("ESTABLISHED", "REKEYING"):
            yield (tunnel.name, tunnel.post_quantum_policy), bool(tunnel.post_quantum)


def _ike_sas(snapshot: Snapshot) -> Iterator[Sample]:
    states = [tunnel.ike_state for tunnel in snapshot.tunnels]
    for state in IKE_STATES:
        yield (state,), states.count(state)


def _exchanges(snapshot: Snapshot) -> Iterator[Sample]:
    start = {
        f"{exchange} {role} {result}": 0
        for exchange in EXCHANGES
        for role in ("initiator", "responder")
        for result in ("ok", "failed")
    }
    for tunnel in snapshot.tunnels:
        for key, count in (start | tunnel.exchanges).items():
            exchange, role, result = key.split(" ", 2)
            yield (tunnel.name, exchange, role, result), count


def _notifies(snapshot: Snapshot) -> Iterator[Sample]:
    """A peer may send 65536 different numbers: those without a name share one series per direction."""
    for tunnel in snapshot.tunnels:
        counts = {(name, direction): 0 for name in (*ERROR_NOTIFIES, _OTHER) for direction in ("in", "out")}
        for key, count in tunnel.notifies.items():
            name, _, direction = key.rpartition(" ")
            series = (name if name in _NOTIFY_NAMES else _OTHER, direction)
            counts[series] = counts.get(series, 0) + count
        for (name, direction), count in counts.items():
            yield (tunnel.name, name, direction), count


def _ike_rekeys(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel in snapshot.tunnels:
        yield (tunnel.name, "ok"), tunnel.ike_rekeys_ok
        yield (tunnel.name, "failed"), tunnel.ike_rekeys_failed


def _children(snapshot: Snapshot) -> Iterator[tuple[str, str, list[ChildStatus]]]:
    """During a rekey one configured child has two CHILD_SAs: they share their series."""
    for tunnel in snapshot.tunnels:
        for name in dict.fromkeys(child.name for child in tunnel.children):
            yield tunnel.name, name, [child for child in tunnel.children if child.name == name]


def _child_up(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel, name, children in _children(snapshot):
        yield (tunnel, name), any(child.state in CARRYING for child in children)


def _child_installed(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel, name, children in _children(snapshot):
        yield (tunnel, name), wall(snapshot, _latest(child.installed_at for child in children))


def _child_rekeys(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel, name, children in _children(snapshot):
        yield (tunnel, name, "ok"), max(child.rekeys_ok for child in children)
        yield (tunnel, name, "failed"), max(child.rekeys_failed for child in children)


def _child_lifetime(snapshot: Snapshot) -> Iterator[Sample]:
    """Of the newest SA only, and absent while there is none: a ratio of 0 would read as an overdue rekey."""
    for tunnel, name, children in _children(snapshot):
        newest = max(children, key=lambda child: child.installed_at or 0.0)
        if newest.installed_at is None:
            continue
        if newest.rekey_at is not None and newest.rekey_at > newest.installed_at:
            ratio = (newest.rekey_at - snapshot.now) / (newest.rekey_at - newest.installed_at)
            yield (tunnel, name, "time"), max(0.0, ratio)
        yield (tunnel, name, "sequence"), max(0.0, 1.0 - newest.sequence_used_ratio)


def _last_packet(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel, name, children in _children(snapshot):
        yield (tunnel, name, "in"), wall(snapshot, _latest(child.last_in for child in children))
        yield (tunnel, name, "out"), wall(snapshot, _latest(child.last_out for child in children))


def _packets(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel in snapshot.tunnels:
        yield (tunnel.name, "in"), tunnel.packets_in
        yield (tunnel.name, "out"), tunnel.packets_out


def _octets(snapshot: Snapshot) -> Iterator[Sample]:
    for tunnel in snapshot.tunnels:
        yield (tunnel.name, "in"), tunnel.octets_in
        yield (tunnel.name, "out"), tunnel.octets_out


def _drops(snapshot: Snapshot) -> Iterator[Sample]:
    """Tunnel "" holds the packets that could not be told to belong to a connection."""
    for name, drops in (("", snapshot.drops), *((tunnel.name, tunnel.drops) for tunnel in snapshot.tunnels)):
        for reason in dict.fromkeys((*DROP_REASONS, *drops)):
            yield (name, reason, DROP_REASONS.get(reason, "any")), drops.get(reason, 0)


def _bgp_state(snapshot: Snapshot) -> Iterator[Sample]:
    for peer in snapshot.peers:
        for state in BGP_STATES:
            yield (peer.address, state), peer.state == state


def _bgp_messages(snapshot: Snapshot) -> Iterator[Sample]:
    for peer in snapshot.peers:
        yield (peer.address, "in"), peer.messages_received
        yield (peer.address, "out"), peer.messages_sent


def _bgp_prefixes(snapshot: Snapshot) -> Iterator[Sample]:
    for peer in snapshot.peers:
        for rib in RIBS:
            yield (peer.address, rib), peer.prefixes.get(rib, 0)


def _bgp_limits(snapshot: Snapshot) -> Iterator[Sample]:
    for peer in snapshot.peers:
        yield (peer.address, "in"), peer.limit_in
        yield (peer.address, "out"), peer.limit_out


def _bgp_levels(snapshot: Snapshot) -> Iterator[Sample]:
    for peer in snapshot.peers:
        yield (peer.address, "in"), peer.level_in
        yield (peer.address, "out"), peer.level_out


def _of_sessions(value: Callable[[LivenessStatus], float]) -> Callable[[Snapshot], list[Sample]]:
    return lambda snapshot: [((one.name, one.kind), value(one)) for one in snapshot.liveness]


def _liveness_packets(snapshot: Snapshot) -> Iterator[Sample]:
    for one in snapshot.liveness:
        yield (one.name, one.kind, "out"), one.counts.sent
        yield (one.name, one.kind, "in"), one.counts.received


def _liveness_refused(snapshot: Snapshot) -> Iterator[Sample]:
    totals = Counter({why.value: 0 for why in Refusal} | snapshot.probe_refused)
    for one in snapshot.liveness:
        totals.update(one.refused)
    for reason, count in totals.items():
        yield (reason,), count


def _ike_rejected(snapshot: Snapshot) -> Iterator[Sample]:
    for reason in dict.fromkeys((*(why.value for why in Violation), *snapshot.ike_rejected)):
        yield (reason,), snapshot.ike_rejected.get(reason, 0)


def _batch_sizes(snapshot: Snapshot) -> Iterator[Sample]:
    for worker in snapshot.workers:
        for direction, sizes, packets in (
            ("in", worker.bursts_in, worker.packets_in),
            ("out", worker.bursts_out, worker.packets_out),
        ):
            counts = (*sizes, *(0,) * (len(BURST_BOUNDS) - len(sizes)))
            upto = zip(_BOUND_LABELS, accumulate(counts), strict=True)
            yield (str(worker.worker), direction), Distribution((*upto, ("+Inf", sum(counts))), packets)


def _system_calls(snapshot: Snapshot) -> Iterator[Sample]:
    for worker in snapshot.workers:
        for call in CALLS:
            yield (str(worker.worker), call), worker.calls.get(call, 0)


def _fallbacks(snapshot: Snapshot) -> Iterator[Sample]:
    for worker in snapshot.workers:
        for reason in FALLBACKS:
            yield (str(worker.worker), reason), worker.fallbacks.get(reason, 0)


def _cycles(snapshot: Snapshot) -> Iterator[Sample]:
    for worker in snapshot.workers:
        for stage in STAGES:
            yield (str(worker.worker), stage), worker.cycles.get(stage, 0)


def _by_worker(value: Callable[[WorkerStatus], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda snapshot: [((str(worker.worker),), value(worker)) for worker in snapshot.workers]


FAMILIES: tuple[Family, ...] = (
    Family("gateway_build_info", "gauge", "always 1; what is running", ("version", "python", "crypto"), _build),
    Family("gateway_start_timestamp_seconds", "gauge", "UNIX time of the daemon's start", (), lambda s: [((), wall(s, s.started_at))]),
    Family("gateway_ready", "gauge", "1: configuration applied and sockets bound", (), lambda s: [((), s.ready)]),
    Family(
        "gateway_host_problems", "gauge", "faults found: of the host's settings, the guard, limits, the pair, route tables; named by gatewayctl status", (),
        lambda s: [((), len(s.problems))],
    ),
    Family(
        "gateway_tunnel_up", "gauge", "1: IKE_SA established and all configured CHILD_SAs installed", ("tunnel",),
        lambda s: [((t.name,), t.up) for t in s.tunnels],
    ),
    Family(
        "gateway_circuit_up", "gauge", "1: the private circuit carries the tunnel's prefixes in clear (protection = backup)",
        ("tunnel",), lambda s: [((t.name,), t.circuit == "up") for t in s.tunnels if t.circuit],
    ),
    Family("gateway_ike_sa_state", "gauge", "exactly one state of a tunnel is 1", ("tunnel", "state"), _ike_state),
    Family(
        "gateway_ike_sa_post_quantum", "gauge", "1 if the IKE_SA's keys rest on ML-KEM or a PPK, by configured policy",
        ("tunnel", "policy"), _post_quantum,
    ),
    Family("gateway_ike_sas", "gauge", "connections by the state of their IKE_SA", ("state",), _ike_sas),
    Family("gateway_ike_half_open_sas", "gauge", "IKE_SAs answered but not authenticated yet", (), lambda s: [((), s.ike_half_open)]),
    Family(
        "gateway_ike_sa_established_timestamp_seconds", "gauge", "UNIX time the IKE_SA was established", ("tunnel",),
        lambda s: [((t.name,), wall(s, t.established_at)) for t in s.tunnels],
    ),
    Family(
        "gateway_certificate_expiry_timestamp_seconds", "gauge", "UNIX time until which a configured certificate is valid",
        ("tunnel", "certificate"),
        lambda s: [((t.name, one.name), one.not_after) for t in s.tunnels for one in t.certificates],
    ),
    Family("gateway_ike_exchanges_total", "counter", "finished exchanges", ("tunnel", "exchange", "role", "result"), _exchanges),
    Family(
        "gateway_ike_attempts", "gauge", "attempts to establish since the tunnel was last up", ("tunnel",),
        lambda s: [((t.name,), t.attempts) for t in s.tunnels],
    ),
    Family(
        "gateway_ike_retransmissions_total", "counter", "requests sent again for want of an answer", ("tunnel",),
        lambda s: [((t.name,), t.retransmissions) for t in s.tunnels],
    ),
    Family("gateway_ike_notifies_total", "counter", "notify payloads of authenticated or initial exchanges", ("tunnel", "notify", "direction"), _notifies),
    Family("gateway_ike_sa_rekeys_total", "counter", "rekeys of the IKE_SA", ("tunnel", "result"), _ike_rekeys),
    Family("gateway_ike_rejected_total", "counter", "IKE messages refused", ("reason",), _ike_rejected),
    Family("gateway_child_sa_up", "gauge", "1: an SA of this child is installed", ("tunnel", "child"), _child_up),
    Family("gateway_child_sa_installed_timestamp_seconds", "gauge", "UNIX time the newest SA was installed", ("tunnel", "child"), _child_installed),
    Family("gateway_child_sa_rekeys_total", "counter", "rekeys of the CHILD_SA", ("tunnel", "child", "result"), _child_rekeys),
    Family(
        "gateway_child_sa_lifetime_remaining_ratio", "gauge", "what is left before the rekey, 1 to 0; absent while not installed",
        ("tunnel", "child", "limit"), _child_lifetime,
    ),
    Family("gateway_esp_packets_total", "counter", "packets carried, across rekeys", ("tunnel", "direction"), _packets),
    Family("gateway_esp_bytes_total", "counter", "octets of inner packets carried, across rekeys", ("tunnel", "direction"), _octets),
    Family("gateway_esp_drops_total", "counter", "packets dropped", ("tunnel", "reason", "direction"), _drops),
    Family("gateway_esp_last_packet_timestamp_seconds", "gauge", "UNIX time of the last packet", ("tunnel", "child", "direction"), _last_packet),
    Family(
        "gateway_bgp_speaker_up", "gauge", "1: ExaBGP is running", (),
        lambda s: [((), s.exabgp == "running")] if s.exabgp or s.peers else [],
    ),
    Family(
        "gateway_bgp_peer_up", "gauge", "1: Established", ("peer", "asn"),
        lambda s: [((p.address, str(p.asn)), p.state == "Established") for p in s.peers],
    ),
    Family("gateway_bgp_peer_state", "gauge", "exactly one state of a peer is 1 (RFC 4271 8.2.2)", ("peer", "state"), _bgp_state),
    Family(
        "gateway_bgp_peer_established_timestamp_seconds", "gauge", "UNIX time the session was established", ("peer",),
        lambda s: [((p.address,), wall(s, p.established_at)) for p in s.peers],
    ),
    Family(
        "gateway_bgp_peer_flaps_total", "counter", "times the session left Established", ("peer",),
        lambda s: [((p.address,), p.flaps) for p in s.peers],
    ),
    Family("gateway_bgp_messages_total", "counter", "BGP messages", ("peer", "direction"), _bgp_messages),
    Family("gateway_bgp_prefixes", "gauge", "prefixes by RIB", ("peer", "rib"), _bgp_prefixes),
    Family(
        "gateway_bgp_prefix_limit", "gauge", "prefixes a peer may teach us (in) or be told (out; 0: no limit)",
        ("peer", "direction"), _bgp_limits,
    ),
    Family(
        "gateway_bgp_prefix_limit_level", "gauge", "1: from 80 % of the limit on, 2: prefixes refused (in) or held back (out)",
        ("peer", "direction"), _bgp_levels,
    ),
    Family(
        "gateway_routes", "gauge", "routes of our kernel table", ("state",),
        lambda s: [((state,), s.kernel_routes.get(state, 0)) for state in ROUTE_STATES],
    ),
    Family("gateway_liveness_up", "gauge", "1: the BFD session or probe is up", ("session", "kind"), _of_sessions(lambda one: one.state == "UP")),
    Family(
        "gateway_liveness_failed", "gauge", "1: it was up and failed, so other ways are used", ("session", "kind"),
        _of_sessions(lambda one: one.verdict == "down"),
    ),
    Family("gateway_liveness_flaps_total", "counter", "times it went from up to down", ("session", "kind"), _of_sessions(lambda one: one.flaps)),
    Family(
        "gateway_liveness_detection_seconds", "gauge", "silence after which it is down; 0: nothing heard yet", ("session", "kind"),
        _of_sessions(lambda one: one.detection),
    ),
    Family(
        "gateway_liveness_black_hole", "gauge", "1: small packets pass the tunnel, those of its MTU vanish (link_mtu is too large)",
        ("session", "kind"), _of_sessions(lambda one: one.passage == "black-hole"),
    ),
    Family(
        "gateway_liveness_largest_octets", "gauge", "the largest inner packet that a probe had answered when it last looked; 0: not measured",
        ("session", "kind"), _of_sessions(lambda one: one.largest),
    ),
    Family("gateway_liveness_packets_total", "counter", "packets sent and received", ("session", "kind", "direction"), _liveness_packets),
    Family("gateway_liveness_refused_total", "counter", "BFD packets and echo answers that were not believed", ("reason",), _liveness_refused),
    *PAIR_FAMILIES,
    Family(
        "gateway_metrics_connections_cut_total", "counter", "connections to this listener ended: full, one too many; unread, an answer not read in 10 s",
        ("reason",), lambda s: [((reason,), s.http_cut.get(reason, 0)) for reason in ("full", "unread")],
    ),
    Family("gateway_worker_cpu_seconds_total", "counter", "CPU time of a data plane thread", ("worker",), _by_worker(lambda w: w.cpu_seconds)),
    Family("gateway_worker_ticks_total", "counter", "loop turns of a data plane thread", ("worker",), _by_worker(lambda w: w.ticks)),
    Family(
        "gateway_worker_empty_polls_total", "counter", "looks for work that found none, where dataplane.busy_poll_us is set",
        ("worker",), _by_worker(lambda w: w.empty_polls),
    ),
    Family("gateway_worker_batch_size", "histogram", "packets sealed or opened in one burst", ("worker", "direction"), _batch_sizes),
    Family("gateway_worker_system_calls_total", "counter", "reads and writes of packets", ("worker", "call"), _system_calls),
    Family(
        "gateway_worker_packet_socket_fallbacks_total", "counter",
        "packets that a packet socket (dataplane.packet_socket) did not take; the raw socket sent them", ("worker", "reason"), _fallbacks,
    ),
    Family(
        "gateway_worker_socket_queue_bytes", "gauge", "memory of the datagrams that wait in a worker's sockets", ("worker",),
        _by_worker(lambda w: w.queue_octets),
    ),
    Family(
        "gateway_worker_socket_drops_total", "counter", "datagrams the kernel dropped because too many waited in a worker's sockets",
        ("worker",), _by_worker(lambda w: w.queue_drops),
    ),
    Family(
        "gateway_worker_cycles_total", "counter", "time stamp counter cycles by stage; 0 unless dataplane.count_cycles",
        ("worker", "stage"), _cycles,
    ),
)  # fmt: skip

if __name__ == "__main__":
    sys.stdout.write(documentation())
