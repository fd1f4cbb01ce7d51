"""gatewayd under test: started as a user would, from a configuration file, and driven by gatewayctl.

Status is polled over the control socket (the same JSON as `gatewayctl status -o json`, without starting Python each
time); commands and everything shown to people go through the real gatewayctl.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.netns import Namespace
from support.process import LabError, Process, wait_until
from support.strongswan import Connection

from gateway.runtime.tun import interface_name

EX_CONFIG = 78
EVERYTHING = {"0.0.0.0/0", "::/0"}


class GatewayDaemon:
    """One gatewayd in one namespace, with a directory of its own for configuration and secrets."""

    def __init__(
        self, machine: Namespace, configuration: str, secrets: Mapping[str, str], *, tunnel: str = "site"
    ) -> None:
        self.machine = machine
        self.tunnel_name = tunnel
        self.process: Process | None = None
        self.wrapper: tuple[str, ...] = ()
        """A command that runs the one appended to it, at every start."""
        self.directory = machine.directory / "etc"
        self.directory.mkdir(exist_ok=True)
        # as RuntimeDirectory= and StateDirectory= of the unit
        for name in ("gatewayd", "gatewayd-state"):
            (machine.run_directory / name).mkdir(mode=0o700, exist_ok=True)
        self.config = self.directory / "gateway.toml"
        self.config.write_text(configuration)
        for name, secret in secrets.items():
            target = self.directory / name
            target.touch(mode=0o600)
            target.write_text(secret + "\n")

    @property
    def socket(self) -> Path:
        """The control socket: /run/gatewayd/control.sock of the machine, as seen from outside it."""
        return self.machine.run_directory / "gatewayd" / "control.sock"

    def start(self, *, wait: bool = True, wrapper: Sequence[str] = ()) -> None:
        """`wrapper`: as that of the attribute, before it."""
        argv = [*wrapper, *self.wrapper, str(binary("gatewayd")), "--config", str(self.config)]
        self.process = self.machine.start("gatewayd", argv)
        if wait:
            wait_until(self._answers, 15, "gatewayd answers on its control socket", logs=[self.process])

    def stop(self, seconds: float = 10.0) -> int:
        """Graceful: SIGTERM, and the exit code."""
        assert self.process is not None
        return self.process.kill(signal.SIGTERM, seconds)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill(signal.SIGKILL)

    def status(self) -> dict[str, Any] | None:
        """The snapshot, or None while nobody answers."""
        connection = _UnixConnection(self.socket)
        try:
            connection.request("GET", "/v1/status")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def tunnel(self) -> dict[str, Any] | None:
        return _named(self.status(), "tunnels", self.tunnel_name)

    def neighbor(self, name: str) -> dict[str, Any] | None:
        return _named(self.status(), "peers", name)

    def up(self) -> bool:
        tunnel = self.tunnel()
        return bool(tunnel and tunnel["up"])

    def wait_up(self, seconds: float = 15.0, *, logs: Sequence[Process | None] = ()) -> dict[str, Any]:
        """Wait for the tunnel; returns its status."""
        wait_until(
            self.up, seconds, f"tunnel {self.tunnel_name} is up in gatewayd's status", logs=[self.process, *logs]
        )
        tunnel = self.tunnel()
        assert tunnel is not None
        if any(set(child["remote_ts"]) - EVERYTHING for child in tunnel["children"]):
            # The kernel has the route some milliseconds after the tunnel, on a busy machine many; none while a circuit carries it
            with suppress(LabError):
                wait_until(self._routed, 1.0, "the kernel sends into the tunnel")
        return tunnel

    def _routed(self) -> bool:
        device = f" dev {interface_name(self.tunnel_name)} "
        tables = [self.machine.run("ip", family, "route", "show", "table", "all") for family in ("-4", "-6")]
        lines = [line for text in tables for line in text.splitlines() if device in line]
        return any("proto kernel" not in line for line in lines)

    def wait_down(self, seconds: float = 15.0) -> None:
        wait_until(lambda: not self.up(), seconds, f"tunnel {self.tunnel_name} is down", logs=[self.process])

    def wait_bgp(self, name: str, seconds: float = 15.0) -> None:
        def established() -> bool:
            neighbor = self.neighbor(name)
            return bool(neighbor and neighbor["state"] == "Established")

        wait_until(established, seconds, f"BGP neighbor {name} Established", logs=[self.process])

    def wait_failure(self, seconds: float = 15.0) -> str:
        """Wait until the tunnel's status names a failure; returns its name."""

        def failure() -> str:
            tunnel = self.tunnel()
            return str(tunnel["last_failure"]) if tunnel else ""

        return wait_until(failure, seconds, "a failure is named", logs=[self.process])

    def rekey_child(self, child: str = "net") -> None:
        before = self._child()["spi_in"]
        self.ctl("rekey", f"{self.tunnel_name}/{child}", "--wait", "10")
        wait_until(lambda: self._child()["spi_in"] not in (0, before), 5, "a new CHILD_SA", logs=[self.process])

    def rekey_ike(self) -> None:
        before = self._spis()
        self.ctl("rekey", self.tunnel_name, "--wait", "10")
        wait_until(lambda: self._spis() not in ((0, 0), before), 5, "a new IKE_SA", logs=[self.process])

    def operate(self, verb: str, target: str, wait: float = 10.0) -> tuple[bool, str]:
        """What gatewayctl asks for, without starting Python each time."""
        connection = _UnixConnection(self.socket, wait + 5)
        try:
            connection.request("POST", "/v1/operations", json.dumps({"verb": verb, "target": target, "wait": wait}))
            answer = json.loads(connection.getresponse().read())
            return bool(answer["ok"]), str(answer["text"])
        finally:
            connection.close()

    def ctl(self, *arguments: str, check: bool = True, timeout: float = 40.0) -> subprocess.CompletedProcess[str]:
        """One gatewayctl command, from outside the namespace."""
        argv = [str(binary("gatewayctl")), "--socket", str(self.socket), *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode != 0:
            log = self.process.tail() if self.process else ""
            raise LabError(
                f"gatewayctl {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}{done.stderr}\n{log}"
            )
        return done

    def http(self, path: str = "/metrics", port: int = 9550) -> tuple[int, str]:
        """A GET on the loopback listener, made inside the namespace: status and body."""
        script = (
            "import sys, http.client as h; c = h.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=5);"
            "c.request('GET', sys.argv[2]); r = c.getresponse(); print(r.status); sys.stdout.write(r.read().decode())"
        )
        text = self.machine.run(sys.executable, "-S", "-E", "-c", script, str(port), path)
        status, _, body = text.partition("\n")
        return int(status), body

    def _answers(self) -> bool:
        assert self.process is not None
        if not self.process.running:
            raise LabError(f"gatewayd ended with {self.process.returncode}\n{self.process.tail()}")
        return self.status() is not None

    def _child(self) -> dict[str, Any]:
        tunnel = self.tunnel()
        children = tunnel["children"] if tunnel else []
        return children[0] if children else {"spi_in": 0}

    def _spis(self) -> tuple[int, int]:
        tunnel = self.tunnel()
        return (tunnel["initiator_spi"], tunnel["responder_spi"]) if tunnel else (0, 0)


def binary(name: str) -> Path:
    """gatewayd or gatewayctl as installed beside this Python; GATEWAY_BIN names another directory."""
    directory = os.environ.get("GATEWAY_BIN") or Path(sys.executable).parent
    found = shutil.which(name, path=str(directory)) or shutil.which(name)
    if found is None:
        raise LabError(f"{name} is not installed; build and install the package first")
    return Path(found)


def configuration(
    edge: Connection, *, start_action: str = "start", bgp: bool = False, connection: str = "", gateway: str = ""
) -> str:
    """A gateway.toml facing the scene's edge with the edge's own parameters; extra lines may be added per section."""
    inside = 'tunnel_address = ["169.254.21.1/30"]\nprotected = ["172.16.0.0/16"]' if bgp else ""
    psk = 'psk.file = "site.psk"' if "psk" in edge.auth else ""
    text = f"""[gateway]
name = "gateway"
state_directory = "/run/gatewayd-state"
log_level = "info"
{gateway}
[connection.site]
local_addrs = "{edge.remote}"
remote_addrs = "{edge.local}"
local_id = "{edge.remote_id}"
remote_id = "{edge.local_id}"
{psk}
proposals = ["{edge.proposals}"]
start_action = "{start_action}"
dpd_delay = 5
{inside}
local_ts = ["{edge.remote_ts}"]
remote_ts = ["{edge.local_ts}"]
esp_proposals = ["{edge.esp_proposals}"]
{connection}
"""
    return text + (_BGP if bgp else "")


_BGP = """
[bgp]
local_as = 65010

[bgp.neighbor.edge]
address = "169.254.21.2"
remote_as = 65001
connection = "site"

[bgp.neighbor.vnet]
address = "10.1.0.1"
local_address = "10.1.0.4"
remote_as = 65515
multihop = 2
"""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float = 3) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _named(status: dict[str, Any] | None, kind: str, name: str) -> dict[str, Any] | None:
    entries: list[dict[str, Any]] = status[kind] if status else []
    return next((entry for entry in entries if entry["name"] == name), None)
