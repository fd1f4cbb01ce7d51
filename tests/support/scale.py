"""Two gatewayds with many connections between them, and what that costs: time, memory, files, how long the loop is held up.

    hub  10.9.0.1..  veth  10.9.1.1..  far          connection n runs between two of the addresses of each side

The hub is the gateway under measurement: all its connections name the same networks on its own side. The far side
stands for as many sites, each with a network of its own, so the selectors are narrowed. Also usable by hand:
`python -m support.scale 1000` prints a table.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import wait_until

SIDE = 32  # addresses of each side: every pair of them may carry one connection
PSK = "one secret for all of them, 1234567"
PROBE = Path(__file__).with_name("loop_probe.py")
HUB_NETWORKS = "10.16.0.0/12"


@dataclass(slots=True)
class Measured:
    """One gateway's figures, in the order they were taken."""

    figures: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(f"{name:<44} {value:12.3f}" for name, value in self.figures.items())


class Fleet:
    """Both gateways, configured and not yet started."""

    def __init__(self, lab: Lab, connections: int, *, peers: bool = True) -> None:
        self.count = connections
        self.hub_machine, self.far_machine = lab.namespace("hub"), lab.namespace("far")
        hub, far = ([f"10.9.{side}.{n}/16" for n in range(1, SIDE + 1)] for side in (0, 1))
        lab.link(End(self.hub_machine, "wan", tuple(hub)), End(self.far_machine, "wan", tuple(far)))
        for machine in (self.hub_machine, self.far_machine):
            machine.forwarding()
        numbers = range(connections)
        hub_text = configuration("hub", [hub_connection(n) for n in numbers])
        far_text = configuration("far", [far_connection(n) for n in numbers])
        self.hub = GatewayDaemon(self.hub_machine, hub_text, {"psk": PSK})
        self.far = GatewayDaemon(self.far_machine, far_text, {"psk": PSK})
        self.with_peers = peers

    def start(self, daemon: GatewayDaemon, seconds: float = 60.0) -> float:
        """Started under the probe; seconds until its control socket answers."""
        begun = time.monotonic()
        wrapper = (sys.executable, str(PROBE), str(probe_file(daemon)))
        daemon.start(wait=False, wrapper=wrapper)
        wait_until(lambda: daemon.status() is not None, seconds, "gatewayd answers", logs=[daemon.process])
        return time.monotonic() - begun

    def ups(self) -> int:
        status = self.hub.status()
        return sum(tunnel["up"] for tunnel in status["tunnels"]) if status else -1


def configuration(name: str, connections: list[str]) -> str:
    head = f'[gateway]\nname = "{name}"\nstate_directory = "/run/gatewayd-state"\nlog_level = "warning"\n[dataplane]\nworkers = 2\n'
    return head + "".join(connections)


def hub_connection(n: int, start: str = "start", dpd: int = 10) -> str:
    site = f"172.{16 + (n >> 8)}.{n & 255}"
    return f"""
[connection.site-{n:04d}]
local_addrs = "10.9.0.{1 + n % SIDE}"
remote_addrs = "10.9.1.{1 + n // SIDE}"
psk.file = "psk"
start_action = "{start}"
dpd_delay = {dpd}
[connection.site-{n:04d}.child.low]
local_ts = ["{HUB_NETWORKS}"]
remote_ts = ["{site}.0/25"]
[connection.site-{n:04d}.child.high]
local_ts = ["{HUB_NETWORKS}"]
remote_ts = ["{site}.128/25"]
"""


def far_connection(n: int) -> str:
    site = f"172.{16 + (n >> 8)}.{n & 255}"
    here = f"10.{16 + (n >> 8)}.{n & 255}"
    return f"""
[connection.hub-{n:04d}]
local_addrs = "10.9.1.{1 + n // SIDE}"
remote_addrs = "10.9.0.{1 + n % SIDE}"
psk.file = "psk"
start_action = "none"
dpd_delay = 600
[connection.hub-{n:04d}.child.low]
local_ts = ["{site}.0/25"]
remote_ts = ["{here}.0/25"]
[connection.hub-{n:04d}.child.high]
local_ts = ["{site}.128/25"]
remote_ts = ["{here}.128/25"]
"""


def probe_file(daemon: GatewayDaemon) -> Path:
    return daemon.directory / "probe.json"


def held_up(daemon: GatewayDaemon) -> dict[str, float]:
    """What the probe saw since it was last asked: the longest the loop's thread was busy, and was late, in ms."""
    path = probe_file(daemon)
    path.unlink(missing_ok=True)
    assert daemon.process is not None
    daemon.process.signal(signal.SIGUSR2)
    wait_until(path.exists, 30, "the probe answers", logs=[daemon.process])
    found: dict[str, float] = json.loads(path.read_text())
    return found


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process."""

    rss: float  # MB
    files: int
    cpu: float  # seconds


def usage(daemon: GatewayDaemon) -> Usage:
    assert daemon.process is not None
    proc = Path(f"/proc/{daemon.process.pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    stat = (proc / "stat").read_text().rsplit(")", 1)[1].split()
    ticks = os.sysconf("SC_CLK_TCK")
    rss = int(status["VmRSS"].split()[0]) / 1024
    return Usage(rss, len(list((proc / "fd").iterdir())), (int(stat[11]) + int(stat[12])) / ticks)


def measure(fleet: Fleet, seconds: float = 5.0) -> Measured:
    """The whole life of the hub, step by step."""
    found = Measured()
    note = found.figures
    hub = fleet.hub
    if fleet.with_peers:
        note["far: start, s"] = fleet.start(fleet.far)
        wait_until(lambda: devices(fleet.far_machine) == fleet.count, 300, "the far side's TUNs")
    begun = time.monotonic()
    note["start until status answers, s"] = fleet.start(hub)
    wait_until(lambda: devices(fleet.hub_machine) == fleet.count, 300, "TUNs", interval=0.2, logs=[hub.process])
    note["start until every TUN exists, s"] = time.monotonic() - begun
    if fleet.with_peers:
        wait_until(lambda: fleet.ups() == fleet.count, 300, "all up", interval=0.5, logs=[hub.process])
        note["start until all are up, s"] = time.monotonic() - begun
    _loop(note, "start", hub)
    time.sleep(3.0)
    _idle(note, hub, seconds)
    _views(note, hub)
    _reload(note, hub, fleet)
    begun = time.monotonic()
    code = hub.stop(120.0)
    note["stop, s"] = time.monotonic() - begun
    note["exit code"] = code
    if fleet.with_peers:
        fleet.far.stop(120.0)
    note["TUNs left"] = devices(fleet.hub_machine)
    _last(note, "stop", hub)
    return found


def _idle(note: dict[str, float], hub: GatewayDaemon, seconds: float) -> None:
    before, begun = usage(hub), time.monotonic()
    time.sleep(seconds)
    after = usage(hub)
    note["idle: CPU, % of a core"] = 100 * (after.cpu - before.cpu) / (time.monotonic() - begun)
    note["RSS, MB"], note["files"] = after.rss, after.files
    _loop(note, "idle", hub)


def _views(note: dict[str, float], hub: GatewayDaemon) -> None:
    begun = time.monotonic()
    hub.status()
    note["status, ms"] = (time.monotonic() - begun) * 1000
    _loop(note, "status", hub)
    begun = time.monotonic()
    _, text = hub.http("/metrics")
    note["metrics, ms (new process included)"] = (time.monotonic() - begun) * 1000
    note["metrics, MB"] = len(text) / 1e6
    _loop(note, "metrics", hub)


def _reload(note: dict[str, float], hub: GatewayDaemon, fleet: Fleet) -> None:
    changed = hub_connection(fleet.count - 1, dpd=20)
    note["reload of one changed, s"] = reload(fleet, [hub_connection(n) for n in range(fleet.count - 1)] + [changed])
    _loop(note, "reload", hub)


def reload(fleet: Fleet, connections: list[str]) -> float:
    """The hub reloads; seconds."""
    fleet.hub.config.write_text(configuration("hub", connections))
    begun = time.monotonic()
    ok, told = fleet.hub.operate("reload", "", 60)
    assert ok, told
    return time.monotonic() - begun


def _loop(note: dict[str, float], what: str, daemon: GatewayDaemon) -> None:
    for name, value in held_up(daemon).items():
        note[f"{what}: loop {name}"] = value


def _last(note: dict[str, float], what: str, daemon: GatewayDaemon) -> None:
    for name, value in json.loads(probe_file(daemon).read_text()).items():
        note[f"{what}: loop {name}"] = value


def devices(machine: Namespace) -> int:
    """TUNs of ours that are up."""
    links = machine.ip_json("link", "show", "up", "type", "tun")
    return sum(link["ifname"].startswith("gw-") for link in links)


@contextmanager
def made(connections: int, peers: bool = True) -> Iterator[Fleet]:
    with Lab() as lab:
        yield Fleet(lab, connections, peers=peers)


if __name__ == "__main__":
    arguments: list[Any] = sys.argv[1:] or ["1000"]
    with made(int(arguments[0]), "alone" not in arguments) as fleet:
        print(measure(fleet))
