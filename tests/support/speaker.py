"""A speaker with four neighbors, connected to the model of ExaBGP."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from support.exabgp_model import ExabgpModel, end_of_rib

from gateway.bgp.events import (
    ProcessUp,
)
from gateway.bgp.settings import NeighborSettings, SpeakerSettings
from gateway.bgp.speaker import Speaker

EDGE, EDGE2, FABRIC, EDGE6 = "10.9.0.2", "10.9.1.2", "10.9.2.2", "fd09::2"
SITE = ip_network("172.16.0.0/16")
OWN = ip_network("10.200.0.0/16")


def neighbor(name: str, address: str, local: str, remote_as: int, **more: Any) -> NeighborSettings:
    return NeighborSettings(name, ip_address(address), remote_as, ip_address(local), **more)


SETTINGS = SpeakerSettings(
    local_as=65001,
    router_id=IPv4Address("10.9.0.1"),
    advertise=(OWN,),
    stale_time=60.0,
    neighbors=(
        neighbor("edge", EDGE, "10.9.0.1", 65010, connection="site"),
        neighbor("edge2", EDGE2, "10.9.1.1", 65011, connection="site2"),
        neighbor("fabric", FABRIC, "10.9.2.1", 65515),
        neighbor("edge6", EDGE6, "fd09::1", 65010, connection="site"),
    ),
)


def connected(changed: SpeakerSettings = SETTINGS, *, up: bool = True) -> ExabgpModel:
    model = ExabgpModel(Speaker(changed), changed)
    model.now = 100.0
    model.command(ProcessUp(1))
    model.answer()
    if up:
        for address in model.peers:
            model.peer_up(address)
            model.say(end_of_rib(address, "ipv6" if ":" in address else "ipv4"))
        model.settle()
        model.advance(10)
        model.settle()
    model.effects.clear()
    model.sent.clear()
    return model


def of(model: ExabgpModel, kind: type[Any]) -> list[Any]:
    return [effect for effect in model.effects if isinstance(effect, kind)]


def best(model: ExabgpModel) -> dict[str, str]:
    """Whose path is the best one, by prefix."""
    return {str(prefix): one.path.neighbor for prefix, one in model.speaker.loc_rib.best.items()}


def stale(model: ExabgpModel) -> set[str]:
    return {f"{route.peer} {route.prefix}" for route in model.speaker.routes_status() if route.stale}
