"""From a path to settings: configuration, lint, secrets; every problem at once."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from gateway.config.diagnostics import has_errors, render
from gateway.config.load import load
from gateway.config.model import Address, Config
from gateway.node.settings import GatewaySettings, build
from gateway.runtime.secrets_reader import SecretProblems, read_secrets


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a configuration file came to."""

    path: Path
    config: Config
    settings: GatewaySettings


class LoadError(Exception):
    """The configuration cannot be used; str() has every reason, one per line."""


def load_all(path: Path, current: GatewaySettings | None = None, color: bool = False) -> tuple[Loaded, list[str]]:
    """The loaded configuration and its warnings. `current`: settings whose connection numbers stay."""
    found = load(path)
    text = render(found.diagnostics, found.source, color)
    if found.config is None or has_errors(found.diagnostics):
        raise LoadError(text)
    try:
        secrets, warnings = read_secrets(found.config, path.parent)
        ids = {tunnel.name: tunnel.id for tunnel in current.tunnels} if current is not None else None
        settings = build(found.config, secrets, ids, _sources(found.config))
    except SecretProblems as error:
        raise LoadError("\n".join(f"{path}: {problem}" for problem in error.problems)) from error
    except ValueError as error:
        raise LoadError(f"{path}: {error}") from error
    return Loaded(path, found.config, settings), [line for line in (*text.splitlines(), *warnings) if line]


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
