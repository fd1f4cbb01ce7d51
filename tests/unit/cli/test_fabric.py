"""What `gatewayctl fabric` prints."""

from __future__ import annotations

import json
from dataclasses import replace

from support.control_fixture import Run, SampleOperations
from support.fabric_cloud import Cloud, foreign
from support.snapshots import HEALTHY

from gateway.ha.fabric_values import Activate, HigherEpoch
from gateway.observe.fabric import fabric_status


def show(daemon: SampleOperations, cloud: Cloud) -> None:
    status = fabric_status(cloud.gateways["gw-a"].view())
    daemon.picture = replace(HEALTHY, now=cloud.now, started_at=cloud.now - 5, fabric=status)


def watched(**other: object) -> Cloud:
    cloud = Cloud()
    cloud.tables["ref-users"].put(foreign("10.0.0.0/8"))
    cloud.boot("gw-a", **other)
    cloud.run(1.0)
    return cloud


def test_the_active_one_shows_each_table_and_what_is_in_the_way(daemon: SampleOperations, ctl: Run):
    cloud = watched()
    cloud.tell("gw-a", Activate(4))
    cloud.run(3.0)
    show(daemon, cloud)
    code, out, _ = ctl("fabric")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == "fabric  ACTIVE  epoch 4"
    assert lines[2].split() == ["Table", "Routes", "State", "Foreign", "Drift", "Read", "LastCall", "LastError"]
    assert lines[3].split()[:6] == ["users", "2/3", "troubled", "1", "0", "3s"]
    assert lines[4].split()[:5] == ["servers", "3/3", "settled", "0", "0"]
    assert lines[6].startswith("PROBLEM  users: 10.0.0.0/8 -> 10.9.9.9 (theirs) is not ours; it is left")
    assert lines[7] == "users  10.0.0.0/8 belongs to somebody else (10.9.9.9)"


def test_wide_has_every_column_and_csv_one_table(daemon: SampleOperations, ctl: Run):
    cloud = watched()
    cloud.tell("gw-a", Activate(4))
    cloud.run(3.0)
    show(daemon, cloud)
    wide = ctl("fabric", "-o", "wide")[1]
    assert "gw-a 4" in wide
    assert "users  foreign: 10.0.0.0/8 -> 10.9.9.9 (theirs)" in wide
    rows = ctl("fabric", "-o", "csv")[1].splitlines()
    assert len(rows) == 3
    assert rows[2].startswith("servers,3/3,settled,0,0,")
    assert json.loads(ctl("fabric", "-o", "json")[1])["fabric"]["epoch"] == 4


def test_a_dry_run_says_what_it_would_do(daemon: SampleOperations, ctl: Run):
    cloud = watched(dry_run=True)
    cloud.tell("gw-a", Activate(1))
    cloud.run(1.0)
    show(daemon, cloud)
    out = ctl("fabric")[1]
    assert out.startswith("fabric  ACTIVE  epoch 1  dry run: nothing is written")
    assert "servers  would create 10.0.0.0/8 -> 10.0.1.4 (gw-one-10.0.0.0_8)" in out


def test_a_standby_watches_and_says_nothing_of_routes_that_are_the_others(daemon: SampleOperations, ctl: Run):
    show(daemon, watched())
    out = ctl("fabric")[1]
    assert out.startswith("fabric  STANDBY  epoch 0")
    assert "watched" in out
    assert "is not there" not in out
    assert "10.0.0.0/8 belongs" not in out


def test_who_was_outdone_says_by_whom(daemon: SampleOperations, ctl: Run):
    cloud = Cloud()
    cloud.tables["ref-users"].tags["gw-one-epoch-gw-b"] = "9"
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(8))
    assert cloud.said("gw-a", HigherEpoch)
    show(daemon, cloud)
    assert "PROBLEM  a table carries the higher epoch of gw-b (9); nothing is written" in ctl("fabric")[1]


def test_without_the_section_it_says_where_to_look(daemon: SampleOperations, ctl: Run):
    assert ctl("fabric")[1] == (
        "neither a route table nor an address of the cloud is configured; see [fabric] and [ha.fabric] in gateway.toml\n"
    )
