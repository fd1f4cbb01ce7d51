"""Two gatewayds facing each other over the scene's WAN, one on the site's edge router: what strongSwan's user-space ESP
lacks (ESN, protocol 50) can only be tried against ourselves, with the wire in view.
"""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass

from support.capture import Capture, Classified, kind_of
from support.daemon import GatewayDaemon, configuration
from support.dataplane_pair import inside
from support.netns import Namespace
from support.pair import EDGE, FLOW_SECONDS, SITE, VNET
from support.scene import EDGE_ID, EDGE_OUTER, GATEWAY_ID, GATEWAY_OUTER, PSK, SITE_HOST, VNET_HOST, Scene
from support.traffic import Streams

_ETH_P_ALL, _SO_RCVBUFFORCE = 3, 33
_UDP = 17


class Tap:
    """One device of the WAN: what crosses it is kept, and can be put on the wire again."""

    def __init__(self, machine: Namespace, device: str) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # of no link until it is bound to one
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 25)
            made.bind((device, _ETH_P_ALL))
            return made

        self._socket = inside(machine, make)

    def outgoing(self, kind: str | None = None) -> list[bytes]:
        """Frames that left by this device since the last call, of one class of capture.py or all."""
        found = []
        while select.select([self._socket], [], [], 0)[0]:
            frame, address = self._socket.recvfrom(1 << 17)
            if address[2] == socket.PACKET_OUTGOING and kind in (None, kind_of(frame)):
                found.append(frame)
        return found

    def again(self, frame: bytes) -> None:
        """RFC 3948 2.1: without a UDP checksum, which a capture on a veth holds half done only."""
        if frame[23] == _UDP:
            frame = frame[:40] + b"\0\0" + frame[42:]
        self._socket.send(frame)

    def close(self) -> None:
        self._socket.close()


@dataclass(slots=True)
class Twins:
    """Both daemons, started or about to be."""

    scene: Scene
    gateway: GatewayDaemon
    edge: GatewayDaemon
    capture: Capture

    def establish(self) -> None:
        """The gateway initiates; both must say that the tunnel stands."""
        self.capture.start()
        self.edge.start()
        self.gateway.start()
        self.gateway.wait_up(20, logs=[self.edge.process])
        self.edge.wait_up(20, logs=[self.gateway.process])

    def streams(self, rate: float = 1000, port: int = 7001) -> Streams:
        """Datagrams both ways, flowing."""
        streams = Streams(self.scene.site, SITE_HOST, self.scene.host, VNET_HOST, port)
        streams.start(rate)
        streams.wait_flowing(FLOW_SECONDS)
        return streams

    def wire(self) -> Classified:
        """End the capture; nothing in clear may be in it."""
        seen = self.capture.stop()
        assert (seen.clear, seen.markers, seen.samples) == (0, 0, []), f"{seen.clear} in clear: {seen.samples}"
        return seen


def make_twins(scene: Scene, esp_proposals: str, *, encap: bool, sections: str = "") -> Twins:
    """`sections`: more of both configurations."""
    lines = f"encap = {str(encap).lower()}\n"
    ours = EDGE.with_(esp_proposals=esp_proposals)
    theirs = ours.with_(
        local=GATEWAY_OUTER, remote=EDGE_OUTER, local_id=GATEWAY_ID, remote_id=EDGE_ID, local_ts=VNET, remote_ts=SITE
    )
    gateway = GatewayDaemon(scene.gateway, configuration(ours, connection=lines, gateway=sections), {"site.psk": PSK})
    answering = configuration(theirs, start_action="none", connection=lines, gateway=sections)
    edge = GatewayDaemon(scene.edge, answering, {"site.psk": PSK})
    return Twins(scene, gateway, edge, Capture(scene.wan, "gateway"))
