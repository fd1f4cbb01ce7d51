"""What the tests of the daemon's operation share: the full scene with BGP, changes of its file, measured traffic."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.bird import Bird
from support.daemon import GatewayDaemon, binary, configuration
from support.process import wait_until
from support.scene import EDGE_CONNECTION, PSK, SITE_HOST, SITE_PREFIXES, VNET_HOST, VNET_PREFIXES, Scene
from support.strongswan import Strongswan
from support.traffic import Loss, Streams, ping


@dataclass(slots=True)
class Site:
    """gatewayd between a strongSwan edge and a VNet router, with BGP to both."""

    scene: Scene
    daemon: GatewayDaemon
    charon: Strongswan
    birds: tuple[Bird, Bird]
    text: str
    """The configuration as started."""

    def start(self) -> None:
        self.charon.start()
        for bird in self.birds:
            bird.start()
        self.daemon.start()
        self.wait_up()
        wait_until(
            lambda: ping(self.scene.site, VNET_HOST, 1).lost == 0, 15, "the way there", logs=[self.daemon.process]
        )
        for prefix in (*SITE_PREFIXES, *VNET_PREFIXES):
            wait_until(lambda wanted=prefix: self.scene.gateway.has_route(wanted, "221"), 10, prefix)  # type: ignore[misc]

    def wait_up(self, seconds: float = 30.0) -> None:
        self.daemon.wait_up(seconds)
        for neighbor in ("edge", "vnet"):
            self.daemon.wait_bgp(neighbor, seconds)

    def reload(self, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """`gatewayctl reload` with this file, by default the first one."""
        self.daemon.config.write_text(self.text if text is None else text)
        return self.daemon.ctl("reload", check=False)

    def changed(self, old: str, new: str) -> str:
        """The first file with one thing changed."""
        assert old in self.text
        return self.text.replace(old, new)

    def under_traffic(self, act: Callable[[], object], rate: float = 1000, port: int = 7300) -> tuple[Loss, Loss]:
        """Datagrams both ways before, during and after `act`; a hundred of each must arrive afterwards."""
        streams = Streams(self.scene.site, SITE_HOST, self.scene.host, VNET_HOST, port, peer=self.scene.edge)
        streams.start(rate)
        streams.wait_flowing(15)
        act()
        for one in (streams.there, streams.back):
            counted = len(one.records())
            wait_until(lambda one=one, so_far=counted: len(one.records()) > so_far + 100, 15, "traffic goes on")  # type: ignore[misc]
        return streams.stop()

    def explanation(self, seconds: float = 10.0, *, beside: str = "") -> tuple[str, str]:
        """The failure's name and the sentence of `gatewayctl explain`, as soon as there is one other than `beside`."""

        def told() -> str:
            tunnel = self.daemon.tunnel()
            reason = str(tunnel["last_failure"]) if tunnel else ""
            return reason if reason != beside else ""

        reason = wait_until(told, seconds, "an explanation", logs=[self.daemon.process])
        return reason, self.daemon.ctl("explain", self.daemon.tunnel_name, check=False).stdout

    def log(self) -> list[dict[str, Any]]:
        """The daemon's log records."""
        assert self.daemon.process is not None
        lines = self.daemon.process.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def kernel(self) -> str:
        """Everything of ours in the kernel, as text."""
        return self.scene.gateway.run(
            "sh",
            "-c",
            "ip -br link | cut -d' ' -f1; ip rule; ip -6 rule; ip route show table 221; ip -6 route show table 221; ip nexthop",
        )

    def memory(self) -> tuple[int, int]:
        """Resident kilobytes and open files of the daemon."""
        assert self.daemon.process is not None
        pid = self.daemon.process.pid
        status = self.scene.gateway.run("cat", f"/proc/{pid}/status")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]), len(self.scene.gateway.run("ls", f"/proc/{pid}/fd").split())


def make_site(scene: Scene, **settings: str) -> Site:
    """Configured, nothing started."""
    charon = scene.edge_charon()
    text = configuration(EDGE_CONNECTION, bgp=True, **settings)
    daemon = GatewayDaemon(scene.gateway, text, {"site.psk": PSK})
    return Site(scene, daemon, charon, (scene.edge_bird(), scene.vnet_bird()), text)


def run_to_end(daemon: GatewayDaemon, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """gatewayd to its end, in its namespace; `before` is shell to run first."""
    command = [str(binary("gatewayd")), *arguments]
    argv = daemon.machine.argv(["sh", "-c", f'{before}\nexec "$@"', "sh", *command])
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
