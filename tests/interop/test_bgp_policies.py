"""Policies, limits and routes that stand for others, seen in the tables of a real BIRD.

The gateway learns from the edge (AS 65010, behind a connection) and tells the fabric (AS 65515), as in test_bird.py.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from support.bgp_daemon import bird_config, eventually, neighbor, run, running
from support.birds import Bird, Lab

from gateway.bgp.events import LimitCrossed, PeerUp, Reconfigure, Resynchronized
from gateway.bgp.settings import OverLimit, SpeakerSettings
from gateway.config.model import Config
from gateway.node.bgp_settings import speaker_settings

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.timeout(120),
]

EDGE = bird_config(0, 65010, ("172.16.0.0/16", "172.17.0.0/24", "192.168.7.0/24"), "bgp_community.add((65010, 7));", "")
FABRIC = bird_config(1, 65515, ("10.1.0.0/16",), "", "")
POLICIES = """
[connection.site]
local_addrs = "10.99.0.1"
remote_addrs = "10.99.0.2"
psk.inline = "not used here, but long enough"
tunnel_address = ["10.99.0.1/24"]

[bgp]
local_as = 65001
router_id = "10.99.0.1"
advertise = ["10.200.0.0/16"]

[bgp.prefix_list.site]
prefixes = ["deny 192.168.7.0/24", "0.0.0.0/0 le 32"]

[bgp.policy.to-fabric.rule.own]
learned_from = ["own"]
prepend = 2
med = 50

[bgp.policy.to-fabric.rule.site]
prefix_list = "site"
communities = ["65010:*"]
add_communities = ["65001:9", "65001:1:2"]
delete_communities = ["65010:7"]

[bgp.policy.from-edge]
default = "accept"
rule.short = { prefixes = ["172.17.0.0/16 ge 17"], action = "reject" }

[bgp.neighbor.edge]
address = "10.99.0.2"
remote_as = 65010
connection = "site"
hold_time = 9
import_policy = "from-edge"

[bgp.neighbor.fabric]
address = "10.99.1.2"
local_address = "10.99.1.1"
remote_as = 65515
hold_time = 9
export_policy = "to-fabric"
more_specific = ["10.200.0.0/16 /17"]
default_route = "172.16.0.0/16"
"""
PLAIN = SpeakerSettings(
    local_as=65001,
    router_id=IPv4Address("10.99.0.1"),
    neighbors=(neighbor("edge", 0, 4, 65010, connection="site"), neighbor("fabric", 1, 4, 65515)),
)


@pytest.fixture
def lab(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Lab(tmp_path / "birds", 2) as made:
        made.birds[0].start(EDGE)
        made.birds[1].start(FABRIC)
        yield made


def loaded(text: str) -> SpeakerSettings:
    settings = speaker_settings(Config.model_validate(tomllib.loads(text)), {}, {})
    assert settings is not None
    return settings


def attributes(bird: Bird, prefix: str) -> dict[str, str]:
    return dict(re.findall(r"BGP\.(\w+): (.*)", bird.route(prefix)))


def test_what_the_file_says_is_what_the_fabric_sees(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds

    async def main() -> None:
        async with running(tmp_path / "run", lab, loaded(POLICIES)) as daemon:
            await eventually("the site's route", lambda: fabric.has("172.16.0.0/16"))
            await eventually("the parts", lambda: fabric.has("10.200.0.0/17") and fabric.has("10.200.128.0/17"))
            await eventually("the edge is told of the VNet", lambda: edge.has("10.1.0.0/16"))
            own = attributes(fabric, "10.200.0.0/16")
            assert (own["as_path"], own["med"]) == ("65001 65001 65001", "50")
            site = attributes(fabric, "172.16.0.0/16")
            assert site["as_path"] == "65001 65010"
            assert (site["community"], site["large_community"]) == ("(65001,9)", "(65001, 1, 2)")
            assert "med" not in site
            # refused by name when announced, and when learned
            assert ip_network("192.168.7.0/24") in daemon.best
            assert not fabric.has("192.168.7.0/24")
            assert ip_network("172.17.0.0/24") not in daemon.best
            reasons = {route.prefix: route.reason for route in daemon.speaker.routes_status()}
            assert reasons["172.17.0.0/24"] == "rejected: policy from-edge, rule short"
            # the default route hangs on a route to the site, and is ours
            assert attributes(fabric, "0.0.0.0/0")["as_path"] == "65001 65001 65001"
            daemon.command(Reconfigure(loaded(POLICIES.replace('export_policy = "to-fabric"', ""))))
            await eventually("everything of the site", lambda: fabric.has("192.168.7.0/24"))
            await eventually("no prepending", lambda: attributes(fabric, "10.200.0.0/16")["as_path"] == "65001")
            edge.reconfigure(bird_config(0, 65010, ("192.168.7.0/24",), "", ""))
            await eventually("no default route", lambda: not fabric.has("0.0.0.0/0"))
            assert daemon.count(PeerUp) == 2, "none of it cost a session"

    run(main())


def test_an_aggregate_and_a_budget_hold_the_number_down(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds
    many = tuple(f"172.20.{number}.0/24" for number in range(60))
    edge.reconfigure(bird_config(0, 65010, many, "", ""))
    limited = replace(PLAIN, neighbors=(PLAIN.neighbors[0], replace(PLAIN.neighbors[1], budget=50)))
    aggregated = replace(
        limited, neighbors=(PLAIN.neighbors[0], replace(limited.neighbors[1], aggregate=(ip_network("172.20.0.0/16"),)))
    )

    def told() -> int:
        text = fabric.ask("show", "route", "protocol", "b4", "count")
        return int(re.findall(r"(\d+) of \d+ routes", text)[-1])

    async def main() -> None:
        async with running(tmp_path / "run", lab, limited) as daemon:
            await eventually("all learned", lambda: len(daemon.best) == 61)
            await eventually("the budget and no more", lambda: told() == 50)
            over = [effect for effect in daemon.effects if isinstance(effect, LimitCrossed)]
            assert [(one.name, one.direction, one.level.name) for one in over] == [
                ("fabric", "out", "NEAR"),
                ("fabric", "out", "OVER"),
            ]
            daemon.command(Reconfigure(aggregated))
            await eventually("one for all", lambda: told() == 1 and fabric.has("172.20.0.0/16"))
            assert attributes(fabric, "172.20.0.0/16")["as_path"] == "65001"

    run(main())


@pytest.mark.slow
def test_a_neighbor_that_announces_too_much_is_torn_down_and_tried_again(tmp_path: Path, lab: Lab) -> None:
    edge, _ = lab.birds
    journal = edge.directory / "bird.log"
    config = bird_config(0, 65010, ("172.16.0.0/16",), "", "").replace("stderr", f'"{journal}"')
    edge.reconfigure(EDGE.replace("stderr", f'"{journal}"'))
    strict = replace(PLAIN.neighbors[0], max_prefixes=2, over_limit=OverLimit.TEARDOWN, restart_after=4.0)
    settings = replace(PLAIN, neighbors=(strict, PLAIN.neighbors[1]))

    async def main() -> None:
        async with running(tmp_path / "run", lab, settings) as daemon:
            await eventually("torn down", lambda: daemon.speaker.peers_status()[0].suspended_until is not None)
            await eventually("the edge knows why", lambda: "Maximum number of prefixes" in journal.read_text())
            edge.reconfigure(config)
            await eventually("up again", lambda: daemon.state("edge") == "Established", 40)
            await eventually("learned", lambda: ip_network("172.16.0.0/16") in daemon.best)
            assert daemon.state("fabric") == "Established" and daemon.count(PeerUp) == 3

    run(main())


@pytest.mark.slow
def test_graceful_restart_is_agreed_and_the_end_of_rib_comes_last(tmp_path: Path, lab: Lab) -> None:
    edge, fabric = lab.birds
    both = tuple(replace(one, graceful_restart=120) for one in PLAIN.neighbors)

    async def main() -> None:
        for bird in lab.birds:
            bird.ask("disable", "b4")
        async with running(tmp_path / "run", lab, replace(PLAIN, neighbors=both)) as daemon:
            await eventually("a link before there is a session", lambda: daemon.count(Resynchronized) == 1)
            for bird in lab.birds:
                bird.ask("enable", "b4")
            await eventually("told", lambda: fabric.has("172.16.0.0/16") and edge.has("10.1.0.0/16"))
            await eventually("the markers", lambda: not any(peer.owes_end_of_rib for peer in daemon.speaker._peers.values()))  # fmt: skip
            text = fabric.ask("show", "protocols", "all", "b4")
            assert "Restart time: 120" in text and "AF supported: ipv4" in text
            assert daemon.speaker.counters["errors"] == 0

    run(main())
