"""What the IKE core and the data plane say of one connection, as the data plane is to have it and people are to read it."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.ike import commands as ike
from gateway.ike import events
from gateway.ike.endpoint import IkeEndpoint
from gateway.node import effects, failures, outcomes
from gateway.node.inputs import DataPlaneEvent
from gateway.node.security_associations import natt
from gateway.node.tunnel import Tunnel


def follow(tunnel: Tunnel, event: object, established: bool, now: float) -> Iterator[object]:
    """An event of the IKE core; `established`: the connection has an IKE_SA."""
    match event:
        case events.IkeUp():
            yield outcomes.ike_up(tunnel, event, now)
        case events.IkeDown():
            if (told := outcomes.ike_down(tunnel, event, established, now)) is not None:
                yield told
        case events.ChildInstall():
            yield from tunnel.install(event, now)
        case events.ChildActivate(_, child, spi):
            yield from tunnel.activate(event)
            text = f"CHILD_SA {child} sends on {spi:08x}"
            yield effects.Event("info", "child-installed", tunnel.name, text)
        case events.ChildRemove():
            yield from tunnel.remove(event)
        case events.ChildMoved(_, spi, remote, local):
            yield effects.MoveSa(tunnel.settings.id, spi, natt(remote), local and natt(local))
        case events.ChildAdvance(_, spi, by):
            yield effects.Advance(tunnel.settings.id, spi, by)
        case events.ExchangeFailed(_, child, reason, context):
            yield outcomes.exchange_failed(tunnel, child, reason, context, now)
        case events.Notice(level, name, _, text, why):
            yield effects.Event(level, name, tunnel.name, text)
            if why is not None and not established:
                # Not authenticated: no more than a word for people
                tunnel.hint(failures.init_refused(why), tunnel.context({"detail": text}), now)


def heed(tunnel: Tunnel, endpoint: IkeEndpoint, event: DataPlaneEvent, now: float) -> Iterator[object]:
    """An event of the data plane."""
    match event.kind:
        case "acquire":
            tunnel.wanted = tunnel.wanted or tunnel.settings.start_action == "trap"
        case "expire-soft" | "expire-hard":
            endpoint.command(ike.SaExpired(tunnel.name, event.spi, event.kind == "expire-hard"), now)
        case "peer-moved":
            if event.remote is not None:
                endpoint.command(ike.PeerMoved(tunnel.name, event.spi, event.remote), now)
        case "integrity-burst":
            text = f"ESP with SPI {event.spi:08x} does not verify: keys differ or somebody forges"
            yield effects.Event("warning", "esp-integrity", tunnel.name, text)
        case _:
            return
