"""What `gatewayctl fabric` and `ha` print of shared addresses in a cloud."""

from __future__ import annotations

import json
from dataclasses import replace

from support.address_cloud import ADDRESSES, NICS, AddressCloud
from support.control_fixture import Run, SampleOperations
from support.snapshots import HEALTHY

from gateway.ha.fabric_values import Failed, Read, Why
from gateway.observe.addresses import cloud_addresses
from gateway.observe.snapshot import HaStatus, ReplicaStatus

FIRST, SECOND = ADDRESSES


def show(daemon: SampleOperations, cloud: AddressCloud) -> None:
    status = cloud_addresses(cloud.gateways["gw-a"].view())
    replica = ReplicaStatus(ADDRESSES, True, False, 1, 4, False, None, 0, 0)
    ha = replace(HEALTHY.ha, replica=replica) if isinstance(HEALTHY.ha, HaStatus) else None
    daemon.picture = replace(HEALTHY, now=cloud.now, started_at=cloud.now - 5, addresses=status, ha=ha)


def scene(active: bool = True, fault: Failed | None = None, **other: object) -> AddressCloud:
    cloud = AddressCloud()
    cloud.where = dict.fromkeys(ADDRESSES, NICS["gw-b"])
    cloud.boot("gw-a", freed=False, **other)
    cloud.run(1.0)
    if fault is not None:
        cloud.fault = lambda node, call: None if isinstance(call.operation, Read) else (fault, False)
    if active:
        cloud.activate("gw-a", 4)
    cloud.run(3.0)
    return cloud


def test_the_active_one_has_a_row_for_each_address(daemon: SampleOperations, ctl: Run):
    show(daemon, scene())
    code, out, _ = ctl("fabric")
    lines = [line.rstrip() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == "shared addresses  ACTIVE  epoch 4"
    assert lines[2].split() == [
        "Interface",
        "Address",
        "Cloud",
        "Public",
        "State",
        "Drift",
        "Read",
        "LastCall",
        "LastError",
    ]
    assert lines[3].split()[:6] == ["wan", FIRST, "here", "(nic-a)", "-", "settled"]
    assert f"cloud  {FIRST}: here (nic-a); {SECOND}: here (nic-a)" in ctl("ha")[1]
    rows = ctl("fabric", "-o", "csv")[1].splitlines()
    assert len(rows) == 3
    assert json.loads(ctl("fabric", "-o", "json")[1])["fabric"]["addresses"]["epoch"] == 4


def test_a_cloud_that_refuses_shows_in_both(daemon: SampleOperations, ctl: Run):
    show(daemon, scene(fault=Failed(Why.REFUSED, "no right; give it")))
    out = ctl("fabric")[1]
    assert "troubled" in out
    assert f"PROBLEM  wan: {FIRST}: no right; give it" in out
    line = next(line for line in ctl("ha")[1].splitlines() if line.startswith("cloud"))
    assert line.startswith(f"cloud  {FIRST}: at the other gateway (nic-b) (no right; give it)")


def test_a_standby_watches_and_wide_shows_what_it_would_do(daemon: SampleOperations, ctl: Run):
    show(daemon, scene(active=False))
    out = ctl("fabric", "-o", "wide")[1]
    assert out.startswith("shared addresses  STANDBY  epoch 0")
    assert "watched" in out
    assert f"wan  would assign {FIRST}, {SECOND} to nic-a" in out


def test_a_dry_run_says_so(daemon: SampleOperations, ctl: Run):
    show(daemon, scene(dry_run=True))
    out = ctl("fabric")[1]
    assert out.startswith("shared addresses  ACTIVE  epoch 4  dry run: nothing is written")
    assert f"wan  would assign {FIRST}, {SECOND} to nic-a" in out
