"""`protection = "backup"`: in clear over the private circuit while that works, by the tunnel when it fails, else nowhere."""

from __future__ import annotations

import time

import pytest
from support.capture import Capture
from support.daemon import GatewayDaemon, configuration
from support.process import holds_for, wait_until
from support.scene import EDGE_CONNECTION, PSK, SITE_HOST, VNET_HOST, Scene
from support.traffic import Stream

pytestmark = pytest.mark.system

CIRCUIT = """
protection = "backup"
[connection.site.circuit]
address = "172.16.1.1"
interval = "100ms"
hold = "1s"
"""
CUT = "add table ip cut\nadd chain ip cut f { type filter hook forward priority 0; }\nadd rule ip cut f ip daddr 172.16.0.0/16 drop\n"
WATCH = (
    "add table ip watch\n"
    "add chain ip watch sent { type filter hook output priority 0; }\n"
    'add rule ip watch sent oifname "gw-site" icmp type echo-request counter\n'
)


class Played:
    """Traffic from the VNet to the site, and what of it crosses the WAN in clear."""

    def __init__(self, scene: Scene, circuit: str = CIRCUIT, bgp: str = "") -> None:
        self.scene = scene
        charon = scene.edge_charon()
        charon.start()
        self.charon = charon
        self.bird = scene.edge_bird()
        self.bird.start()
        text = configuration(EDGE_CONNECTION, bgp=True, connection=circuit).replace("[bgp]\n", f"[bgp]\n{bgp}")
        self.daemon = GatewayDaemon(scene.gateway, text, {"site.psk": PSK})
        self.daemon.start()
        self.daemon.wait_up(20)
        self.daemon.wait_bgp("edge", 30)
        self.stream = Stream(scene.host, VNET_HOST, scene.site, SITE_HOST)
        self.stream.start(rate=200)

    def circuit(self) -> str:
        tunnel = self.daemon.tunnel()
        return tunnel["circuit"] if tunnel else ""

    def in_clear(self, name: str, seconds: float = 1.0) -> int:
        """Datagrams of the traffic that crossed the WAN unencrypted meanwhile."""
        capture = Capture(self.scene.wan, "gateway", name)
        capture.start()
        time.sleep(seconds)
        return capture.stop().markers

    def cut(self) -> None:
        self.scene.wan.run("nft", "-f", "-", stdin=CUT)

    def mend(self) -> None:
        self.scene.wan.run("nft", "delete", "table", "ip", "cut")


@pytest.mark.slow
def test_the_tunnel_takes_over_when_the_circuit_fails_and_hands_back(scene: Scene) -> None:
    played = Played(scene)
    wait_until(lambda: played.circuit() == "up", 10, "the circuit answers", logs=[played.daemon.process])
    played.stream.wait_flowing(5, time.monotonic())
    assert played.in_clear("circuit") > 100
    assert "IN CLEAR  site: " in played.daemon.ctl("status").stdout
    cut = time.monotonic()
    played.cut()
    wait_until(lambda: played.circuit() == "down", 5, "the circuit is given up", logs=[played.daemon.process])
    gap = played.stream.wait_flowing(5, time.monotonic()) - cut
    assert gap < 2.0, "0.3 s to find out, and a busy machine"
    assert played.in_clear("tunnel") == 0
    assert "BACKUP  site: " in played.daemon.ctl("status").stdout
    # neither the one nor the other: nowhere, rather than by the host's routes
    assert played.charon.process is not None
    played.charon.process.kill()
    played.daemon.ctl("terminate", "site", check=False)
    assert played.in_clear("nothing") == 0
    played.mend()
    mended = time.monotonic()
    wait_until(lambda: played.circuit() == "up", 10, "the circuit is used again", logs=[played.daemon.process])
    assert time.monotonic() - mended >= 1.0, "held for a while"
    assert played.in_clear("again") > 100
    # what goes by the circuit goes on without us; what is protected always, would not
    assert played.daemon.stop() == 0
    assert played.in_clear("stopped") > 100


def test_a_circuit_that_the_host_has_no_way_to_is_not_taken_for_one_because_the_tunnel_answers(scene: Scene) -> None:
    scene.gateway.batch("route replace 203.0.113.0/24 via 198.51.100.1", "route del default")
    scene.gateway.run("nft", "-f", "-", stdin=WATCH)
    # an address of ours that the tunnel carries, as the answers to it
    circuit = CIRCUIT.replace("hold", 'local_address = "10.1.0.4"\nhold')
    played = Played(scene, circuit, 'advertise = ["10.1.0.0/16"]\n')
    played.stream.wait_flowing(10, time.monotonic())
    holds_for(lambda: played.circuit() == "down", 2.0, "nothing says that the circuit works")
    assert "packets 0 bytes 0" in scene.gateway.run("nft", "list", "table", "ip", "watch")
    # of the host's own it goes there, if asked to
    scene.gateway.run("ping", "-c", "1", "-W", "2", "-I", "10.1.0.4", "172.16.1.1")
    assert "packets 1 " in scene.gateway.run("nft", "list", "table", "ip", "watch")


@pytest.mark.slow
def test_protection_that_is_switched_to_always_closes_the_circuit(scene: Scene) -> None:
    played = Played(scene)
    wait_until(lambda: played.circuit() == "up", 10, "the circuit answers", logs=[played.daemon.process])
    text = played.daemon.config.read_text()
    played.daemon.config.write_text(text.replace(CIRCUIT, "\n"))
    assert played.daemon.ctl("reload").returncode == 0
    played.stream.wait_flowing(5, time.monotonic())
    assert (played.in_clear("always"), played.circuit()) == (0, "")
    played.daemon.config.write_text(text)
    assert played.daemon.ctl("reload").returncode == 0
    wait_until(lambda: played.circuit() == "up", 10, "the circuit is used again", logs=[played.daemon.process])
    assert played.in_clear("backup") > 100
