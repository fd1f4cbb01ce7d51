"""The clear-text guard on disk: written whenever it changes, installed at boot before there is a network.

    state directory:  guard.json    every blackhole and exception, and which of these were learned in tunnels, by table

What the file lacks closes nothing, so it is replaced as a whole or not at all, and one that cannot be read is named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from gateway.config.derive import next_to_us, pair_neighbors, protected_prefixes
from gateway.config.model import Config, Gateway
from gateway.node.effects import SaveGuard, TableGuard
from gateway.node.instances import InstanceSettings, instances
from gateway.routing.guard import GUARD_METRIC, THROW_METRIC, guard
from gateway.routing.model import EEXIST, OWN_TABLE, Key, Op, Prefix, Route, RouteKind, Verb
from gateway.runtime.durable import replaced
from gateway.runtime.kernel import Kernel

NAME = "guard.json"
_METRICS = {RouteKind.BLACKHOLE: GUARD_METRIC, RouteKind.THROW: THROW_METRIC}


@dataclass(frozen=True, slots=True)
class Saved:
    """`problem`: a sentence about a file that is there and cannot be read."""

    tables: tuple[TableGuard, ...] = ()
    problem: str = ""

    @property
    def learned(self) -> dict[str, tuple[Prefix, ...]]:
        """By the name of the instance; "" for none."""
        return {table.instance.name if table.instance else "": table.learned for table in self.tables}


def read(directory: Path) -> Saved:
    """What was written last; nothing where nothing was."""
    path = directory / NAME
    try:
        document = json.loads(path.read_text())
        instances = document.get("instances", {})
        return Saved((_table(document), *(_table(table, _instance(name, table)) for name, table in instances.items())))
    except FileNotFoundError:
        return Saved()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Saved(problem=f"{path} cannot be read ({error}): prefixes learned earlier are not protected")


def write(directory: Path, save: SaveGuard) -> None:
    """Replaces the file, on disk when it returns. OSError: it could not; the old one stays."""
    document: dict[str, Any] = {}
    for table in save.tables:
        if table.instance is None:
            document |= _written(table)
        else:
            document.setdefault("instances", {})[table.instance.name] = _written(table) | _selectors(table.instance)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = directory / (NAME + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(descriptor)
    replaced(beside, directory / NAME)


def install(gateway: Gateway, config: Config | None) -> list[str]:
    """Puts the guard into the kernel: what was saved, and what the configuration protects. Sentences on what was done and
    what failed. Blocks; for the boot, without the daemon."""
    saved = read(Path(gateway.state_directory))
    entries = {table.instance: {entry.key: entry for entry in table.entries} for table in saved.tables}
    if config is not None:
        known: dict[str, InstanceSettings | None] = {"": None} | {one.name: one for one in instances(config)}
        # As configured now; of what is configured no longer nothing is closed
        by_name = {instance.name if instance else "": found for instance, found in entries.items()}
        entries = {one: by_name.get(name, {}) | _configured(config, name) for name, one in known.items()}
    told = [saved.problem] if saved.problem else []
    kernel = Kernel(gateway)
    try:
        for instance, found in entries.items():
            told += _add(kernel, found.values(), instance)
        # Only now does anything lead there
        told += kernel.ensure_rules({}, remove=False, instances=[one for one in entries if one is not None])
    finally:
        kernel.close()
    return told


def _configured(config: Config, instance: str) -> dict[Key, Route]:
    """What the connections of one table ask for."""
    members = [one for one in config.connection.values() if (one.instance or "") == instance]
    protected = [prefix for one in members for prefix in protected_prefixes(one)]
    inside = [own.network for one in members for own in one.tunnel_address]
    endpoints = [*next_to_us(config), *pair_neighbors(config)]
    near = ((), (), ()) if instance else ((), endpoints)
    found = guard([*protected, *inside], *near)
    return {entry.key: entry for entry in found.routes}


def _table(document: Mapping[str, Any], instance: InstanceSettings | None = None) -> TableGuard:
    entries = [
        Route(ip_network(text), _METRICS[kind], kind)
        for name, kind in (("throws", RouteKind.THROW), ("blackholes", RouteKind.BLACKHOLE))
        for text in document[name]
    ]
    return TableGuard(tuple(entries), tuple(ip_network(text) for text in document["learned"]), instance)


def _written(table: TableGuard) -> dict[str, Any]:
    return {
        "throws": [str(entry.prefix) for entry in table.entries if entry.kind is RouteKind.THROW],
        "blackholes": [str(entry.prefix) for entry in table.entries if entry.kind is RouteKind.BLACKHOLE],
        "learned": [str(prefix) for prefix in table.learned],
    }


def _instance(name: str, document: Mapping[str, Any]) -> InstanceSettings:
    sources, local = (tuple(ip_network(text) for text in document[key]) for key in ("sources", "local"))
    return InstanceSettings(name, int(document["table"]), tuple(map(str, document["interfaces"])), sources, local)


def _selectors(instance: InstanceSettings) -> dict[str, Any]:
    return {
        "table": instance.table,
        "interfaces": instance.interfaces,
        "sources": [str(prefix) for prefix in instance.sources],
        "local": [str(prefix) for prefix in instance.local],
    }


def _add(kernel: Kernel, entries: Iterable[Route], instance: InstanceSettings | None) -> list[str]:
    """The longest prefix first, so that what lies inside a new entry is in place before it."""
    wanted = [entry for entry in entries if entry.prefix.version == 4 or kernel.ipv6]
    ops = [Op(Verb.ADD, entry) for entry in sorted(wanted, key=lambda entry: -entry.prefix.prefixlen)]
    failed = kernel.apply(ops, instance.table if instance else OWN_TABLE)
    errors = {at: error for at, error in failed.items() if error.number != EEXIST}
    blackholes = sum(op.entry.kind is RouteKind.BLACKHOLE for op in ops if isinstance(op.entry, Route))
    whose = f" of instance {instance.name}" if instance else ""
    told = [f"clear-text guard{whose}: {blackholes} prefixes closed, {len(ops) - blackholes} exceptions"]
    return told + [f"failed: {ops[at].entry}: {error.text}" for at, error in errors.items()]
