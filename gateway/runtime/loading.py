"""From a path to settings: configuration, lint, secrets; every problem at once."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from gateway.config.diagnostics import Diagnostic, KeyPath, Severity, in_order, render, spelled
from gateway.config.load import Loaded as Checked
from gateway.config.load import load
from gateway.config.model import Address, Config
from gateway.config.positions import Positions, index
from gateway.node.settings import GatewaySettings, build
from gateway.runtime.secrets_reader import SecretProblems, read_secrets


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a configuration file came to."""

    path: Path
    config: Config
    settings: GatewaySettings


class LoadError(Exception):
    """The configuration cannot be used; str() has every reason, one per line as FILE:LINE:COL."""

    def __init__(self, diagnostics: Sequence[Diagnostic], source: str) -> None:
        super().__init__("\n".join(str(one) for one in diagnostics))
        self.diagnostics = tuple(diagnostics)
        self.source = source

    def rendered(self, color: bool = False) -> str:
        """For a terminal: each reason with its line and a caret."""
        return render(self.diagnostics, self.source, color)


def load_all(path: Path, current: GatewaySettings | None = None) -> tuple[Loaded, list[str]]:
    """The loaded configuration and its warnings. `current`: settings whose connection numbers stay."""
    found = load(path)
    if found.config is None:
        raise LoadError(found.diagnostics, found.source)
    positions = index(found.source)

    def placed(severity: Severity, where: KeyPath, message: str) -> Diagnostic:
        return at_place(positions, path, severity, where, message)

    try:
        secrets, warnings = read_secrets(found.config, path.parent)
        ids = {tunnel.name: tunnel.id for tunnel in current.tunnels} if current is not None else None
        settings = build(found.config, secrets, ids, _sources(found.config))
        settings = _with_the_same_objects(settings, current)
    except SecretProblems as error:
        problems = [placed("error", where, message) for where, message in error.problems]
        raise LoadError(in_order((*found.diagnostics, *problems)), found.source) from error
    except ValueError as error:
        raise LoadError((placed("error", ("bgp",), str(error)),), found.source) from error
    questionable = [placed("warning", where, message) for where, message in warnings]
    return Loaded(path, found.config, settings), [str(one) for one in in_order((*found.diagnostics, *questionable))]


def check_secrets(path: Path, found: Checked) -> tuple[Diagnostic, ...]:
    """What `gatewayd --check --secrets` finds in the files that a good configuration names; nothing of what is in them is kept."""
    if found.config is None:
        return ()
    positions = index(found.source)
    problems: list[tuple[KeyPath, str]] = []
    try:
        _, warnings = read_secrets(found.config, path.parent, checking=True)
    except SecretProblems as error:
        problems, warnings = error.problems, error.warnings
    told: list[tuple[Severity, KeyPath, str]] = [("error", *one) for one in problems]
    told += [("warning", *one) for one in warnings]
    return tuple(at_place(positions, path, *one) for one in told)


def refuse_foreign_cpus(loaded: Loaded, allowed: Collection[int]) -> None:
    """LoadError when a worker is to run on a CPU that is not `allowed` here; a file may be checked on another machine."""
    foreign = [cpu for cpu in loaded.config.dataplane.cpus if cpu not in allowed]
    if not foreign:
        return
    source = load(loaded.path).source
    place = index(source).at(("dataplane", "cpus"))
    usable = ", ".join(map(str, sorted(allowed)))
    message = (
        f"CPU {foreign[0]} is not one that gatewayd may run on: {usable} (nproc, CPUAffinity=, cpuset of its cgroup)"
    )
    raise LoadError(
        (Diagnostic("error", str(loaded.path), place.line, place.column, "dataplane.cpus", message),), source
    )


def at_place(positions: Positions, path: Path, severity: Severity, where: KeyPath, message: str) -> Diagnostic:
    """A finding about a key of a file."""
    place = positions.at(where)
    return Diagnostic(severity, str(path), place.line, place.column, spelled(where), message)


def _with_the_same_objects(settings: GatewaySettings, current: GatewaySettings | None) -> GatewaySettings:
    """What is as it was is the very same object: a reload tells in no time what changed."""
    known = {tunnel.name: tunnel for tunnel in current.tunnels} if current is not None else {}
    tunnels = []
    for tunnel in settings.tunnels:
        before = known.get(tunnel.name)
        tunnels.append(before if before is not None and before == tunnel else tunnel)
    return replace(settings, tunnels=tuple(tunnels))


def _sources(config: Config) -> dict[str, Address]:
    """Our address towards each neighbor outside of tunnels, as this host's routes have it; nothing is sent."""
    sources = {}
    for name, neighbor in config.bgp.neighbor.items() if config.bgp is not None else ():
        if neighbor.connection is None and neighbor.local_address is None:
            source = _source(neighbor.address)
            if source is not None:
                sources[name] = source
    return sources


def _source(address: Address) -> Address | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 179))
            return ip_address(probe.getsockname()[0])
        except OSError:
            return None
