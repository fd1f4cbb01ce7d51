"""Two gateways of different ASes on one route server (BIRD), both with `outdo`: two halves from each, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.birds import Bird
from support.daemon import GatewayDaemon
from support.netns import End, Lab
from support.process import holds_for, wait_until

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(120)]

WHOLE = "172.16.1.0/24"
HALVES = {"172.16.1.0/25", "172.16.1.128/25"}
_GATEWAY = """
[gateway]
name = "gateway{number}"
state_directory = "/run/gatewayd-state"
[connection.site]
local_addrs = "10.99.{number}.1"
remote_addrs = "203.0.113.2"
psk.file = "site.psk"
local_ts = ["10.1.0.0/16"]
remote_ts = ["172.16.0.0/12"]
start_action = "none"
[bgp]
local_as = {asn}
router_id = "10.99.{number}.1"
[bgp.neighbor.server]
address = "10.99.{number}.2"
remote_as = 65515
outdo = true
"""
_SERVER = """
router id 10.99.0.2;
log stderr all;
protocol device {{ }}
protocol static er {{ ipv4; {routes} }}
template bgp each_one {{ local as 65515; connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 {{ import all; export filter {{ {export} accept; }}; }}; }}
protocol bgp one from each_one {{ neighbor 10.99.0.1 as 65001; }}
protocol bgp two from each_one {{ neighbor 10.99.1.1 as 65002; }}
"""


class Pair:
    def __init__(self, lab: Lab) -> None:
        server = lab.namespace("server")
        self.daemons = []
        for number in range(2):
            machine = lab.namespace(f"gateway{number}")
            lab.link(
                End(machine, "lan", (f"10.99.{number}.1/24",)), End(server, f"g{number}", (f"10.99.{number}.2/24",))
            )
            machine.batch(f"route add default via 10.99.{number}.2")
            machine.forwarding()
            text = _GATEWAY.format(number=number, asn=65001 + number)
            self.daemons.append(GatewayDaemon(machine, text, {"site.psk": "correct horse battery staple 42"}))
        server.forwarding()
        self.bird = Bird(server.directory / "bird", server.full)

    def serve(self, *prefixes: str, export: str = "") -> None:
        routes = " ".join(f"route {prefix} blackhole;" for prefix in prefixes)
        config = _SERVER.format(routes=routes, export=export)
        if self.bird.control.exists():
            self.bird.reconfigure(config)
        else:
            self.bird.start(config)

    def told(self) -> list[set[str]]:
        """By each gateway."""
        found = []
        for name in ("one", "two"):
            lines = self.bird.ask("show", "route", "protocol", name).splitlines()
            networks = ""
            prefixes = set()
            for line in lines:
                networks = line.split()[0] if line[:1].isdigit() and "/" in line.split()[0] else networks
                if f"[{name} " in line:
                    prefixes.add(networks)
            found.append(prefixes)
        return found

    def alarms(self) -> list[bool]:
        return ["in clear past this gateway" in daemon.ctl("status").stdout for daemon in self.daemons]


@pytest.fixture
def pair(lab: Lab) -> Iterator[Pair]:
    made = Pair(lab)
    yield made
    made.bird.stop()


@pytest.mark.parametrize("export", ["", "bgp_large_community.empty;"], ids=["marks-kept", "marks-removed"])
def test_neither_halves_what_the_other_halved(pair: Pair, export: str) -> None:
    pair.serve(WHOLE, export=export)
    for daemon in pair.daemons:
        daemon.start()
    logs = [daemon.process for daemon in pair.daemons]
    wait_until(lambda: pair.told() == [HALVES, HALVES], 30, "both halves of both", logs=logs)
    holds_for(lambda: pair.told() == [HALVES, HALVES], 4.0, "nothing more")
    # the server passes on one of two equal ones: who hears the other's without their mark names them
    assert any(pair.alarms()) is bool(export)
    pair.serve(export=export)
    wait_until(lambda: pair.told() == [set(), set()], 20, "all taken back", logs=logs)
    holds_for(lambda: pair.told() == [set(), set()], 3.0, "nothing more")
    wait_until(lambda: pair.alarms() == [False, False], 5, "all is well")
