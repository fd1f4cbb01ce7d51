"""From a path to settings: configuration, lint, secrets; every problem at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.config.diagnostics import has_errors, render
from gateway.config.load import load
from gateway.config.model import Config
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
        settings = build(found.config, secrets, ids)
    except SecretProblems as error:
        raise LoadError("\n".join(f"{path}: {problem}" for problem in error.problems)) from error
    except ValueError as error:
        raise LoadError(f"{path}: {error}") from error
    return Loaded(path, found.config, settings), [line for line in (*text.splitlines(), *warnings) if line]
