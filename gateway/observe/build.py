"""Draws the snapshot from the node. The only reader of the cores' state for people and machines.

What the shell alone knows (engine, workers, ExaBGP's process, wall clock, findings about the host) comes in `ShellFacts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from typing import Any

from cryptography.x509 import Certificate

from gateway import __version__
from gateway.esp.dataplane import Direction, SaCounters
from gateway.ike.child import ChildSa
from gateway.ike.proposal import is_lowest
from gateway.ike.registry import KeyExchangeId
from gateway.ike.sa import IkeSa
from gateway.ike.settings import ConnectionSettings
from gateway.ike.traffic_selector import describe
from gateway.node.gateway import Gateway
from gateway.node.security_associations import sequence_limit, suite_text
from gateway.node.tunnel import ENDS, Tunnel
from gateway.observe.addresses import cloud_addresses, hindrances
from gateway.observe.bgp_explain import explain_peer
from gateway.observe.explain import explain
from gateway.observe.fabric import fabric_status, troubles
from gateway.observe.ha import ha_status, problems, replica_status
from gateway.observe.snapshot import (
    CertificateStatus,
    ChildStatus,
    JournalEntry,
    LivenessStatus,
    PeerStatus,
    ProbeCounts,
    RouteStatus,
    Snapshot,
    TunnelStatus,
    WorkerStatus,
)

LATE_LEAST, LATE_SHARE = 100, 0.01
"""Packets that the replay window of one SA dropped, and their share of those it took, from which on it is worth a sentence."""


@dataclass(frozen=True, slots=True)
class ShellFacts:
    """What only the shell knows."""

    started_at: float
    taken_at: str
    engine: str = ""
    exabgp: str = ""
    interfaces: dict[str, str] | None = None
    drop_reasons: tuple[str, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    probes: Mapping[int, ProbeCounts] = field(default_factory=dict)  # by number of the watch
    probe_refused: Mapping[str, int] = field(default_factory=dict)
    heartbeats_sent: int = 0
    http_cut: Mapping[str, int] = field(default_factory=dict)
    journal: tuple[JournalEntry, ...] = ()
    problems: tuple[str, ...] = ()
    certificate_problems: tuple[str, ...] = ()


def build(
    node: Gateway,
    facts: ShellFacts,
    now: float,
    drawn: dict[str, TunnelStatus] | None = None,
    stale: bool = False,
    routes: Sequence[RouteStatus] = (),
) -> Snapshot:
    """One consistent picture, with those `routes` that somebody asked for. `drawn`: the connections as drawn the last time, to be kept for the next; of a thousand
    only those are drawn again to which something happened; none when they may be `stale`."""
    fib = node.tables.status()
    kept = {} if drawn is None else drawn
    fade(node)
    draw_some(node, facts, kept, 0 if stale else len(node.redraw))
    pair = node.pairing.ha
    ha = None
    if pair is not None:
        away = (*node.pairing.sent_away, *(one.name for one in node.replication.shared if one.elsewhere))
        replica = replica_status(node.replication, pair.pair.election.epoch, now)
        ha = ha_status(pair, now, facts.heartbeats_sent, away, replica)
    fabric = fabric_status(pair.fabric.view()) if pair is not None and pair.fabric is not None else None
    in_cloud = node.replication.cloud.view
    addresses = cloud_addresses(in_cloud) if in_cloud is not None else None
    return Snapshot(
        name=node.settings.name,
        version=__version__,
        now=now,
        started_at=facts.started_at,
        taken_at=facts.taken_at,
        engine=facts.engine,
        ready=node.guarded and not node.stopping,
        tunnels=tuple(kept[name] if name in kept else draw(node, facts, kept, name) for name in node.tunnels),
        peers=tuple(_peers(node)),
        routes=tuple(routes),
        kernel_routes={
            "desired": fib.desired,
            "installed": fib.installed,
            "failed": fib.failed,
            "guard": fib.guard,
            "guard_missing": fib.guard_missing,
        },
        exabgp=facts.exabgp,
        ha=ha,
        fabric=fabric,
        addresses=addresses,
        liveness=tuple(_liveness(node, facts)),
        probe_refused=dict(facts.probe_refused),
        http_cut=dict(facts.http_cut),
        workers=facts.workers,
        drops=_drops(node, 0, facts),
        ike_half_open=node.ike.half_open,
        ike_rejected=dict(node.ike.rejected),
        journal=facts.journal,
        problems=(
            *facts.problems,
            *fib.problems,
            *_limits(node),
            *(problems(ha) if ha is not None else ()),
            *(troubles(fabric) if fabric is not None else ()),
            *(hindrances(addresses) if addresses is not None else ()),
        ),
        certificate_problems=facts.certificate_problems,
    )


def draw_some(node: Gateway, facts: ShellFacts, drawn: dict[str, TunnelStatus], limit: int) -> None:
    """At most so many of the connections to which something happened, so that `build` has few left to draw."""
    fade(node)
    for _ in range(min(limit, len(node.redraw))):
        name = node.redraw.pop()
        drawn.pop(name, None)
        if name in node.tunnels:
            draw(node, facts, drawn, name)


def draw(node: Gateway, facts: ShellFacts, drawn: dict[str, TunnelStatus], name: str) -> TunnelStatus:
    """One connection as it is now."""
    tunnel = node.tunnels[name]
    status = drawn[name] = _tunnel(node, tunnel, facts)
    node.fading.pop(name, None)
    for text, until in _passing(node, tunnel) if status.explanation else ():
        if text == status.explanation:
            node.fading[name] = until
    return status


def fade(node: Gateway) -> None:
    """Time alone takes something away from the picture of some: they are to be drawn again."""
    for name in [name for name, until in node.fading.items() if until <= node.now]:
        del node.fading[name]
        node.redraw.add(name)


def _post_quantum(sa: IkeSa | None) -> str:
    if sa is None or sa.keys is None:
        return ""
    method = sa.keys.choice.post_quantum
    return KeyExchangeId(method).name if method else "PPK" if sa.ppk else ""


def _drops(node: Gateway, connection: int, facts: ShellFacts) -> dict[str, int]:
    return {reason: node.drops.get((connection, reason), 0) for reason in facts.drop_reasons}


def _tunnel(node: Gateway, tunnel: Tunnel, facts: ShellFacts) -> TunnelStatus:
    sa = node.ike.primary(tunnel.name)
    shown = sa or next(iter(node.ike.sas(tunnel.name)), None)
    counts = node.ike.counts(tunnel.name)
    children = tuple(_children(node, tunnel, sa))
    settings = tunnel.settings
    up = sa is not None and all(
        child.state in ("INSTALLED", "REKEYING") for child in children if child.name in settings.limits
    )
    return TunnelStatus(
        name=tunnel.name,
        up=up,
        ike_state=shown.state.value if shown is not None else "DOWN",
        role=("initiator" if shown.is_initiator else "responder") if shown is not None else "",
        local=str(shown.local if shown is not None else settings.ike.local),
        remote=str(shown.remote if shown is not None else settings.ike.remote),
        local_id=settings.ike.local_id.text,
        remote_id=settings.ike.remote_id.text,
        suite=str(sa.keys.choice) if sa is not None and sa.keys is not None else "",
        post_quantum=_post_quantum(sa),
        post_quantum_policy=settings.ike.post_quantum,
        nat=sa.nat.describe(settings.ike.encap) if sa is not None else "",
        initiator_spi=shown.initiator_spi if shown is not None else 0,
        responder_spi=shown.responder_spi if shown is not None else 0,
        established_at=tunnel.established_at,
        rekey_at=sa.rekey_at if sa is not None else None,
        last_heard_at=sa.last_heard if sa is not None else None,
        retry_at=tunnel.back_off.at if shown is None else None,
        attempts=tunnel.attempts,
        last_failure=tunnel.failure.reason if tunnel.failure is not None else "",
        explanation=_explanation(node, tunnel, up, shown, children),
        interface=(facts.interfaces or {}).get(tunnel.name, ""),
        instance=tunnel.settings.instance,
        circuit=node.liveness.circuits.state(tunnel.name),
        mtu=tunnel.mtu,
        protected=tuple(str(prefix) for prefix in settings.protected),
        children=children,
        packets_in=sum(child.packets_in for child in children),
        packets_out=sum(child.packets_out for child in children),
        octets_in=sum(child.octets_in for child in children),
        octets_out=sum(child.octets_out for child in children),
        drops=_drops(node, settings.id, facts),
        retransmissions=counts.retransmissions,
        exchanges=dict(counts.exchanges),
        notifies=dict(counts.notifies),
        ike_rekeys_ok=counts.ike_rekeys_ok,
        ike_rekeys_failed=counts.ike_rekeys_failed,
        certificates=tuple(certificates(settings.ike)),
    )


def certificates(settings: ConnectionSettings) -> Iterator[CertificateStatus]:
    """Those the configuration names for a connection."""
    if settings.credentials is not None:
        yield _certificate("local", settings.credentials.certificate)
        for place, one in enumerate(settings.credentials.intermediates, 1):
            yield _certificate(f"chain-{place}", one)
    for place, one in enumerate(settings.trust.authorities if settings.trust is not None else (), 1):
        yield _certificate(f"ca-{place}", one)


def _certificate(name: str, certificate: Certificate) -> CertificateStatus:
    subject = certificate.subject.rfc4514_string() or "(empty)"
    return CertificateStatus(name, subject, certificate.not_valid_after_utc.timestamp())


def _explanation(
    node: Gateway, tunnel: Tunnel, up: bool, shown: IkeSa | None, children: tuple[ChildStatus, ...]
) -> str:
    silence = _silence(tunnel, shown)
    if up:
        refused = next((explain(one.reason, one.context) for one in tunnel.refused.values()), "")
        wrong = silence or refused or _unverified(tunnel, children) or _black_hole(node, tunnel) or _habit(node, tunnel)
        return wrong or _late(tunnel, shown) or next(_lowest(tunnel, shown), "")
    known = tunnel.failure
    if tunnel.elsewhere:
        return explain("AT_THE_OTHER_GATEWAY", _ends(tunnel))
    if silence and (known is None or known.reason in ENDS):
        return silence
    if known is not None:
        habit = _habit(node, tunnel) if known.reason == "DELETED_BY_PEER" else ""
        return habit or _call(node, tunnel, known.reason) or explain(known.reason, known.context)
    waiting = {"none": "WAITING_FOR_PEER", "trap": "WAITING_FOR_TRAFFIC"}.get(tunnel.settings.start_action)
    if shown is None and waiting is not None:
        return _call(node, tunnel, waiting) or explain(waiting, _ends(tunnel))
    return ""


def _ends(tunnel: Tunnel) -> dict[str, str]:
    return {"tunnel": tunnel.name, "peer": str(tunnel.settings.remote)}


def _silence(tunnel: Tunnel, shown: IkeSa | None) -> str:
    """Our request is not answered; one lost datagram is no news."""
    pending = shown.window.pending if shown is not None else None
    if shown is None or shown.exchange is None or pending is None or pending.tries < (2 if shown.established else 1):
        return ""
    kind = "" if shown.established else shown.exchange.kind.name
    context = {"exchange": shown.exchange.kind.name, "sent": pending.tries + 1, "peer": shown.remote.host}
    return explain("NO_ANSWER_YET", {"tunnel": tunnel.name, "reason": kind or "ESTABLISHED", **context})


def _unverified(tunnel: Tunnel, children: tuple[ChildStatus, ...]) -> str:
    """ESP comes, and never a packet that verifies."""
    bad = next((child for child in children if child.integrity_failures and not child.packets_in), None)
    if bad is None:
        return ""
    return explain("ESP_UNVERIFIED", {**_ends(tunnel), "got": bad.integrity_failures, "ours": bad.suite})


def _late(tunnel: Tunnel, shown: IkeSa | None) -> str:
    """The replay window costs more than a few packets, of which the hosts behind the tunnel hear nothing."""
    for child in shown.children.values() if shown is not None else ():
        seen = tunnel.counters.get((Direction.INBOUND, child.spi_in), SaCounters())
        if seen.replay_drops >= LATE_LEAST and seen.replay_drops > LATE_SHARE * seen.packets:
            window = tunnel.settings.replay_windows.get(child.settings.group)
            known = {"got": seen.replay_drops, "expected": seen.packets, "ours": window}
            return explain("REPLAY_DROPS", {**_ends(tunnel), **known})
    return ""


def _lowest(tunnel: Tunnel, shown: IkeSa | None) -> Iterator[str]:
    """What the peer chose of our offers. Where it asks we choose, by our own order."""
    if shown is None or shown.keys is None or not shown.is_initiator:
        return
    agreed = [("IKE", shown.keys.choice, shown.offers)]
    agreed += [("ESP", child.choice, child.settings.offers) for child in shown.children.values() if child.usable]
    for protocol, choice, offers in agreed:
        if is_lowest(choice, offers):
            ours = "; ".join(str(offer.numbered(1, b"")) for offer in offers)
            yield explain("LOWEST_CHOSEN", {**_ends(tunnel), "protocol": protocol, "ours": ours, "theirs": choice})


def _black_hole(node: Gateway, tunnel: Tunnel) -> str:
    """Small packets pass, long ones vanish."""
    found = node.liveness.black_hole(tunnel.name)
    if found is None:
        return ""
    known = {"octets": found.full_size, "got": found.largest, "expected": tunnel.link_mtu_for(found.largest)}
    return explain("MTU_BLACK_HOLE", {**_ends(tunnel), **known, "ours": tunnel.settings.link_mtu})


def _passing(node: Gateway, tunnel: Tunnel) -> Iterator[tuple[str, float]]:
    """What may be said of it for a while only, and until when."""
    yield _habit(node, tunnel), tunnel.endings.until
    yield _caller(node, tunnel), node.ike.strangers.until(tunnel.settings.ike.local.host)


def _habit(node: Gateway, tunnel: Tunnel) -> str:
    habit = tunnel.endings.habit(node.now)
    return explain("TAKEN_DOWN_AGAIN", {**_ends(tunnel), **habit}) if habit else ""


def _call(node: Gateway, tunnel: Tunnel, reason: str) -> str:
    """The peer is not heard, and somebody whom we do not know is: it may be the peer, under another address."""
    unheard = reason in ("WAITING_FOR_PEER", "WAITING_FOR_TRAFFIC", "PEER_UNREACHABLE")
    return _caller(node, tunnel) if unheard else ""


def _caller(node: Gateway, tunnel: Tunnel) -> str:
    caller = node.ike.strangers.caller(tunnel.settings.ike.local.host, node.now)
    return explain("STRANGER_CALLS", {**_ends(tunnel), "got": caller}) if caller else ""


def _children(node: Gateway, tunnel: Tunnel, sa: IkeSa | None) -> Iterator[ChildStatus]:
    """Every configured child, up or not. Packets and octets over all its SAs, the rest of the current one."""
    counts = node.ike.counts(tunnel.name)
    for name in tunnel.settings.limits:
        child = sa.usable_child(name) if sa is not None else None
        inbound, outbound = tunnel.totals(name, Direction.INBOUND), tunnel.totals(name, Direction.OUTBOUND)
        current = _current(tunnel, child) if child is not None else {}
        yield ChildStatus(
            name=name,
            state=child.state.value if child is not None else "DOWN",
            packets_in=inbound.packets,
            packets_out=outbound.packets,
            octets_in=inbound.octets,
            octets_out=outbound.octets,
            last_in=tunnel.last_seen.get((name, Direction.INBOUND)),
            last_out=tunnel.last_seen.get((name, Direction.OUTBOUND)),
            rekeys_ok=counts.child_rekeys_ok[name],
            rekeys_failed=counts.child_rekeys_failed[name],
            resource_sas=_resource_sas(sa, name),
            **current,
        )


def _resource_sas(sa: IkeSa | None, name: str) -> int:
    children = sa.children.values() if sa is not None else ()
    return len({one.name for one in children if one.active and one.usable and one.settings.group == name} - {name})


def _current(tunnel: Tunnel, child: ChildSa) -> dict[str, Any]:
    inbound = tunnel.counters.get((Direction.INBOUND, child.spi_in), SaCounters())
    outbound = tunnel.counters.get((Direction.OUTBOUND, child.spi_out), SaCounters())
    return {
        "suite": suite_text(child.choice),
        "spi_in": child.spi_in,
        "spi_out": child.spi_out,
        "local_ts": tuple(describe(selector) for selector in child.local_ts),
        "remote_ts": tuple(describe(selector) for selector in child.remote_ts),
        "installed_at": child.installed_at,
        "rekey_at": child.rekey_at,
        "sequence_used_ratio": outbound.sequence / sequence_limit(child.choice),
        "replay_drops": inbound.replay_drops,
        "integrity_failures": inbound.integrity_failures,
    }


def _limits(node: Gateway) -> Iterator[str]:
    for peer in node.speaker.peers_status() if node.speaker is not None else ():
        held, refused = peer.prefixes.get("held_back", 0), peer.prefixes.get("discarded", 0)
        if held:
            yield f"BGP: {held} prefixes are held back from {peer.name}, which may be told {peer.limit_out}: announce less, or an aggregate"
        if peer.carried:
            count, which = peer.prefixes.get("carried", 0), ", ".join(peer.carried)
            yield (
                f"the fabric may carry {count} protected prefixes in clear past this gateway: {peer.name} teaches them "
                f"({which}{', ...' if count > len(peer.carried) else ''}), and we announce nothing longer to it; set outdo = true "
                f"in [bgp.neighbor.{peer.name}], or keep them from it"
            )
        if peer.suspended_until is not None:
            yield f"BGP: the session with {peer.name} is torn down for a while: more than {peer.limit_in} prefixes (max_prefixes)"
        elif refused:
            yield f"BGP: {refused} announcements of {peer.name} were refused: more than {peer.limit_in} prefixes (max_prefixes)"


def _peers(node: Gateway) -> Iterator[PeerStatus]:
    for peer in node.speaker.peers_status() if node.speaker is not None else ():
        known = {item.name: getattr(peer, item.name) for item in fields(PeerStatus) if hasattr(peer, item.name)}
        yield PeerStatus(**known, explanation=explain_peer(peer))


def draw_routes(node: Gateway, limit: int | None = None) -> Iterator[RouteStatus]:
    """The BGP routes, of at most so many prefixes; to be taken in pieces, for there may be ten thousand."""
    for route in node.speaker.routes_status(limit) if node.speaker is not None else ():
        values = {field.name: getattr(route, field.name) for field in fields(RouteStatus)}
        fib = node.tables.get(route.instance)
        values["installed"] = route.best and fib is not None and fib.state(ip_network(route.prefix)).installed
        yield RouteStatus(**values)


def _liveness(node: Gateway, facts: ShellFacts) -> Iterator[LivenessStatus]:
    for status in node.liveness.status():
        watch, session = status.watch, status.session
        known = {item.name: getattr(session, item.name) for item in fields(session)}
        yield LivenessStatus(
            name=watch.name,
            kind=watch.kind,
            neighbor=watch.neighbor,
            connection=watch.connection,
            local=str(watch.local),
            remote=str(watch.remote),
            counts=facts.probes.get(status.id, ProbeCounts()),
            **known,
        )
