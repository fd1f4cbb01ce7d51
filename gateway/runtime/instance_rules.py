"""The ip rules of routing instances: what belongs to one is looked up in its table, and nowhere else.

    first + 3   by one of its interfaces, out of one of its TUNs, from our addresses on these    goto its block
    first + 4   the same                                                                         blackhole
    900000000   nobody comes here but by goto: what main has no route for                        unreachable
    block       to the platform          blackhole       IPv4 only
                everything               lookup its table
                to a `local` prefix      lookup main
                everything               blackhole

A TUN of no instance is none of these, whatever the source of its packets: sources count together with an interface.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network

from gateway.config.model import Gateway
from gateway.node.instances import InstanceSettings
from gateway.routing.guard import PLATFORM
from gateway.runtime.rtnetlink import RT_TABLE_MAIN
from gateway.runtime.rules import APART, APART_CLOSED, BLACKHOLE, GOTO, OURSELVES, UNREACHABLE, Entry, Rule

_BLOCKS, _BLOCK, _TABLES = 900_000_000, 10, 4096


def instance_rules(
    family: int, first: int, instances: Iterable[InstanceSettings], entries: Mapping[str, Entry]
) -> list[Rule]:
    """In the order they are to be made: closed before opened. `entries`: all TUNs."""
    known = tuple(instances)
    rules: list[Rule] = []
    for interface, entry in entries.items():
        if entry.instance and entry.instance not in {one.name for one in known}:
            # Its instance went first; the TUN follows
            rules.append(Rule(family, first + APART_CLOSED, 0, interface=interface, action=BLACKHOLE))
    for instance in known:
        start = _BLOCKS + instance.table * _BLOCK
        rules += _block(family, start, instance)
        for interface, source in _selectors(family, instance, entries):
            rules.append(Rule(family, first + APART_CLOSED, 0, interface=interface, source=source, action=BLACKHOLE))
            target = start if family == socket.AF_INET else start + 1  # there is no rule at the very start in IPv6
            rules.append(Rule(family, first + APART, 0, interface=interface, source=source, action=GOTO, target=target))
    return [Rule(family, _BLOCKS, 0, action=UNREACHABLE), *rules] if rules else []


def is_apart(rule: Rule, settings: Gateway) -> bool:
    """Whether it is one of these."""
    leading = settings.rule_priority + APART <= rule.priority <= settings.rule_priority + APART_CLOSED
    return leading or _BLOCKS <= rule.priority < _BLOCKS + _TABLES * _BLOCK


def led_to(rules: Iterable[Rule], settings: Gateway) -> set[int]:
    """The tables of instances, configured or not, that rules in the kernel lead to."""
    return {rule.table for rule in rules if is_apart(rule, settings)} - {0, RT_TABLE_MAIN}


def _selectors(family: int, instance: InstanceSettings, entries: Mapping[str, Entry]) -> Iterator[tuple[str, str]]:
    """(interface, source or "")."""
    version = 4 if family == socket.AF_INET else 6
    sources = [str(source) for source in instance.sources if source.version == version]
    for interface in instance.interfaces:
        for source in sources if instance.sources else [""]:
            yield interface, source
    for interface, entry in entries.items():
        if entry.instance == instance.name:
            yield interface, ""
            yield from ((OURSELVES, str(ip_network(own))) for own in entry.addresses if own.version == version)


def _block(family: int, start: int, instance: InstanceSettings) -> Iterator[Rule]:
    """Its end first: it is closed before it is opened."""
    version = 4 if family == socket.AF_INET else 6
    yield Rule(family, start + 3, 0, action=BLACKHOLE)
    if family == socket.AF_INET:
        for address in PLATFORM:
            yield Rule(family, start, 0, destination=str(address), action=BLACKHOLE)
    yield Rule(family, start + 1, instance.table)
    for prefix in instance.local:
        if prefix.version == version:
            yield Rule(family, start + 2, RT_TABLE_MAIN, destination=str(prefix))
