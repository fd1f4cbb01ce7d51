"""What can stand in the gateways: gatewayd as shipped, strongSwan's user-space ESP, wireguard-go, nothing."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from support.daemon import GatewayDaemon
from support.netns import Lab, Namespace
from support.process import LabError, Process, wait_until
from support.strongswan import Connection, Strongswan
from support.vici_text import parse_events

from benchmarks.errors import BenchError, Unavailable
from benchmarks.native_programs import null_cipher_binaries
from benchmarks.side import LEFT_LAN, LEFT_OUTER, PATH_MTU, RIGHT_LAN, RIGHT_OUTER, Counters, Side

PSK = "correct horse battery staple 42"
LEFT_ID, RIGHT_ID = "left.example.net", "right.example.net"
IKE = "aes256gcm16-prfsha384-ecp384"
GCM, CBC = "aes128gcm16", "aes256-sha256"
_QUIET = 3600  # seconds of silence before a liveness check: none during a benchmark


class Plain(Side):
    """The routed path without a tunnel."""

    kind = "plain path"

    def start(self) -> None:
        self.left.batch(f"route add {RIGHT_LAN} via {RIGHT_OUTER}")
        self.right.batch(f"route add {LEFT_LAN} via {LEFT_OUTER}")

    def counters(self) -> Counters:
        return Counters(self.wan_octets(self.left, "tx"), self.wan_octets(self.right, "rx"))


class Gatewayd(Side):
    """Two gatewayds with a real configuration: selectors of both LANs, replay window and counters as by default."""

    kind = "gatewayd"

    def __init__(
        self,
        lab: Lab,
        label: str,
        esp: str = GCM,
        *,
        gateway: str = "",
        connection: str = "",
        binaries: Path | None = None,
    ) -> None:
        super().__init__(lab, label)
        self._esp, self._gateway, self._connection, self._binaries = esp, gateway, connection, binaries
        ends = ((LEFT_OUTER, LEFT_ID, LEFT_LAN), (RIGHT_OUTER, RIGHT_ID, RIGHT_LAN))
        self.left_daemon = self._daemon(self.left, ends[0], ends[1], "start")
        self.right_daemon = self._daemon(self.right, ends[1], ends[0], "none")

    def start(self) -> None:
        previous = os.environ.get("GATEWAY_BIN")
        if self._binaries is not None:
            os.environ["GATEWAY_BIN"] = str(self._binaries)
        try:
            self.right_daemon.start()
            self.left_daemon.start()
        finally:
            if self._binaries is not None:
                os.environ.pop("GATEWAY_BIN")
                if previous is not None:
                    os.environ["GATEWAY_BIN"] = previous
        tunnels = [daemon.wait_up() for daemon in (self.left_daemon, self.right_daemon)]
        self.tunnel = (tunnels[0]["interface"], tunnels[1]["interface"])

    def daemons(self) -> tuple[Process, Process] | None:
        left, right = self.left_daemon.process, self.right_daemon.process
        return (left, right) if left and right else None

    @staticmethod
    def _engine(daemon: GatewayDaemon) -> str:
        status = daemon.status()
        return str(status["engine"]) if status else ""

    def counters(self) -> Counters:
        left, right = self.left_daemon.tunnel(), self.right_daemon.tunnel()
        if not left or not right or not left["up"] or not right["up"]:
            raise BenchError(f"{self.label}: a gatewayd does not answer, or its tunnel is down")
        return Counters(left["octets_out"], right["octets_in"], left["packets_out"])

    def packets_out(self) -> int:
        """What the left gateway sealed so far, also while the right one is stopped."""
        tunnel = self.left_daemon.tunnel()
        if not tunnel:
            raise BenchError(f"{self.label}: gatewayd does not answer")
        return int(tunnel["packets_out"])

    def _daemon(
        self, machine: Namespace, local: tuple[str, str, str], remote: tuple[str, str, str], action: str
    ) -> GatewayDaemon:
        text = f"""[gateway]
name = "{local[1].partition(".")[0]}"
state_directory = "/run/gatewayd-state"
log_level = "info"
{self._gateway}
[connection.site]
local_addrs = "{local[0]}"
remote_addrs = "{remote[0]}"
local_id = "{local[1]}"
remote_id = "{remote[1]}"
psk.file = "site.psk"
proposals = ["{IKE}"]
start_action = "{action}"
dpd_delay = {_QUIET}
local_ts = ["{local[2]}"]
remote_ts = ["{remote[2]}"]
esp_proposals = ["{self._esp}"]
{self._connection}
"""
        return GatewayDaemon(machine, text, {"site.psk": PSK})


class BusyGatewayd(Gatewayd):
    """The same in the opt-in mode that spins instead of sleeping."""

    kind = "gatewayd, busy-poll"
    spins = True

    def __init__(self, lab: Lab, label: str) -> None:
        super().__init__(lab, label, gateway="[dataplane]\nbusy_poll_us = 200")


class NullCipherGatewayd(Gatewayd):
    """A build of its own whose cipher does nothing; no option of the product leads there."""

    kind = "gatewayd, null cipher"

    def __init__(self, lab: Lab, label: str) -> None:
        super().__init__(lab, label, binaries=null_cipher_binaries())

    def start(self) -> None:
        super().start()
        engines = {self._engine(daemon) for daemon in (self.left_daemon, self.right_daemon)}
        if any("null cipher" not in engine for engine in engines):
            raise BenchError(f"{self.label}: the cipher is not the null cipher but {engines}")


class StrongswanPair(Side):
    """Two charon-systemd with kernel-libipsec: ESP in UDP, in user space."""

    kind = "strongSwan"
    tunnel = ("ipsec0", "ipsec0")

    def __init__(self, lab: Lab, label: str, esp: str = GCM) -> None:
        super().__init__(lab, label)
        there = Connection(
            "site", LEFT_OUTER, RIGHT_OUTER, PSK, LEFT_ID, RIGHT_ID, IKE, esp, LEFT_LAN, RIGHT_LAN, dpd_delay=_QUIET
        )
        back = Connection(
            "site", RIGHT_OUTER, LEFT_OUTER, PSK, RIGHT_ID, LEFT_ID, IKE, esp, RIGHT_LAN, LEFT_LAN, dpd_delay=_QUIET
        )
        self._charons = (
            Strongswan(self.left, [there], tunnel_routes=[RIGHT_LAN]),
            Strongswan(self.right, [back], tunnel_routes=[LEFT_LAN]),
        )

    def start(self) -> None:
        if shutil.which("charon-systemd") is None:
            raise Unavailable("not available: charon-systemd is not installed")
        for charon in self._charons:
            charon.start()
        self._charons[0].initiate()
        for charon in self._charons:
            charon.wait_established()

    def daemons(self) -> tuple[Process, Process] | None:
        left, right = (charon.process for charon in self._charons)
        return (left, right) if left and right else None

    def counters(self) -> Counters:
        left, right = (_child_of(charon) for charon in self._charons)
        return Counters(int(left["bytes-out"]), int(right["bytes-in"]), int(left["packets-out"]))


class Wireguard(Side):
    """Two wireguard-go as Debian packages it."""

    kind = "wireguard-go"
    tunnel = ("wg0", "wg0")

    def __init__(self, lab: Lab, label: str) -> None:
        missing = [name for name in ("wireguard-go", "wg") if shutil.which(name) is None]
        if missing:
            raise Unavailable(f"not available: {' and '.join(missing)} missing (apt: wireguard-go wireguard-tools)")
        super().__init__(lab, label)
        self._processes: list[Process] = []

    def start(self) -> None:
        machines = (self.left, self.right)
        keys = [machine.run("wg", "genkey").strip() for machine in machines]
        public = [
            machine.run("wg", "pubkey", stdin=f"{key}\n").strip() for machine, key in zip(machines, keys, strict=True)
        ]
        ends = ((RIGHT_OUTER, RIGHT_LAN), (LEFT_OUTER, LEFT_LAN))
        for machine, own, peer, (address, lan) in zip(machines, keys, reversed(public), ends, strict=True):
            process = machine.start("wireguard-go", ["wireguard-go", "--foreground", "wg0"])
            self._processes.append(process)
            wait_until(partial(machine.ip_json, "link", "show", "dev", "wg0"), 5, "wg0", logs=[process])
            text = f"[Interface]\nPrivateKey = {own}\nListenPort = 51820\n"
            text += f"[Peer]\nPublicKey = {peer}\nEndpoint = {address}:51820\nAllowedIPs = {lan}\n"
            settings = machine.directory / "wg.conf"
            settings.touch(mode=0o600)
            settings.write_text(text)
            machine.run("wg", "setconf", "wg0", str(settings))
            machine.batch(f"link set wg0 mtu {PATH_MTU} up", f"route add {lan} dev wg0")

    def daemons(self) -> tuple[Process, Process] | None:
        return (self._processes[0], self._processes[1]) if len(self._processes) == 2 else None

    def counters(self) -> Counters:
        sent = self.left.run("wg", "show", "wg0", "transfer").split()
        received = self.right.run("wg", "show", "wg0", "transfer").split()
        return Counters(int(sent[2]), int(received[1]))


def _child_of(charon: Strongswan) -> dict[str, Any]:
    """The one installed CHILD_SA, as charon lists it."""
    try:
        text = charon.swanctl("--list-sas", "--raw")
    except LabError as error:
        raise BenchError(str(error)) from None
    children: list[dict[str, Any]] = [
        child
        for event in parse_events(text, "list-sa")
        for sa in event.values()
        for child in sa.get("child-sas", {}).values()
        if child["state"] == "INSTALLED"
    ]
    if len(children) != 1:
        raise BenchError(f"strongSwan has {len(children)} CHILD_SAs")
    return children[0]
