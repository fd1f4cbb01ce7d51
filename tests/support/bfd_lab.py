"""gatewayd beside one other BFD speaker, on two links: single hop, authenticated single hop, and multihop over IPv6.

    gateway  10.99.0.1  fd99::1  ---- plain ----  10.99.0.2  fd99::2  peer: BIRD, or FRR's bfdd
             10.99.1.1           ---- keyed ----  10.99.1.2

No tunnel and no BGP session comes up here: BFD needs neither.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.process import Process, run, wait_until

KEY, KEY_ID = "twenty octets at most", 9
FRR = Path("/usr/lib/frr")

_CONFIGURATION = """
[gateway]
state_directory = "/run/gatewayd-state"
[connection.site]
local_addrs = "10.99.0.1"
remote_addrs = "10.99.0.9"
psk.file = "psk"
start_action = "none"
protected = ["172.16.0.0/16"]
[bgp]
local_as = 65001
listen_port = 0
[bgp.neighbor.plain]
address = "10.99.0.2"
remote_as = 65010
bfd = { interval = "100ms" }
[bgp.neighbor.far]
address = "fd99::2"
local_address = "fd99::1"
remote_as = 65010
multihop = 3
bfd = { interval = "50ms" }
"""
_KEYED = f"""
[bgp.neighbor.keyed]
address = "10.99.1.2"
local_address = "10.99.1.1"
remote_as = 65010
[bgp.neighbor.keyed.bfd]
interval = "300ms"
secret.file = "bfd.key"
key_id = {KEY_ID}
"""
_BIRD = f"""
log stderr all;
router id 10.99.0.2;
protocol device {{ }}
protocol bfd {{
  interface "plain" {{ interval 100 ms; multiplier 3; }};
  interface "keyed" {{ interval 300 ms; multiplier 3;
    authentication meticulous keyed sha1; password "{KEY[:20]}" {{ id {KEY_ID}; }}; }};
  multihop {{ interval 50 ms; multiplier 3; }};
  neighbor 10.99.0.1 dev "plain" local 10.99.0.2;
  neighbor 10.99.1.1 dev "keyed" local 10.99.1.2;
  neighbor fd99::1 local fd99::2 multihop on;
}}
"""
_FRR = """
bfd
 peer 10.99.0.1 local-address 10.99.0.2 interface plain
  receive-interval 100
  transmit-interval 100
 !
 peer fd99::1 multihop local-address fd99::2
  receive-interval 50
  transmit-interval 50
 !
"""


class BfdLab:
    """`sessions`: the names of the neighbors that are to come up."""

    def __init__(self, lab: Lab, *, keyed: bool = True) -> None:
        self.lab = lab
        self.gateway, self.peer = lab.namespace("gateway"), lab.namespace("peer")
        lab.link(
            End(self.gateway, "plain", ("10.99.0.1/24", "fd99::1/64")),
            End(self.peer, "plain", ("10.99.0.2/24", "fd99::2/64")),
        )
        lab.link(End(self.gateway, "keyed", ("10.99.1.1/24",)), End(self.peer, "keyed", ("10.99.1.2/24",)))
        secrets = {"psk": "correct horse battery staple 42", "bfd.key": KEY[:20]}
        self.daemon = GatewayDaemon(self.gateway, _CONFIGURATION + (_KEYED if keyed else ""), secrets)
        self.sessions = ("plain", "far", "keyed") if keyed else ("plain", "far")

    def watch(self, neighbor: str) -> dict[str, Any]:
        status = self.daemon.status()
        rows: list[dict[str, Any]] = status["liveness"] if status else []
        return next((row for row in rows if row["neighbor"] == neighbor), {})

    def wait(self, neighbor: str, verdict: str, seconds: float = 15.0) -> dict[str, Any]:
        wait_until(
            lambda: self.watch(neighbor).get("verdict") == verdict, seconds, f"BFD with {neighbor} is {verdict}",
            logs=[self.daemon.process],
        )  # fmt: skip
        return self.watch(neighbor)

    def all_up(self) -> None:
        for name in self.sessions:
            self.wait(name, "up")


class BirdBfd:
    """BIRD's BFD protocol by itself."""

    def __init__(self, machine: Namespace) -> None:
        self.machine = machine
        self._conf, self._socket = machine.directory / "bird.conf", machine.directory / "bird.ctl"
        self._conf.write_text(_BIRD)

    def start(self) -> Process:
        argv = ["bird", "-f", "-c", str(self._conf), "-s", str(self._socket), "-P", str(self.machine.directory / "pid")]
        process = self.machine.start("bird", argv)
        wait_until(self._socket.exists, 5, "BIRD's control socket", logs=[process])
        return process

    def states(self) -> dict[str, tuple[str, float, float]]:
        """By address: state, interval and detection time (seconds) as BIRD sees them."""
        rows = run(("birdc", "-r", "-s", str(self._socket), "show", "bfd", "sessions")).splitlines()
        fields = [row.split() for row in rows]
        return {row[0]: (row[2], float(row[4]), float(row[5])) for row in fields if len(row) == 6 and row[2] != "State"}


class FrrBfd:
    """FRR's bfdd, with zebra for its view of the links."""

    def __init__(self, machine: Namespace) -> None:
        self.machine = machine
        self._directory = machine.directory / "frr"
        self._directory.mkdir()
        (self._directory / "bfdd.conf").write_text(_FRR)
        (self._directory / "zebra.conf").write_text("")
        for path in (self._directory, *self._directory.iterdir()):
            shutil.chown(path, "frr", "frr")
        for parent in (machine.directory, machine.directory.parent):
            os.chmod(parent, 0o755)

    def start(self) -> Process:
        common = ["-z", str(self._directory / "zserv"), "--vty_socket", str(self._directory), "--log", "stdout"]
        self._run("zebra", common)
        wait_until((self._directory / "zebra.vty").exists, 5, "zebra's socket")
        process = self._run("bfdd", [*common, "--bfdctl", str(self._directory / "bfdd.sock")])
        wait_until((self._directory / "bfdd.vty").exists, 5, "bfdd's socket", logs=[process])
        return process

    def vtysh(self, *commands: str) -> str:
        asked = [word for command in commands for word in ("-c", command)]
        return self.machine.run("vtysh", "--vty_socket", str(self._directory), *asked)

    def _run(self, name: str, more: list[str]) -> Process:
        argv = [
            str(FRR / name),
            "-f",
            str(self._directory / f"{name}.conf"),
            "-i",
            str(self._directory / f"{name}.pid"),
        ]
        return self.machine.start(name, [*argv, *more])
