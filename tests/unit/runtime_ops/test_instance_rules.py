"""The ip rules of routing instances: what belongs to one never gets to another's table, nor to main's default route."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from gateway.config.model import Gateway
from gateway.node.instances import InstanceSettings
from gateway.runtime.instance_rules import instance_rules, is_apart
from gateway.runtime.rtnetlink import RT_TABLE_MAIN
from gateway.runtime.rules import BLACKHOLE, GOTO, LOOKUP, UNREACHABLE, Entry, Rule, decode_rule, wanted_rules

FIRST = Gateway().rule_priority
BLUE = InstanceSettings("blue", 301, ("eth1",), (), (ip_network("10.1.0.0/16"), ip_network("2001:db8:1::/48")))
RED = InstanceSettings("red", 302, ("eth2",), (ip_network("10.2.0.0/17"), ip_network("10.2.128.0/17")))
ENTRIES = {
    "gw-blue": Entry((), (ip_address("169.254.21.1"),), "blue"),
    "gw-red": Entry((), (), "red"),
    "gw-own": Entry((), (ip_address("169.254.23.1"),)),
}


def of(family: int = socket.AF_INET) -> list[Rule]:
    return instance_rules(family, FIRST, (BLUE, RED), ENTRIES)


def decided(rules: list[Rule], interface: str, source: str, destination: str) -> list[str]:
    """Where a packet is looked up, one after the other, until it is dropped or no rule of an instance is left."""
    found, at = [], 0
    for rule in sorted(rules, key=lambda rule: rule.priority):
        ends = ((rule.source, source), (rule.destination, destination))
        if rule.priority < at or rule.interface not in ("", interface):
            continue
        if not all(not prefix or ip_address(address) in ip_network(prefix) for prefix, address in ends):
            continue
        if rule.action == GOTO:
            at = rule.target
        elif rule.action == LOOKUP:
            found.append(str(rule.table))
        else:
            return [*found, "nowhere"]
        if at == 0 and rule.priority > 32767:
            return found
    return found


@pytest.mark.parametrize(
    ("interface", "source", "destination", "expected"),
    [
        ("eth1", "10.1.0.9", "172.16.1.10", ["301", "nowhere"]),
        ("eth1", "10.1.0.9", "10.1.3.3", ["301", str(RT_TABLE_MAIN), "nowhere"]),
        ("gw-blue", "172.16.1.10", "10.1.3.3", ["301", str(RT_TABLE_MAIN), "nowhere"]),
        ("gw-blue", "172.16.1.10", "10.2.0.1", ["301", "nowhere"]),
        ("gw-blue", "172.16.1.10", "169.254.169.254", ["nowhere"]),
        ("lo", "169.254.21.1", "169.254.21.2", ["301", "nowhere"]),
        ("eth2", "10.2.0.9", "172.16.1.10", ["302", "nowhere"]),
        ("eth2", "10.2.200.9", "172.16.1.10", ["302", "nowhere"]),
        # of nobody: what lies behind is unreachable, and main decided before
        ("eth2", "10.9.0.9", "172.16.1.10", ["nowhere"]),
        ("gw-own", "10.2.0.9", "172.16.1.10", ["nowhere"]),
        ("lo", "169.254.23.1", "169.254.23.2", ["nowhere"]),
    ],
)
def test_where_a_packet_is_looked_up(interface: str, source: str, destination: str, expected: list[str]) -> None:
    assert decided(of(), interface, source, destination) == expected


def test_a_goto_that_leads_nowhere_is_followed_by_a_blackhole_for_the_same_packets() -> None:
    for family in (socket.AF_INET, socket.AF_INET6):
        rules = of(family)
        gotos = [rule for rule in rules if rule.action == GOTO]
        assert gotos
        for goto in gotos:
            assert Rule(family, FIRST + 4, 0, interface=goto.interface, source=goto.source, action=BLACKHOLE) in rules
            assert any(rule.priority == goto.target for rule in rules), "the kernel takes no later rule instead"
            closed = rules.index(
                Rule(family, FIRST + 4, 0, interface=goto.interface, source=goto.source, action=BLACKHOLE)
            )
            assert closed < rules.index(goto), "closed before it is opened"


def test_a_tun_whose_instance_went_first_is_closed() -> None:
    rules = instance_rules(socket.AF_INET, FIRST, (BLUE,), ENTRIES)
    assert decided(rules, "gw-red", "172.16.1.10", "10.2.0.1") == ["nowhere"]
    assert not [rule for rule in rules if rule.interface == "eth2"]


def test_without_instances_there_is_no_rule() -> None:
    assert instance_rules(socket.AF_INET, FIRST, (), {"gw-own": ENTRIES["gw-own"]}) == []


def test_each_survives_the_way_to_the_kernel_and_is_known_again() -> None:
    settings = Gateway()
    for family in (socket.AF_INET, socket.AF_INET6):
        for rule in of(family):
            assert decode_rule(rule.add(221).body) == (221, rule)
            assert is_apart(rule, settings)
        assert not any(is_apart(rule, settings) for rule in wanted_rules(settings, True, {"gw-own": ENTRIES["gw-own"]}))
    assert of()[0].action == UNREACHABLE
