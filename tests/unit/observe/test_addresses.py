"""Shared addresses in a cloud: the snapshot, the metrics, and the sentences by which nobody thinks that they are here."""

from __future__ import annotations

import json
from dataclasses import replace

from support.address_cloud import ADDRESSES, NICS, AddressCloud
from support.snapshots import HEALTHY

from gateway.ha.address_values import Moved
from gateway.ha.fabric_values import Failed, Read, Why
from gateway.node import outcomes
from gateway.observe.addresses import CloudAddresses, cloud_addresses, hindrances
from gateway.observe.metrics import render

FIRST, SECOND = ADDRESSES


def scene(refused: bool = False, **other: object) -> AddressCloud:
    """gw-a became active; the cloud has the addresses there now, or refuses to."""
    cloud = AddressCloud()
    cloud.where = dict.fromkeys(ADDRESSES, NICS["gw-b"])
    cloud.boot("gw-a", freed=False, **other)
    cloud.run(1.0)
    if refused:
        failure = Failed(Why.REFUSED, "AWS answered UnauthorizedOperation; give the role ec2:AssignPrivateIpAddresses")
        cloud.fault = lambda node, call: None if isinstance(call.operation, Read) else (failure, False)
    cloud.activate("gw-a", 4)
    cloud.run(10.0)
    return cloud


def picture(cloud: AddressCloud) -> CloudAddresses:
    return cloud_addresses(cloud.gateways["gw-a"].view())


def samples(status: CloudAddresses | None) -> dict[str, float]:
    text = render(replace(HEALTHY, addresses=status)).decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("gateway_ha_cloud"))
    return {name: float(value) for name, _, value in lines}


def test_the_picture_is_plain_json():
    content = json.loads(json.dumps(replace(HEALTHY, addresses=picture(scene())).to_json()))["addresses"]
    assert content["interfaces"][0]["addresses"][0] == {
        "address": FIRST, "place": "ours", "interface": "nic-a", "public": "", "error": "",
    }  # fmt: skip


def test_the_metrics_say_where_each_address_is_and_what_was_tried():
    found = samples(picture(scene()))
    places = {
        name: value for name, value in found.items() if name.startswith("gateway_ha_cloud_address") and FIRST in name
    }
    assert sum(places.values()) == 1
    assert found[f'gateway_ha_cloud_address{{address="{FIRST}",interface="wan",place="ours"}}'] == 1
    assert found['gateway_ha_cloud_troubled{interface="wan"}'] == 0
    assert found['gateway_ha_cloud_drift_total{interface="wan"}'] == 0
    assert 0 < found['gateway_ha_cloud_move_seconds{interface="wan"}'] < 0.1
    refused = samples(picture(scene(refused=True)))
    assert refused[f'gateway_ha_cloud_address{{address="{FIRST}",interface="wan",place="peer"}}'] == 1
    assert refused['gateway_ha_cloud_troubled{interface="wan"}'] == 1
    assert refused['gateway_ha_cloud_calls_total{interface="wan",result="failed"}'] >= 2
    assert samples(None) == {}


def test_a_cloud_that_refuses_is_a_problem_that_names_address_place_reason_and_fix():
    first, *_ = hindrances(picture(scene(refused=True)))
    assert first == (
        f"shared addresses at wan: this gateway is active, and for the cloud {FIRST} is at the other gateway's interface: "
        f"{FIRST}: AWS answered UnauthorizedOperation; give the role ec2:AssignPrivateIpAddresses"
    )
    assert list(hindrances(picture(scene()))) == []


def test_a_dry_run_is_a_problem_of_the_active_one():
    cloud = scene(dry_run=True)
    (said,) = hindrances(picture(cloud))
    assert said.endswith("dry_run = true in [ha.fabric]: the cloud is not told; set it to false")
    cloud.deactivate("gw-a")
    cloud.run(100.0)
    assert list(hindrances(picture(cloud))) == []


def test_the_journal_has_each_turn_of_it():
    cloud = scene()
    cloud.where[SECOND] = NICS["gw-b"]
    cloud.run(70.0)
    told = [outcomes.address(event) for _, _, event in cloud.events]
    assert [(event.level, event.event) for event in told] == [
        ("info", "ha-addresses-moved"),
        ("warning", "ha-addresses-drift"),
    ]
    assert f"the cloud has {FIRST}, {SECOND} here" in told[0].text
    assert isinstance(cloud.events[0][2], Moved)
    assert told[1].text == f"wan: {SECOND} is at the other gateway's interface (nic-b), though this gateway is active"
    trouble = [outcomes.address(event) for _, _, event in scene(refused=True).events]
    assert {(event.level, event.event) for event in trouble} == {("warning", "ha-addresses-trouble")}
