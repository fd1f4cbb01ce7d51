"""Routing instances as the node and its shell see them: a table, whose packets are looked up in it, and what lies near."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.model import Config, Prefix


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """Packets that come by `interfaces` (with one of `sources`, where there are any) or out of a tunnel of the instance are
    looked up in `table`; what that says nothing about goes to `local` by the host's own routes, or nowhere."""

    name: str
    table: int
    interfaces: tuple[str, ...] = ()
    sources: tuple[Prefix, ...] = ()
    local: tuple[Prefix, ...] = ()


def instances(config: Config) -> Iterator[InstanceSettings]:
    """Those of the configuration."""
    for name, instance in config.instance.items():
        yield InstanceSettings(name, instance.table, instance.interfaces, instance.sources, instance.local)
