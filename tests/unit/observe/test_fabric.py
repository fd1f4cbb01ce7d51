"""The cloud's route tables in the snapshot, the metrics and the sentences."""

from __future__ import annotations

import json
from dataclasses import replace

from support.fabric_cloud import Cloud, foreign
from support.snapshots import HEALTHY

from gateway.ha.fabric_values import Activate
from gateway.observe.fabric import FabricStatus, fabric_status, troubles
from gateway.observe.metrics import render


def scene() -> FabricStatus:
    """gw-a is active; one prefix of table users is somebody else's, and a route of servers was changed once."""
    cloud = Cloud()
    cloud.tables["ref-users"].put(foreign("10.0.0.0/8"))
    cloud.boot("gw-a")
    cloud.run(1.0)
    cloud.tell("gw-a", Activate(4))
    cloud.run(10.0)
    del cloud.tables["ref-servers"].routes["gw-one-10.0.0.0_8"]
    cloud.run(80.0)
    return fabric_status(cloud.gateways["gw-a"].view())


def samples(status: FabricStatus | None) -> dict[str, float]:
    text = render(replace(HEALTHY, fabric=status)).decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("gateway_fabric"))
    return {name: float(value) for name, _, value in lines}


def test_the_picture_is_plain_json():
    content = json.loads(json.dumps(replace(HEALTHY, fabric=scene()).to_json()))["fabric"]
    assert content["tables"][0]["routes"][0] == {
        "prefix": "10.0.0.0/8",
        "state": "foreign",
        "hop": "10.9.9.9",
        "error": "",
    }
    assert content["tables"][0]["claims"] == {"gw-a": 4}


def test_the_metrics_count_routes_by_state_drift_and_calls():
    found = samples(scene())
    assert found["gateway_fabric_active"] == 1
    assert found['gateway_fabric_routes{state="ours",table="users"}'] == 2
    assert found['gateway_fabric_routes{state="foreign",table="users"}'] == 1
    assert found['gateway_fabric_routes{state="ours",table="servers"}'] == 3
    assert found['gateway_fabric_foreign_routes{table="users"}'] == 1
    assert found['gateway_fabric_troubled{table="users"}'] == 1
    assert found['gateway_fabric_drift_total{table="users"}'] == 0
    assert found['gateway_fabric_drift_total{table="servers"}'] == 1
    assert found['gateway_fabric_calls_total{result="failed",table="servers"}'] == 0
    assert found['gateway_fabric_calls_total{result="begun",table="servers"}'] >= 7
    assert 0.0 < found['gateway_fabric_switch_seconds{table="servers"}'] < 0.5


def test_without_route_tables_there_is_no_series():
    assert samples(None) == {}


def test_who_was_outdone_is_not_counted_as_active_and_says_so():
    status = replace(scene(), outdone_by="gw-b (5)")
    assert samples(status)["gateway_fabric_active"] == 0
    assert list(troubles(status))[:2] == [
        "a route table carries the higher epoch of gw-b (5): this gateway writes no routes",
        "route table users: 10.0.0.0/8 -> 10.9.9.9 (theirs) is not ours; it is left, and 10.0.0.0/8 does not lead to this pair",
    ]
