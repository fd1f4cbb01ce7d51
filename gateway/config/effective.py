"""The configuration as it works: every value, defaults marked, secrets masked; valid TOML again."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.bgp_model import KINDS
from gateway.config.derive import SHORTHANDS, children_of, life_time_of, protected_prefixes, router_id, session_address
from gateway.config.diagnostics import KeyPath, spelled
from gateway.config.model import Bgp, Child, Config, Connection, Fabric, HaPeer, Neighbor, SecretSource, Section
from gateway.config.written import written

_DEFAULT = "  # default"


def effective_toml(config: Config) -> str:
    """What `gatewayctl config show --effective` prints."""
    lines = [
        *_table(config, ("gateway",), config.gateway),
        *_table(config, ("dataplane",), config.dataplane),
        *(line for name, item in config.connection.items() for line in _connection(config, name, item)),
        *(_bgp(config, config.bgp) if config.bgp is not None else ()),
        *(_ha(config, config.ha) if config.ha is not None else ()),
        *(_fabric(config, config.fabric) if config.fabric is not None else ()),
        *_table(config, ("metrics",), config.metrics),
        *_table(config, ("observe",), config.observe),
    ]
    return "\n".join(lines).strip("\n") + "\n"


def _connection(config: Config, name: str, connection: Connection) -> Iterator[str]:
    path: KeyPath = ("connection", name)
    yield from _table(config, path, connection, leave_out=SHORTHANDS)
    for child_name, child in children_of(connection).items():
        yield from _table(config, (*path, "child", child_name), child)


def _bgp(config: Config, bgp: Bgp) -> Iterator[str]:
    yield from _table(config, ("bgp",), bgp)
    for name, neighbor in bgp.neighbor.items():
        yield from _table(config, ("bgp", "neighbor", name), neighbor)
    for name, prefix_list in bgp.prefix_list.items():
        yield from _table(config, ("bgp", "prefix_list", name), prefix_list)
    for name, policy in bgp.policy.items():
        yield from _table(config, ("bgp", "policy", name), policy)
        for rule_name, rule in policy.rule.items():
            yield from _table(config, ("bgp", "policy", name, "rule", rule_name), rule)


def _ha(config: Config, ha: HaPeer) -> Iterator[str]:
    yield from _table(config, ("ha",), ha)
    for name, interface in ha.fabric.interface.items() if ha.fabric is not None else ():
        yield from _table(config, ("ha", "fabric", "interface", name), interface)
    for name, path in ha.path.items():
        yield from _table(config, ("ha", "path", name), path)


def _fabric(config: Config, fabric: Fabric) -> Iterator[str]:
    yield from _table(config, ("fabric",), fabric)
    for name, table in fabric.table.items():
        yield from _table(config, ("fabric", "table", name), table)


def _table(config: Config, path: KeyPath, section: Section, leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    inner: list[str] = []
    yield ""
    yield f"[{spelled(path)}]"
    for name in type(section).model_fields:
        value = getattr(section, name)
        # Tables by name follow as tables of their own.
        if name in leave_out or isinstance(value, dict):
            continue
        if isinstance(value, Section) and not isinstance(value, SecretSource):
            inner += _table(config, (*path, name), value)
            continue
        mark = "" if name in section.model_fields_set else _DEFAULT
        if value is not None:
            yield f"{name} = {written(value)}{mark}"
            continue
        worked_out = _worked_out(config, section, name)
        yield f"# {name} is not set" if worked_out is None else f"# {name} = {written(worked_out)}{_DEFAULT}"
    yield from inner


def _worked_out(config: Config, section: Section, name: str) -> object:
    """What an absent key amounts to."""
    match section, name:
        case Connection(local_cert=None), "local_id":
            return section.local_addrs
        case Connection(), "remote_id":
            return section.remote_addrs
        case Connection(), "protected":
            return protected_prefixes(section)
        case Child(), "life_time":
            return life_time_of(section)
        case Bgp(), "router_id":
            return router_id(config, section)
        case Neighbor(), "local_address":
            return session_address(config, section)
        case Neighbor(), "max_announced":
            return KINDS[section.kind]
        case _:
            return None
