"""Removes what gatewayd left in the kernel: after a stop, and after a kill.

Keeps the guard unless told otherwise: blackholes and their exceptions stay in our table, and so does the rule that
leads there, because without it they have no effect. Removing the guard lets protected prefixes leave in clear; that is
the operator's word to say (`all`). Works without the daemon, any number of times; blocks, so not on an event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.config.model import Config, Gateway
from gateway.routing.model import OWN_TABLE, Entry, Group, Nexthop, Op, Route, RouteKind, Verb
from gateway.runtime.instance_rules import is_apart, led_to
from gateway.runtime.kernel import Kernel
from gateway.runtime.rules import Rule, is_entry_guard
from gateway.runtime.tun import PREFIX

SHOWN = 20


def cleanup(config: Config, all: bool = False) -> list[str]:
    """Sentences: what was removed, what was kept and why, what failed."""
    kernel = Kernel(config.gateway)
    tables = _tables(kernel, config)
    try:
        found = list(_devices(kernel))
        for name, table in tables.items():
            said = _entries(kernel, table, all)
            found += [f"instance {name}: {line}" for line in said] if name else said
        return [*found, *_rules(kernel, config.gateway, tables.values())]
    finally:
        kernel.close()


def _tables(kernel: Kernel, config: Config) -> dict[str, int]:
    """By the name of the instance, or the number alone where our rules lead to one that is configured no longer."""
    found = {"": OWN_TABLE} | {name: instance.table for name, instance in config.instance.items()}
    led = led_to(kernel.rules(), config.gateway) - set(found.values())
    return found | {str(table): table for table in sorted(led)}


def _devices(kernel: Kernel) -> Iterable[str]:
    for device in kernel.tuns():
        if device.in_use:
            yield f"kept interface {device.name}: a running process holds it"
        else:
            kernel.delete_link(device)
            yield f"removed interface {device.name}"


def _entries(kernel: Kernel, table: int, everything: bool) -> Iterable[str]:
    """Routes before groups before nexthops; blackholes only then, and exceptions after them."""
    entries = kernel.dump(table).entries
    guards = [entry for entry in entries if isinstance(entry, Route) and entry.kind is not RouteKind.UNICAST]
    routes = [entry for entry in entries if isinstance(entry, Route) and entry.kind is RouteKind.UNICAST]
    groups = [entry for entry in entries if isinstance(entry, Group)]
    nexthops = [entry for entry in entries if isinstance(entry, Nexthop)]
    blackholes = [entry for entry in guards if entry.kind is RouteKind.BLACKHOLE]
    # Exceptions from nothing are no use.
    keep = not everything and bool(blackholes)
    removable: list[Route] = [] if keep else sorted(guards, key=lambda entry: entry.kind)
    yield from _remove(kernel, table, (*routes, *groups, *nexthops), "route or nexthop", "routes and nexthops")
    yield from _remove(kernel, table, removable, "guard entry", "guard entries")
    if keep:
        prefixes = ", ".join(str(entry.prefix) for entry in blackholes[:SHOWN])
        more = f" and {len(blackholes) - SHOWN} more" if len(blackholes) > SHOWN else ""
        yield f"kept the guard: {prefixes}{more} cannot leave in clear (cleanup --all removes it)"


def _remove(kernel: Kernel, table: int, entries: Iterable[Entry], one: str, many: str) -> Iterable[str]:
    ops = [Op(Verb.DELETE, entry) for entry in entries]
    errors = kernel.apply(ops, table)
    # A nexthop that went takes its group and routes along: gone is gone.
    failures = {position: error for position, error in errors.items() if error.number not in (2, 3)}
    if len(ops) > len(failures):
        count = len(ops) - len(failures)
        yield f"removed {count} {one if count == 1 else many}"
    for position, error in failures.items():
        yield f"failed to remove {ops[position].entry}: {error.text}"


def _rules(kernel: Kernel, settings: Gateway, tables: Iterable[int]) -> Iterable[str]:
    guarded = {
        (table or settings.route_table, entry.prefix.version)
        for table in tables
        for entry in kernel.dump(table).entries
        if isinstance(entry, Route) and entry.kind is RouteKind.BLACKHOLE
    }
    apart = {(number, version) for number, version in guarded if number != settings.route_table}
    # A TUN that lives needs its entry guard, whoever runs this; without the TUN the rules are pointless.
    alive = {device.name for device in kernel.tuns() if device.in_use}
    going = []
    for rule in kernel.rules():
        version = 4 if rule.family == 2 else 6
        if (rule.table, version) in guarded or (any(version == one for _, one in apart) and is_apart(rule, settings)):
            yield f"kept {rule}: the guard needs it"
        elif alive and is_entry_guard(rule, settings) and (_of_nobody(rule) or rule.interface in alive):
            yield f"kept {rule}: a running process holds {rule.interface if rule.interface in alive else min(alive)}"
        else:
            going.append(rule)
    removed = kernel.remove_rules(going)
    yield from removed[:SHOWN]
    if len(removed) > SHOWN:
        yield f"removed {len(removed) - SHOWN} more rules"


def _of_nobody(rule: Rule) -> bool:
    """Shared by TUNs, or of an address on one of them."""
    return not rule.interface.startswith(PREFIX)
