"""gatewayctl's views of routes against a real control server: columns, lines, CSV, what is asked, exit codes."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.control_fixture import Run, SampleOperations
from support.snapshots import HEALTHY, PEER, ROUTES

from gateway.runtime.questions import Advertised, Lookup, NotThere, PolicyTest, Table, Unusable


def columns(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def told(peer: str, prefix: str, state: str = "sent", **more: Any) -> dict[str, Any]:
    known = {
        "prefix": prefix, "peer": peer, "next_hop": "10.0.0.4", "as_path": [65010, 65001], "origin": "incomplete",
        "med": None, "local_preference": None, "communities": ["65001:7"], "state": state, "instance": "",
    }  # fmt: skip
    return known | more


def way(connection: str = "", next_hop: str = "", *, used: bool = True, **more: Any) -> dict[str, Any]:
    known = {"connection": connection, "next_hop": next_hop, "used": used, "circuit": False, "peer": "", "child": "",
             "child_state": "", "spi_out": 0, "selectors": ""}  # fmt: skip
    return known | more


def entry(prefix: str, kind: str, *ways: dict[str, Any], state: str = "installed", **more: Any) -> dict[str, Any]:
    known = {"prefix": prefix, "kind": kind, "state": state, "metric": 20, "ways": ways, "why": "", "instance": ""}
    return known | more


def test_learned_routes_have_the_columns_of_the_cloud_cli_and_only_those_accepted(daemon: SampleOperations, ctl: Run):
    rejected = replace(ROUTES[1], prefix="10.66.0.0/16", reason="rejected: martian", best=False, accepted=False)
    daemon.picture = replace(HEALTHY, routes=(*ROUTES, rejected))
    header, best, other = ctl("bgp", "learned")[1].splitlines()
    assert columns(header) == ["Network", "Origin", "SourcePeer", "AsPath", "Weight", "NextHop"]
    assert columns(best) == ["172.16.0.0/16", "EBgp", "169.254.21.1", "65515-64601", "32768", "169.254.21.1"]
    assert columns(other)[2:4] == ["edge", "65001-65002-64601"]
    assert "10.66.0.0/16" in ctl("bgp", "routes")[1]
    assert len(json.loads(ctl("bgp", "learned", "-o", "json")[1])["routes"]) == 2
    wide = ctl("bgp", "learned", "-o", "wide")[1].splitlines()[1]
    assert "shorter AS path" in wide and "65515:1" in wide


def test_announcements_have_the_columns_of_the_cloud_cli_and_their_state(daemon: SampleOperations, ctl: Run):
    rows = [told("vnet", "172.16.0.0/16"), told("vnet", "172.17.0.0/16", "held-back", med=7)]
    daemon.document = {"advertised": rows}
    header, first, second = ctl("bgp", "advertised", "--peer", "vnet")[1].splitlines()
    assert columns(header) == ["Network", "NextHop", "Origin", "AsPath", "Weight", "State"]
    assert columns(first) == ["172.16.0.0/16", "10.0.0.4", "Incomplete", "65010-65001", "0", "Sent"]
    assert columns(second)[-1] == "HeldBack"
    wide = ctl("bgp", "advertised", "-o", "wide")[1].splitlines()
    assert columns(wide[0])[-4:] == ["Metric", "LocPrf", "Communities", "Instance"]
    assert columns(wide[2])[-3:] == ["7", "-", "65001:7"]
    assert daemon.questions == [Advertised("vnet"), Advertised()]
    daemon.document = {"advertised": [*rows, told("edge", "10.1.0.0/16")]}
    assert columns(ctl("bgp", "advertised")[1].splitlines()[0])[0] == "Neighbor"
    assert json.loads(ctl("bgp", "advertised", "-o", "json")[1])["advertised"] == daemon.document["advertised"]
    daemon.problem = NotThere("no BGP neighbor 'x'; there are: edge, vnet")
    assert ctl("bgp", "advertised", "--peer", "x") == (
        4,
        "",
        "gatewayctl: no BGP neighbor 'x'; there are: edge, vnet\n",
    )


def test_effective_routes_say_where_to_in_which_state_and_why(daemon: SampleOperations, ctl: Run):
    daemon.document = {
        "table": [
            entry("10.0.1.0/24", "throw"),
            entry("10.1.0.0/16", "bgp", way(next_hop="10.0.1.1")),
            entry("172.16.0.0/12", "protected"),
            entry("172.16.0.0/16", "bgp", way("site"), way("site2", used=False)),
            entry("172.16.0.0/16", "shadow"),
            entry("172.16.9.0/24", "bgp", way(next_hop="10.0.1.1", used=False), state="refused", why="it is protected"),
            entry("172.18.0.0/16", "circuit", way("site", circuit=True)),
        ]
    }
    header, *rows = ctl("routes")[1].splitlines()
    assert columns(header) == ["Source", "State", "AddressPrefix", "NextHopType", "NextHop", "Why"]
    assert [columns(row) for row in rows] == [
        ["Throw", "Installed", "10.0.1.0/24", "MainTable", "-"],
        ["BGP", "Installed", "10.1.0.0/16", "InClear", "10.0.1.1"],
        ["Protected", "Installed", "172.16.0.0/12", "None", "-"],
        ["BGP", "Installed", "172.16.0.0/16", "Tunnel", "site,(site2)"],
        ["BGP", "Refused", "172.16.9.0/24", "InClear", "(10.0.1.1)", "it is protected"],
        ["Circuit", "Installed", "172.18.0.0/16", "Circuit", "site"],
    ]
    assert [one["Source"] for one in read(ctl("routes", "-o", "csv")[1])].count("Shadow") == 1
    assert daemon.questions == [Table(), Table()]


LOOKUP: dict[str, Any] = {
    "address": "172.16.1.9",
    "source": "10.1.0.4",
    "instance": "",
    "verdict": "encrypted",
    "text": "leaves encrypted, in site/net",
    "route": entry(
        "172.16.0.0/16", "bgp",
        way("site", peer="203.0.113.2:4500", child="net", child_state="INSTALLED", spi_out=0xC3F1A2B0, selectors="10.1.0.0/16 <-> 172.16.0.0/16"),
    ),
    "over": [entry("172.16.1.0/24", "bgp", way(next_hop="10.0.1.1", used=False), state="refused", why="protected")],
    "paths": [
        {"prefix": "172.16.0.0/16", "peer": "edge", "next_hop": "169.254.21.2", "as_path": [65001], "best": True, "reason": "shorter AS path", "accepted": True},
        {"prefix": "172.16.0.0/16", "peer": "vnet", "next_hop": "10.0.1.9", "as_path": [], "best": False, "reason": "longer AS path than edge", "accepted": True},
    ],
    "guard": "172.16.0.0/12",
    "guard_kind": "protected",
    "guard_connections": ["site"],
}  # fmt: skip


def test_a_lookup_tells_the_way_the_sa_and_who_lost(daemon: SampleOperations, ctl: Run):
    daemon.document = {"lookup": LOOKUP}
    assert ctl("lookup", "172.16.1.9", "--from", "10.1.0.4") == (
        0,
        """\
172.16.1.9 from 10.1.0.4: leaves encrypted, in site/net
  route     172.16.0.0/16  BGP  installed  to site
  not used  172.16.1.0/24  BGP  refused  to (10.0.1.1): protected
  SA        site/net  INSTALLED  SPI out c3f1a2b0  to 203.0.113.2[4500]   10.1.0.0/16 <-> 172.16.0.0/16
  best path 172.16.0.0/16 from edge, next hop 169.254.21.2, AS path 65001: shorter AS path
  lost      172.16.0.0/16 from vnet, next hop 10.0.1.9, AS path empty: longer AS path than edge
  guard     172.16.0.0/12 is protected by site: never in clear
""",
        "",
    )
    assert daemon.questions == [Lookup(ip_address("172.16.1.9"), ip_address("10.1.0.4"))]
    assert json.loads(ctl("lookup", "172.16.1.9", "-o", "json")[1])["lookup"]["verdict"] == "encrypted"
    daemon.document = {"lookup": LOOKUP | {"route": None, "over": [], "paths": [], "guard": "", "instance": "blue"}}
    assert "none in our table" in ctl("lookup", "10.9.9.9", "--instance", "blue")[1]
    assert daemon.questions[-1] == Lookup(ip_address("10.9.9.9"), None, "blue")


def test_a_lookup_of_no_address_is_a_usage_error(daemon: SampleOperations, ctl: Run):
    for words in (["gw.example"], ["10.1.0.300"], ["10.1.0.3", "--from", "::1"], ["10.1.0.3", "--from", "x"], []):
        assert ctl("lookup", *words)[0] == 2, words
    assert daemon.questions == []
    daemon.document = {"lookup": LOOKUP}
    assert ctl("lookup", "172.16.1.9", "-o", "csv")[0] == 2, "it is no table"


TRIED: dict[str, Any] = {
    "peer": "edge",
    "address": "169.254.21.2",
    "policies": {"in": {"now": "", "then": "few"}, "out": {"now": "", "then": ""}},
    "in": {
        "counts": {"same": 3, "accepted": 0, "rejected": 1, "changed": 0},
        "routes": [
            {"prefix": "172.16.1.0/24", "outcome": "rejected", "reason": "policy few, rule inner", "reason_now": "no policy",
             "changes": [], "best": "", "best_now": "edge"},
        ],
    },
    "out": {"counts": {"same": 2, "accepted": 0, "rejected": 0, "changed": 0}, "routes": []},
    "notes": ["the session with edge is not up"],
}  # fmt: skip


def test_a_dry_run_counts_and_lists_what_would_differ(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    file = tmp_path / "new.toml"
    file.write_text("[bgp]\n")
    daemon.document = {"policy_test": TRIED}
    code, out, _ = ctl("policy", "test", str(file), "--peer", "edge")
    lines = out.splitlines()
    assert (code, lines[:4]) == (0, [
        "edge (169.254.21.2) import (few, now no policy): 0 newly accepted, 1 newly rejected, 0 changed, 3 as now",
        "edge (169.254.21.2) export (no policy): 0 newly told, 0 no longer told, 0 changed, 2 as now",
        "NOTE  the session with edge is not up",
        "",
    ])  # fmt: skip
    assert columns(lines[5]) == [
        "in", "rejected", "172.16.1.0/24", "policy few, rule inner", "no policy", "edge -> none",
    ]  # fmt: skip
    assert daemon.questions == [PolicyTest("edge", "both", "", "[bgp]\n", str(file))]
    (row,) = read(ctl("policy", "test", "--policy", "few", "--in", "--peer", "edge", "-o", "csv")[1])
    assert (row["Network"], row["Rule"], row["BestPath"]) == (
        "172.16.1.0/24",
        "policy few, rule inner",
        "edge -> none",
    )
    assert daemon.questions[-1] == PolicyTest("edge", "in", "few")
    assert json.loads(ctl("policy", "test", str(file), "--peer", "edge", "-o", "json")[1])["policy_test"] == TRIED


def test_a_dry_run_needs_something_to_try(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    missing, binary = str(tmp_path / "none.toml"), tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for words in (
        ["--peer", "edge"],
        ["--peer", "edge", "--policy", "few"],
        ["--peer", "edge", "--policy", "few", "--in", "--out"],
        [missing, "--peer", "edge"],
        [str(binary), "--peer", "edge"],
        [str(binary)],
    ):
        assert ctl("policy", "test", *words)[0] == 2, words
    assert daemon.questions == []


def test_mistakes_in_the_file_are_shown_like_those_of_a_reload(daemon: SampleOperations, ctl: Run, tmp_path: Path):
    file = tmp_path / "new.toml"
    file.write_text("x")
    daemon.problem = Unusable("new.toml:1:1: one", "new.toml:2:1: two")
    assert ctl("policy", "test", str(file), "--peer", "edge") == (
        78,
        "",
        "gatewayctl: new.toml:1:1: one\ngatewayctl: new.toml:2:1: two\n",
    )


@pytest.mark.parametrize("words", [("bgp", "peers"), ("bgp", "routes"), ("bfd",), ("workers",), ("guard", "show")])
def test_every_table_is_there_as_csv_with_every_column(daemon: SampleOperations, ctl: Run, words: tuple[str, ...]):
    daemon.picture = HEALTHY
    code, out, err = ctl(*words, "-o", "csv")
    rows = read(out)
    assert (code, err) == (0, "")
    assert rows and all(None not in row and "" not in row for row in rows)
    wide = ctl(*words, "-o", "wide")[1].splitlines()
    assert list(rows[0])[1:] == columns(wide[0])[-(len(rows[0]) - 1) :]
    assert len(ctl(*words, "-o", "csv", "--no-header")[1].splitlines()) == len(rows)


def test_what_a_peer_says_is_no_formula_and_no_line_of_its_own(daemon: SampleOperations, ctl: Run):
    daemon.picture = replace(HEALTHY, peers=(replace(PEER, last_error='=cmd|"x",\nforged'),))
    (row,) = read(ctl("bgp", "peers", "-o", "csv")[1])
    assert row["LastError"] == '\'=cmd|"x",\\nforged'


@pytest.mark.parametrize("words", [("status",), ("sas",), ("explain",)])
def test_what_is_not_one_table_is_not_there_as_csv(daemon: SampleOperations, ctl: Run, words: tuple[str, ...]):
    code, out, err = ctl(*words, "-o", "csv")
    assert (code, out) == (2, "")
    assert "not one table" in err


def test_every_command_about_routes_has_an_example(ctl: Run):
    for words in (("routes",), ("lookup",), ("bgp", "learned"), ("bgp", "advertised"), ("policy", "test")):
        code, out, _ = ctl(*words, "--help")
        assert code == 0
        assert f"Example: gatewayctl {' '.join(words)}" in " ".join(out.split())
