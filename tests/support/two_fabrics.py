"""gatewayd between two BIRDs, no tunnel: what BGP does while the daemon is away, as its peers noticed it.

    alpha (AS 65101)  10.99.0.2 -- 10.99.0.1  gateway (AS 65001)  10.99.1.1 -- 10.99.1.2  beta (AS 65102)

Both write every route and state of their sessions to a log, so that a route that was away for a moment shows.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from support.birds import Bird
from support.daemon import GatewayDaemon, binary
from support.netns import End, Lab
from support.process import Process, ended, wait_until

OWN = "10.200.0.0/16"

_GATEWAY = """
[gateway]
name = "gateway"
state_directory = "/run/gatewayd-state"
[bgp]
local_as = 65001
router_id = "10.99.0.1"
advertise = ["10.200.0.0/16"]
{bgp}
[bgp.neighbor.alpha]
address = "10.99.0.2"
local_address = "10.99.0.1"
remote_as = 65101
hold_time = 30
transit = true
max_prefixes = 20000
{neighbor}
[bgp.neighbor.beta]
address = "10.99.1.2"
local_address = "10.99.1.1"
remote_as = 65102
hold_time = 30
transit = true
max_prefixes = 20000
{neighbor}
"""
_BIRD = """
router id 10.99.{number}.2;
log "{log}" all;
protocol device {{ }}
protocol static {{ ipv4; {routes} }}
protocol bgp b4 {{ local 10.99.{number}.2 as {asn}; neighbor 10.99.{number}.1 as 65001; hold time 30; graceful restart on;
  debug {{ states, routes }}; connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 {{ import all; export filter {{ if source != RTS_STATIC then reject; {hops} accept; }}; }}; }}
"""


class Fabric:
    """A BIRD, and what it wrote since it was last asked."""

    def __init__(self, number: int, directory: Path, namespace: str) -> None:
        self._number = number
        self._log = directory / f"fabric{number}.log"
        self._read = 0
        self.third_party: dict[str, str] = {}  # next hops that are not its own address, by prefix
        self.bird = Bird(directory / f"fabric{number}", namespace)

    def announce(self, prefixes: Iterable[str]) -> None:
        config = self._config(prefixes)
        if self.bird.control.exists():
            self.bird.reconfigure(config)
        else:
            self.bird.start(config)

    def noticed(self) -> list[str]:
        """Routes that went, and sessions that did not stay up, since the last call."""
        text = self._log.read_text()
        news, self._read = text[self._read :], len(text)
        return [line for line in news.splitlines() if "> removed" in line or "State changed to" in line]

    def routes(self) -> set[str]:
        """What the gateway announces to it, with its attributes."""
        text = self.bird.ask("show", "route", "table", "master4", "protocol", "b4", "all")
        found, prefix = set(), ""
        for line in text.splitlines():
            if line[:1].isdigit():
                prefix = line.split()[0]
            if "as_path" in line:
                found.add(f"{prefix} {line.partition(':')[2].strip()}")
        return found

    def count(self) -> int:
        """How many routes the gateway announces to it."""
        text = self.bird.ask("show", "route", "table", "master4", "protocol", "b4", "count")
        return int(text.split(" of ")[0].split()[-1])

    def has(self, prefix: str) -> bool:
        return prefix in self.bird.ask("show", "route", prefix, "table", "master4", "protocol", "b4")

    def up_since(self) -> str:
        """Empty when the session is not up."""
        words = self.bird.ask("show", "protocols", "b4").splitlines()[-1].split()
        return words[4] if words[-1] == "Established" else ""

    def _config(self, prefixes: Iterable[str]) -> str:
        routes = " ".join(f"route {prefix} blackhole;" for prefix in prefixes)
        hops = " ".join(f"if net = {one} then bgp_next_hop = {hop};" for one, hop in self.third_party.items())
        return _BIRD.format(number=self._number, asn=65101 + self._number, log=self._log, routes=routes, hops=hops)


class TwoFabrics:
    """`bgp`, `neighbor`: lines for these sections of the configuration."""

    def __init__(self, lab: Lab, *, bgp: str = "", neighbor: str = "") -> None:
        machines = [lab.namespace(name) for name in ("gateway", "alpha", "beta")]
        self.gateway, *others = machines
        for number, machine in enumerate(others):
            lab.link(
                End(self.gateway, f"f{number}", (f"10.99.{number}.1/24",)),
                End(machine, "lan", (f"10.99.{number}.2/24",)),
            )
        self.gateway.forwarding()
        self.daemon = GatewayDaemon(self.gateway, configured(bgp, neighbor), {})
        self.alpha, self.beta = (
            Fabric(number, machine.directory, machine.full) for number, machine in enumerate(others)
        )

    def start(
        self, alpha: Sequence[str] = ("172.16.0.0/16",), beta: Sequence[str] = ("10.1.0.0/16",),
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.alpha.announce(alpha)
        self.beta.announce(beta)
        self.restart(environment)
        self.told(beta[-1], alpha[-1])

    def restart(self, environment: Mapping[str, str] | None = None) -> None:
        """Once more, with this added to its environment."""
        self.daemon.start(wrapper=["env", *(f"{key}={value}" for key, value in (environment or {}).items())])

    def told(self, at_alpha: str, at_beta: str, seconds: float = 30.0) -> None:
        """Wait until both have what the other announced, and our own."""
        logs = [self.daemon.process]
        for fabric, prefix in ((self.alpha, at_alpha), (self.beta, at_beta)):
            wait_until(lambda f=fabric, p=prefix: f.has(p) and f.has(OWN), seconds, f"{prefix} and {OWN}", logs=logs)

    def unnoticed(self) -> None:
        """Neither of them saw a route or a session go."""
        assert (self.alpha.noticed(), self.beta.noticed()) == ([], [])

    def learned(self, prefix: str) -> bool:
        return self.gateway.has_route(prefix, "221")

    def pid_of(self, word: str) -> int:
        (found,) = self.gateway.pids_of(word)
        return found

    def end(self, word: str) -> int:
        """kill -9; which one it was."""
        pid = self.pid_of(word)
        self.gateway.end(pid)
        wait_until(lambda: ended(pid), 5, f"the end of {word}")
        return pid

    def close(self) -> None:
        for fabric in (self.alpha, self.beta):
            fabric.bird.stop()


class Unit:
    """`gatewayd --bgp`, as gatewayd-bgp.service runs it."""

    def __init__(self, scene: TwoFabrics) -> None:
        argv = [str(binary("gatewayd")), "--bgp", "--config", str(scene.daemon.config)]
        self.process: Process = scene.gateway.start("gatewayd-bgp", argv)

    def stop(self) -> int:
        return self.process.kill(signal.SIGTERM, 20)


def configured(bgp: str = "", neighbor: str = "") -> str:
    return _GATEWAY.format(bgp=bgp, neighbor=neighbor)


def manager(directory: Path, answer: str) -> dict[str, str]:
    """The environment of a service that systemd runs, with a `systemctl` that gives this answer."""
    directory.mkdir(exist_ok=True)
    program = directory / "systemctl"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}", "GATEWAYD_UNIT": "gatewayd.service"}
