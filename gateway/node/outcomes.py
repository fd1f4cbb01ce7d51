"""How what became of an IKE_SA or an exchange shows: in its connection's state, and as the event that people read; and other
events for people."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.ha import address_values as addresses
from gateway.ha import fabric_values as cloud
from gateway.ha.heartbeat import PeerDown, PeerUp
from gateway.ha.message import Role
from gateway.ha.roles import CommandRefused, RoleChanged
from gateway.ike import events as ike
from gateway.node import failures
from gateway.node.effects import Event
from gateway.node.tunnel import Failure, Tunnel
from gateway.routing.model import Prefix

SHOWN = 10


def ike_up(tunnel: Tunnel, event: ike.IkeUp, now: float) -> Event:
    spis = f"{event.initiator_spi:016x}_i {event.responder_spi:016x}_r"
    tunnel.established(tunnel.established_at if event.rekeyed and tunnel.established_at is not None else now)
    if not event.rekeyed:
        tunnel.held.clear()
    name = "ike-rekeyed" if event.rekeyed else "ike-established"
    return Event("info", name, tunnel.name, f"IKE_SA {'rekeyed' if event.rekeyed else 'established'}: {spis}")


def ike_down(tunnel: Tunnel, event: ike.IkeDown, another: bool, now: float) -> Event | None:
    """`another`: the connection has an IKE_SA all the same."""
    # Without a device the reason is known already
    if not event.reason or tunnel.device_fault:
        return None
    if another:
        text = f"a second IKE_SA with the same peer ended: {event.reason}"
        return Event("info", "ike-spare-down", tunnel.name, text)
    if event.reason in failures.OWN_INTENT:
        intent = failures.OWN_INTENT[event.reason]
        tunnel.closed(intent, tunnel.context({}), now)
        return Event("info", "ike-down", tunnel.name, f"IKE_SA is down: {intent.lower().replace('_', ' ')}")
    name, context = failures.named(event.reason, tunnel.context(event.context))
    if name == "DELETED_BY_PEER":
        tunnel.taken_down(tunnel.established_at, now)
    if event.initiated or tunnel.established_at is not None:
        tunnel.failed(name, context, now)
        if event.reason in failures.AT_ONCE:
            tunnel.back_off.reset()
    else:
        tunnel.note(name, context, now)
    habit = tunnel.endings.habit(now) if name == "DELETED_BY_PEER" else {}
    told = "TAKEN_DOWN_AGAIN" if habit else name
    return Event("warning", "ike-down", tunnel.name, f"IKE_SA is down: {name}", told, context | habit)


def exchange_failed(tunnel: Tunnel, child: str, reason: str, context: dict[str, str], now: float) -> Event:
    name, full = failures.named(reason, tunnel.context({"child": child, **context}))
    if reason in failures.OWN_INTENT:
        if not tunnel.usable:
            tunnel.note("CHILD_DELETED_BY_OPERATOR", full, now)
        return Event("info", "child-down", tunnel.name, f"CHILD_SA {child} is down: deleted by operator")
    back_off = tunnel.back_off_of(child)
    if reason in failures.AT_ONCE:
        back_off.reset()
    elif back_off.due(now):
        back_off.failed(now)
    if name in failures.REKEYS:
        tunnel.refused[child] = Failure(name, full, now)
    if not tunnel.usable:
        tunnel.note(name, full, now)
    return Event("warning", "exchange-failed", tunnel.name, f"{child or 'IKE_SA'}: {name}", name, full)


def pair(event: PeerUp | PeerDown | RoleChanged | CommandRefused) -> Event:
    """What the other gateway of the pair does, and what this one is from now on."""
    match event:
        case PeerUp(name, _):
            return Event("info", "ha-peer-up", "", f"heartbeat with {name} is up")
        case PeerDown(reason):
            return Event("warning", "ha-peer-down", "", f"heartbeat of the other gateway is down: {reason.value}")
        case CommandRefused(verb, reason):
            return Event("warning", "ha-refused", "", f"{verb.value} is not possible now: {reason}")
        case RoleChanged(before, after, epoch, reason, fenced):
            level = "info" if fenced and after is not Role.FAULT else "warning"
            unfenced = "" if fenced else "; the other one may still forward for a moment"
            under = f", epoch {epoch}" if after is Role.ACTIVE else ""
            text = f"{before.name} -> {after.name}{under}: {reason}{unfenced}"
            return Event(level, f"ha-{after.name.lower()}", "", text, each=True)


def epoch_announced(neighbor: str, epoch: int, ours: int, who: str) -> Event:
    """Somebody announces that it acts, under a higher epoch than this gateway."""
    text = f"{neighbor} teaches routes of epoch {epoch}, and ours is {ours}: {who}"
    return Event("warning", "ha-epoch-announced", "", text)


def sent_away(connection: str, to: str) -> Event:
    """Where the peer of a connection belongs, by which gateway of the pair is active."""
    text = "its peer is served here again: the other gateway does not act for it"
    if to:
        text = f"the other gateway is active: a peer that initiated and follows redirects is sent to {to}"
    return Event("info", "ha-redirect" if to else "ha-redirect-over", connection, text)


def fabric(event: cloud.Event) -> Event:
    """What happens to the cloud's route tables."""
    match event:
        case cloud.HigherEpoch(table, claim):
            text = f"{table}: {claim.node} acts under epoch {claim.epoch}; this gateway writes no routes"
            return Event("warning", "fabric-outdone", "", text)
        case cloud.Switched(table, epoch, routes, seconds):
            text = f"{table}: {routes} routes lead here, {seconds:.2f} s after it was asked for (epoch {epoch})"
            return Event("info", "fabric-switched", "", text)
        case cloud.Drifted(table, sentence):
            return Event("warning", "fabric-drift", "", f"{table}: {sentence}")
        case cloud.Troubled(table, sentence):
            level, text = ("warning", sentence) if sentence else ("info", "nothing is wrong any more")
            return Event(level, "fabric-trouble", "", f"{table}: {text}")


def address(event: addresses.Event) -> Event:
    """What happens to the shared addresses in the cloud."""
    match event:
        case addresses.Moved(interface, epoch, moved, seconds):
            text = f"{interface}: the cloud has {', '.join(moved)} here, {seconds:.2f} s after it was asked for (epoch {epoch})"
            return Event("info", "ha-addresses-moved", "", text)
        case addresses.Strayed(interface, sentence):
            return Event("warning", "ha-addresses-drift", "", f"{interface}: {sentence}, though this gateway is active")
        case addresses.Hindered(interface, sentence):
            level, text = ("warning", sentence) if sentence else ("info", "nothing is wrong any more")
            return Event(level, "ha-addresses-trouble", "", f"{interface}: {text}")


def forgotten(prefixes: Sequence[Prefix]) -> Event:
    """The operator ended the protection of what was learned."""
    named = ", ".join(map(str, prefixes[:SHOWN])) + (f" and {len(prefixes) - SHOWN} more" if prefixes[SHOWN:] else "")
    return Event("warning", "guard-forgotten", "", f"no longer protected, by the operator's word: {named}")
