"""Checks of [instance.NAME]: names that exist, tables and interfaces that belong to one instance alone."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Facts, Finding
from gateway.config.guess import did_you_mean
from gateway.config.model import Instance


def instance_findings(facts: Facts) -> Iterator[Finding]:
    """What names an instance, then the instances in pairs."""
    config = facts.config
    for name, connection in config.connection.items():
        yield from _known(facts, ("connection", name, "instance"), connection.instance)
    for name, neighbor in config.bgp.neighbor.items() if config.bgp is not None else ():
        path: KeyPath = ("bgp", "neighbor", name, "instance")
        yield from _known(facts, path, neighbor.instance)
        inside = config.connection.get(neighbor.connection or "")
        if inside is not None and neighbor.instance not in (None, inside.instance):
            message = f"its connection '{neighbor.connection}' belongs to {_named(inside.instance)}; leave this key out"
            yield "error", path, message
    tables: dict[int, KeyPath] = {config.gateway.route_table: ("gateway", "route_table")}
    arrivals: dict[str, list[tuple[str, Instance]]] = {}
    for name, instance in config.instance.items():
        path = ("instance", name)
        first = tables.setdefault(instance.table, (*path, "table"))
        if first[1] != name:
            message = (
                f"{instance.table} is also the table of {'.'.join(map(str, first[:2]))} (line {facts.line(first)})"
            )
            yield "error", (*path, "table"), message
        yield from _arrivals(facts, name, instance, arrivals)
        if instance.sources and not instance.interfaces:
            yield "error", (*path, "sources"), "sources tell apart what comes by `interfaces`; name these too"


def _arrivals(
    facts: Facts, name: str, instance: Instance, seen: dict[str, list[tuple[str, Instance]]]
) -> Iterator[Finding]:
    for element, interface in enumerate(instance.interfaces):
        for other, known in seen.setdefault(interface, []):
            if _share(instance, known):
                message = (
                    f"{interface} also belongs to instance '{other}' (line {facts.line(('instance', other, 'interfaces'))}); "
                    "give both `sources` that do not overlap"
                )
                yield "error", ("instance", name, "interfaces", element), message
        seen[interface].append((name, instance))


def _share(one: Instance, other: Instance) -> bool:
    """Whether a packet on the same interface may belong to both."""
    if not one.sources or not other.sources:
        return True
    pairs = ((own, theirs) for own in one.sources for theirs in other.sources)
    return any(own.version == theirs.version and own.overlaps(theirs) for own, theirs in pairs)


def _known(facts: Facts, path: KeyPath, name: str | None) -> Iterator[Finding]:
    known = facts.config.instance
    if name is not None and name not in known and not facts.incomplete:
        listed = f"known: {', '.join(sorted(known))}" if known else "there is no instance"
        yield "error", path, f"no instance is called '{name}'; {listed}{did_you_mean(name, known)}"


def _named(instance: str | None) -> str:
    return f"instance '{instance}'" if instance else "no instance"
