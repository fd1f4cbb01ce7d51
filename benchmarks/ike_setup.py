"""How many IKE_SAs a second a responder sets up, with its first CHILD_SA each: gatewayd and strongSwan before the same initiators.

    generator (benchmarks/ike_load.py)  10.9.1.1.. ---- veth ---- 10.9.0.1  gatewayd | charon-systemd

Both responders are configured with the same connections, one for each initiator, and do all that they do for a tunnel:
strongSwan with kernel-libipsec, for the kernel has no ESP. Generator and responder share the cores. Whether the generator
is what is measured shows in its CPU seconds, which are kept beside the responder's.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from support.daemon import GatewayDaemon
from support.netns import End, Lab, Namespace
from support.pki import Authority, Issued, pem_of
from support.process import Process, wait_until
from support.strongswan import Connection, Strongswan

from benchmarks.background import background_share
from benchmarks.errors import BenchError, Unavailable
from benchmarks.report import write as say
from benchmarks.result import Goal, Result
from benchmarks.rounds import Round, Settings, say_round
from benchmarks.side import cpu_seconds

INITIATORS = 32
PSK = "correct horse battery staple 42"
RESPONDER, TARGET = "gateway.example.net", "10.9.0.1"
GENERATOR_MOST = 0.9
"""Of a core: a generator that takes more may be what is measured."""
IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16"
OUR_NET = ("10.16.0.0", "10.31.255.255")
OUR_PREFIX, OUR_ADDRESS = "10.16.0.0/12", "10.16.0.1/32"
WARM_UP = 1.0


@dataclass(frozen=True, slots=True)
class Site:
    """One initiator, and what it proves itself with."""

    number: int
    issued: Issued | None

    @property
    def address(self) -> str:
        return f"10.9.{1 + self.number // 250}.{1 + self.number % 250}"

    @property
    def name(self) -> str:
        return f"site-{self.number}.example.net"

    @property
    def net(self) -> tuple[str, str]:
        third = f"172.{16 + (self.number >> 8)}.{self.number & 255}"
        return f"{third}.0", f"{third}.255"

    @property
    def prefix(self) -> str:
        return f"{self.net[0]}/24"


@dataclass(frozen=True, slots=True)
class Pki:
    """One CA, the responder's certificate, and one for each site."""

    root: Authority
    gateway: Issued

    @classmethod
    def made(cls) -> Pki:
        root = Authority("benchmark root", at=datetime.now(UTC))
        return cls(root, root.issue("gateway", at=datetime.now(UTC), dns=[RESPONDER]))

    def site(self, number: int) -> Issued:
        return self.root.issue(f"site-{number}", at=datetime.now(UTC), dns=[f"site-{number}.example.net"])


class Responder(Protocol):
    """What stands at TARGET."""

    kind: str

    def start(self) -> None: ...
    @property
    def process(self) -> Process: ...


class GatewaydResponder:
    """gatewayd as installed, its log as by default."""

    kind = "gatewayd"

    def __init__(self, machine: Namespace, sites: Sequence[Site], pki: Pki | None) -> None:
        head = '[gateway]\nname = "gateway"\nstate_directory = "/run/gatewayd-state"\n'
        text = head + "".join(our_connection(site, pki is not None) for site in sites)
        files = {"psk": PSK}
        if pki is not None:
            files |= {"gateway.pem": pki.gateway.pem, "gateway.key": pki.gateway.key_pem, "ca.pem": pki.root.pem}
        self._daemon = GatewayDaemon(machine, text, files)

    def start(self) -> None:
        self._daemon.start()
        wait_until(self._guarded, 15, "gatewayd takes IKE messages", logs=[self.process])

    def _guarded(self) -> bool:
        status = self._daemon.status()
        return status is not None and all(tunnel["interface"] for tunnel in status["tunnels"])

    @property
    def process(self) -> Process:
        assert self._daemon.process is not None
        return self._daemon.process


class StrongswanResponder:
    """charon-systemd with kernel-libipsec. Cookies are off: gatewayd asks for none of so few initiators."""

    kind = "strongSwan, kernel-libipsec"

    def __init__(self, machine: Namespace, sites: Sequence[Site], pki: Pki | None) -> None:
        if shutil.which("charon-systemd") is None:
            raise Unavailable("not available: charon-systemd is not installed")
        self._charon = Strongswan(
            machine, [_their_connection(site, pki) for site in sites], settings=["dos_protection = no"]
        )

    def start(self) -> None:
        self._charon.start()
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)

    @property
    def process(self) -> Process:
        assert self._charon.process is not None
        return self._charon.process


RESPONDERS: Mapping[str, Callable[[Namespace, Sequence[Site], Pki | None], Responder]] = {
    "ours": GatewaydResponder,
    "peer": StrongswanResponder,
}


@dataclass(frozen=True, slots=True)
class SetupCase:
    """Both responders stand at the same time, each before initiators of its own, and are measured in turns."""

    name: str
    about: str
    certified: bool
    goal: float
    least: float  # set-ups a second of ours

    def run(self, settings: Settings) -> list[Result]:
        pki = Pki.made() if self.certified else None
        sites = [Site(number, pki.site(number) if pki else None) for number in range(INITIATORS)]
        with Lab() as lab:
            scenes = {label: Scene(lab, label, sites, pki) for label in RESPONDERS}
            for scene in scenes.values():
                scene.responder.start()
                say(f"   {scene.label + ':':6} {scene.responder.kind}; {INITIATORS} initiators\n")
                scene.measure(WARM_UP)
            rounds = [self._round(number, scenes, settings) for number in range(settings.rounds)]
        pairs = [tuple(one[label]["setups_per_s"] for label in RESPONDERS) for one in rounds]
        costs = [tuple(one[label]["responder_ms"] for label in RESPONDERS) for one in rounds]
        details = [dict(one) for one in rounds]
        return [
            Result(self.name, "set-ups/s", Goal(">=", self.goal), tuple(pairs), details=details),
            Result(f"{self.name}-least", "set-ups/s", Goal(">=", self.least, "ours"), tuple(pairs)),
            Result(f"{self.name}-cpu", "ms of CPU", None, tuple(costs)),
        ]

    def void(self, status: str, reason: str) -> list[Result]:
        goal = Goal(">=", self.goal)
        return [Result(self.name, "set-ups/s", goal, status=status, reason=reason)]

    def _round(self, number: int, scenes: Mapping[str, Scene], settings: Settings) -> Round:
        background = background_share()
        order = random.sample(list(scenes), len(scenes))
        found = {label: scenes[label].measure(settings.seconds) for label in order}
        say_round(number, found, background)
        return found | {"machine": {"background": background}}


class Scene:
    """A responder and the initiators' machine."""

    def __init__(self, lab: Lab, label: str, sites: Sequence[Site], pki: Pki | None) -> None:
        self.label = label
        self.machine, self.initiators = lab.namespace(f"{label}-gw"), lab.namespace(f"{label}-in")
        addresses = tuple(f"{site.address}/16" for site in sites)
        lab.link(End(self.machine, "wan", (f"{TARGET}/16",)), End(self.initiators, "wan", addresses))
        # libipsec makes no route for a network of which it has no address
        self.machine.batch(f"address add {OUR_ADDRESS} dev lo")
        self.machine.forwarding()
        self.responder = RESPONDERS[label](self.machine, sites, pki)
        self._spec = self.initiators.directory / "initiators.json"
        self._spec.write_text(json.dumps([described(site, pki) for site in sites]))

    def measure(self, seconds: float) -> dict[str, float]:
        """Set-ups a second, and what each cost either process."""
        before = cpu_seconds(self.responder.process.pid)
        argv = [sys.executable, "-m", "benchmarks.ike_load", str(self._spec), str(seconds)]
        found = json.loads(self.initiators.run(*argv, timeout=seconds + 30))
        busy = cpu_seconds(self.responder.process.pid) - before
        if found["refused"] or not found["setups"]:
            raise BenchError(f"{self.label}: {found}\n{self.responder.process.tail()}")
        if found["cpu"] > GENERATOR_MOST * found["seconds"]:
            raise BenchError(f"{self.label}: the generator had {found['cpu'] / found['seconds']:.0%} of a core")
        setups = found["setups"]
        return {
            "setups_per_s": setups / found["seconds"],
            "responder_ms": busy / setups * 1000,
            "generator_ms": found["cpu"] / setups * 1000,
            "responder_busy": busy / found["seconds"],
            "generator_busy": found["cpu"] / found["seconds"],
            "sent_again": found["sent_again"],
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
        }


def our_connection(site: Site, certified: bool) -> str:
    proof = (
        'local_cert = "gateway.pem"\nlocal_key.file = "gateway.key"\nca = ["ca.pem"]'
        if certified
        else 'psk.file = "psk"'
    )
    return f"""
[connection.site-{site.number}]
local_addrs = "{TARGET}"
remote_addrs = "{site.address}"
local_id = "{RESPONDER}"
remote_id = "{site.name}"
{proof}
proposals = ["{IKE}"]
start_action = "none"
dpd_delay = 3600
local_ts = ["{OUR_PREFIX}"]
remote_ts = ["{site.prefix}"]
esp_proposals = ["{ESP}"]
"""


def _their_connection(site: Site, pki: Pki | None) -> Connection:
    certs, auth = {}, ("psk", "psk")
    if pki is not None:
        auth = ("pubkey", "pubkey")
        certs = {
            "x509/end.pem": pki.gateway.pem,
            "private/end.pem": pki.gateway.key_pem,
            "x509ca/root.pem": pki.root.pem,
        }
    return Connection(
        f"site-{site.number}", TARGET, site.address, PSK, RESPONDER, site.name, IKE, ESP, OUR_PREFIX, site.prefix,
        dpd_delay=3600, certs=certs, auth=auth,
    )  # fmt: skip


def described(site: Site, pki: Pki | None) -> dict[str, Any]:
    text: dict[str, Any] = {
        "address": site.address, "target": TARGET, "name": site.name, "responder": RESPONDER,
        "local_net": site.net, "remote_net": OUR_NET,
    }  # fmt: skip
    if pki is None or site.issued is None:
        return text | {"psk": PSK}
    return text | {
        "key": site.issued.key_pem, "certificate": pem_of(site.issued.certificate),
        "authority": pem_of(pki.root.certificate),
    }  # fmt: skip
