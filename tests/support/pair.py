"""gatewayd and strongSwan facing each other over the scene's WAN, without BGP: static selectors, hosts on both sides.

The subject of the interoperability tests. Everything a test varies is a parameter of the edge's connection; gatewayd is
configured as its mirror image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from support.capture import Capture
from support.daemon import GatewayDaemon, configuration
from support.scene import EDGE_CONNECTION, PSK, SITE_HOST, VNET_HOST, Scene
from support.strongswan import Connection, Strongswan
from support.traffic import Loss, Streams

SITE, VNET = "172.16.0.0/16", "10.1.0.0/16"
EDGE = EDGE_CONNECTION.with_(local_ts=SITE, remote_ts=VNET)
ENDS = ("gateway", "edge")
FLOW_SECONDS = 15.0


@dataclass(slots=True)
class Pair:
    """Both daemons, started or about to be."""

    scene: Scene
    gateway: GatewayDaemon
    charon: Strongswan
    capture: Capture

    def start(self) -> None:
        """Capture, edge, gateway, in this order."""
        self.capture.start()
        self.charon.start()
        self.gateway.start()

    def establish(self, initiator: str) -> None:
        """Start everything and wait until both sides say that the tunnel stands."""
        self.start()
        if initiator == "edge":
            self.charon.initiate()
        self.wait_up()

    def wait_up(self, seconds: float = 20.0) -> None:
        assert self.charon.process is not None
        self.gateway.wait_up(seconds, logs=[self.charon.process])
        self.charon.wait_established(seconds)

    def rekeyers(self, end: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """How one end rekeys: its CHILD_SA, its IKE_SA."""
        subject = self.gateway if end == "gateway" else self.charon
        return subject.rekey_child, subject.rekey_ike

    def rekeyed_by_both_without_loss(self) -> None:
        """Each end rekeys CHILD_SA and IKE_SA while datagrams pass."""
        streams = self.streams()
        for end in ENDS:
            child, ike_sa = self.rekeyers(end)
            child()
            ike_sa()
        nothing_lost(streams.stop())

    def streams(self, rate: float = 1000, port: int = 7001) -> Streams:
        """Datagrams both ways, flowing."""
        streams = Streams(self.scene.site, SITE_HOST, self.scene.host, VNET_HOST, port, peer=self.scene.edge)
        streams.start(rate)
        streams.wait_flowing(FLOW_SECONDS)
        return streams

    def no_clear_text(self) -> None:
        """End the capture; nothing but IKE, ESP and neighbor discovery may be in it."""
        seen = self.capture.stop()
        assert (seen.clear, seen.markers, seen.samples) == (0, 0, [])
        assert seen.counts["esp-50"] == 0


def make_pair(
    scene: Scene,
    edge: Connection = EDGE,
    *,
    initiator: str = "gateway",
    gateway_sees: str = "",
    connection: str = "",
    settings: Sequence[str] = (),
    secrets: Mapping[str, str] | None = None,
    release: str = "12",
) -> Pair:
    """Configure both ends; `gateway_sees` is the edge's address as the gateway knows it, when a NAT is between.

    `release`: the Debian whose strongSwan the edge is ("12": 5.9.8, "13": 6.0.1).
    """
    charon = Strongswan(scene.edge, [edge], tunnel_routes=[VNET], settings=settings, release=release)
    mirrored = edge.with_(local=gateway_sees) if gateway_sees else edge
    text = configuration(mirrored, start_action="start" if initiator == "gateway" else "none", connection=connection)
    daemon = GatewayDaemon(scene.gateway, text, {"site.psk": PSK} | (secrets or {}))
    return Pair(scene, daemon, charon, Capture(scene.wan, "gateway"))


def nothing_lost(losses: tuple[Loss, Loss], at_least: int = 100) -> None:
    """Both directions carried something and lost nothing."""
    there, back = losses
    if there.void:
        warnings.warn(f"nothing is known about loss: {there.void}", stacklevel=2)
        return
    assert min(there.sent, back.sent) > at_least
    assert (there.lost, back.lost) == (0, 0), f"missing {there.missing} {back.missing}"
