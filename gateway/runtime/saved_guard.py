"""The clear-text guard on disk: written whenever it changes, installed at boot before there is a network.

    state directory:  guard.json    every blackhole and exception, and which of these were learned in tunnels

What the file lacks closes nothing, so it is replaced as a whole or not at all, and one that cannot be read is named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from gateway.config.derive import next_to_us, protected_prefixes
from gateway.config.model import Config, Gateway
from gateway.node.effects import SaveGuard
from gateway.routing.guard import GUARD_METRIC, THROW_METRIC, guard
from gateway.routing.model import EEXIST, Op, Prefix, Route, RouteKind, Verb
from gateway.runtime.kernel import Kernel

NAME = "guard.json"
_METRICS = {RouteKind.BLACKHOLE: GUARD_METRIC, RouteKind.THROW: THROW_METRIC}


@dataclass(frozen=True, slots=True)
class Saved:
    """`problem`: a sentence about a file that is there and cannot be read."""

    entries: tuple[Route, ...] = ()
    learned: tuple[Prefix, ...] = ()
    problem: str = ""


def read(directory: Path) -> Saved:
    """What was written last; nothing where nothing was."""
    path = directory / NAME
    try:
        document = json.loads(path.read_text())
        entries = [
            Route(ip_network(text), _METRICS[kind], kind)
            for name, kind in (("throws", RouteKind.THROW), ("blackholes", RouteKind.BLACKHOLE))
            for text in document[name]
        ]
        return Saved(tuple(entries), tuple(ip_network(text) for text in document["learned"]))
    except FileNotFoundError:
        return Saved()
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Saved(problem=f"{path} cannot be read ({error}): prefixes learned earlier are not protected")


def write(directory: Path, save: SaveGuard) -> None:
    """Replaces the file. OSError: it could not; the old one stays."""
    document = {
        "throws": [str(entry.prefix) for entry in save.entries if entry.kind is RouteKind.THROW],
        "blackholes": [str(entry.prefix) for entry in save.entries if entry.kind is RouteKind.BLACKHOLE],
        "learned": [str(prefix) for prefix in save.learned],
    }
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = directory / (NAME + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(descriptor)
    beside.replace(directory / NAME)


def install(gateway: Gateway, config: Config | None) -> list[str]:
    """Puts the guard into the kernel: what was saved, and what the configuration protects. Sentences on what was done and
    what failed. Blocks; for the boot, without the daemon."""
    saved = read(Path(gateway.state_directory))
    entries = {entry.key: entry for entry in saved.entries}
    if config is not None:
        protected = [prefix for one in config.connection.values() for prefix in protected_prefixes(one)]
        inside = [own.network for one in config.connection.values() for own in one.tunnel_address]
        endpoints = [*next_to_us(config), *([config.ha.remote_address] if config.ha is not None else [])]
        entries |= {entry.key: entry for entry in guard([*protected, *inside], (), endpoints).routes}
    told = [saved.problem] if saved.problem else []
    kernel = Kernel(gateway)
    try:
        told += _add(kernel, entries.values())
        # Only now does anything lead there
        told += kernel.ensure_rules({}, remove=False)
    finally:
        kernel.close()
    return told


def _add(kernel: Kernel, entries: Iterable[Route]) -> list[str]:
    """The longest prefix first, so that what lies inside a new entry is in place before it."""
    wanted = [entry for entry in entries if entry.prefix.version == 4 or kernel.ipv6]
    ops = [Op(Verb.ADD, entry) for entry in sorted(wanted, key=lambda entry: -entry.prefix.prefixlen)]
    errors = {at: error for at, error in kernel.apply(ops).items() if error.number != EEXIST}
    blackholes = sum(op.entry.kind is RouteKind.BLACKHOLE for op in ops if isinstance(op.entry, Route))
    told = [f"clear-text guard: {blackholes} prefixes closed, {len(ops) - blackholes} exceptions"]
    return told + [f"failed: {ops[at].entry}: {error.text}" for at, error in errors.items()]
