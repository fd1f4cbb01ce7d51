"""What gatewayctl shows of routes while strongSwan and two BIRDs are on the other ends: told, in force, on the way, on trial."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

import pytest
from support.operated import Site, make_site
from support.process import wait_until
from support.scene import (
    ROUTER_LAN,
    SESSION_GATEWAY,
    SITE_HOST,
    SITE_PREFIXES,
    VNET_HOST,
    VNET_PREFIXES,
    Scene,
)

pytestmark = pytest.mark.system

POLICY = """
[bgp.policy.narrow.rule.third]
prefixes = ["172.16.3.0/24"]
action = "reject"

[bgp.policy.narrow.rule.rest]
local_preference = 200
"""


@pytest.fixture
def site(scene: Scene) -> Site:
    made = make_site(scene)
    made.daemon.config.write_text(made.text + POLICY)
    made.start()
    return made


def shown(site: Site, *words: str) -> Any:
    return json.loads(site.daemon.ctl(*words, "-o", "json").stdout)


@pytest.mark.slow
def test_what_is_told_in_force_on_the_way_and_on_trial_agrees_with_the_birds_and_the_kernel(site: Site) -> None:
    told(site)
    in_force(site)
    on_the_way(site)
    on_trial(site)


def told(site: Site) -> None:
    edge, vnet = site.birds

    def sent(neighbor: str) -> set[str]:
        rows = shown(site, "bgp", "advertised", "--peer", neighbor)["advertised"]
        return {row["prefix"] for row in rows if row["state"] == "sent"}

    wait_until(lambda: sent(ROUTER_LAN) == {*SITE_PREFIXES}, 10, "the site's prefixes are told to the VNet")
    wait_until(lambda: set(vnet.learned(SESSION_GATEWAY)) >= sent("vnet"), 10, "what BIRD has of it")
    assert sent("edge") == {*VNET_PREFIXES} == set(edge.learned(SESSION_GATEWAY))
    rows = list(csv.DictReader(io.StringIO(site.daemon.ctl("bgp", "advertised", "-o", "csv").stdout)))
    assert {row["AsPath"] for row in rows if row["Neighbor"] == "vnet"} == {"65010-65001"}
    learned = site.daemon.ctl("bgp", "learned", "--no-header").stdout.splitlines()
    assert sorted(line.split()[0] for line in learned) == sorted((*SITE_PREFIXES, *VNET_PREFIXES))


def in_force(site: Site) -> None:
    """Exactly what the kernel has in our table."""
    rows = shown(site, "routes")["table"]
    assert {row["state"] for row in rows} == {"installed"}
    listed = site.scene.gateway.run("ip", "-4", "route", "show", "table", "221").splitlines()
    kernel = sorted(re.sub(r"^(blackhole|throw) ", "", line).split()[0] for line in listed)
    assert sorted(row["prefix"].removesuffix("/32") for row in rows if ":" not in row["prefix"]) == kernel
    assert {way["connection"] for row in rows if row["prefix"] in SITE_PREFIXES for way in row["ways"]} == {"site"}


def on_the_way(site: Site) -> None:
    child = site.daemon.tunnel()["children"][0]  # type: ignore[index]
    found = shown(site, "lookup", SITE_HOST, "--from", VNET_HOST)["lookup"]
    assert (found["verdict"], found["route"]["prefix"], found["guard"]) == (
        "encrypted",
        SITE_PREFIXES[0],
        "172.16.0.0/16",
    )
    assert found["route"]["ways"][0]["spi_out"] == child["spi_out"]
    assert [(path["peer"], path["best"], path["reason"]) for path in found["paths"]] == [("edge", True, "only path")]
    text = site.daemon.ctl("lookup", SITE_HOST, "--from", VNET_HOST).stdout
    assert f"SPI out {child['spi_out']:08x}" in text and "is protected by site: never in clear" in text
    assert shown(site, "lookup", VNET_HOST)["lookup"]["verdict"] == "clear"
    assert shown(site, "lookup", "192.0.2.1")["lookup"]["verdict"] == "main"
    # a protected address that no route leads to: nowhere, as the kernel says too
    site.daemon.ctl("terminate", "site")
    down = shown(site, "lookup", SITE_HOST)["lookup"]
    assert (down["verdict"], down["guard_connections"]) == ("dropped", ["site"])
    site.daemon.ctl("initiate", "site")
    site.wait_up()
    wait_until(lambda: shown(site, "lookup", SITE_HOST)["lookup"]["verdict"] == "encrypted", 20, "the way back")


def on_trial(site: Site) -> None:
    edge, vnet = site.birds
    wait_until(lambda: set(vnet.learned(SESSION_GATEWAY)) == {*SITE_PREFIXES}, 20, "the routes are back")
    before = (site.kernel(), edge.learned(SESSION_GATEWAY), vnet.learned(SESSION_GATEWAY))
    tried = shown(site, "policy", "test", "--policy", "narrow", "--in", "--peer", "edge")["policy_test"]["in"]
    assert tried["counts"] == {"same": 0, "accepted": 0, "rejected": 1, "changed": 2}
    (rejected,) = [row for row in tried["routes"] if row["outcome"] == "rejected"]
    assert (rejected["prefix"], rejected["reason"]) == ("172.16.3.0/24", "policy narrow, rule third")
    file = site.daemon.directory / "new.toml"
    file.write_text(site.text.replace("remote_as = 65515", 'remote_as = 65515\nexport_policy = "narrow"') + POLICY)
    out = site.daemon.ctl("policy", "test", str(file), "--out", "--peer", "vnet").stdout
    assert "1 no longer told" in out and "policy narrow, rule third" in out
    file.write_text(site.text.replace("remote_as = 65515", "remote_as = sixty"))
    wrong = site.daemon.ctl("policy", "test", str(file), "--out", "--peer", "vnet", check=False)
    assert wrong.returncode == 78 and "new.toml:" in wrong.stderr
    assert (site.kernel(), edge.learned(SESSION_GATEWAY), vnet.learned(SESSION_GATEWAY)) == before
