"""What a datagram that nobody authenticated must leave as it is: every IKE_SA, the tunnel, the data plane.

Taken before and after; equal, or something moved that should not. IKE_SA_INIT is authenticated by nothing (RFC 7296 2.21.1), so a
damaged one may make a half-open IKE_SA, or end an attempt, but never touches an established one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from types import FunctionType, MethodType
from typing import Any

from simulation.shell import Shell

from gateway.ike.registry import ExchangeType

EXCHANGE_AT = 18
"""Where the IKE header has the exchange type."""
OUTSIDE = frozenset({"services", "settings"})
"""Attributes of an IKE_SA that are not its state."""
LEAVES = (int, float, str, bytes, type(None), Enum, FunctionType, MethodType)

Picture = dict[str, object]


def take(shell: Shell, connections: Iterable[str], ike: bytes) -> Picture:
    """`ike`: the IKE message about to be received, "" for ESP."""
    picture: Picture = {"data plane": _data_plane(shell)}
    if not ike:
        return picture
    stranger = len(ike) > EXCHANGE_AT and ike[EXCHANGE_AT] == ExchangeType.IKE_SA_INIT
    if not stranger:
        picture["half-open"] = shell.node.ike.half_open
    for connection in connections:
        picture |= _of_connection(shell, connection, stranger)
    return picture


def _of_connection(shell: Shell, connection: str, stranger: bool) -> Picture:
    node, picture = shell.node, Picture()
    for sa in node.ike.sas(connection):
        if not stranger or sa.established_at is not None:
            picture[f"IKE_SA {sa.initiator_spi:016x}"] = _frozen(sa, set())
    picture[f"lines of {connection}"] = node.ike.recorder.lines(connection) if not stranger else ()
    tunnel = node.tunnels.get(connection)
    if tunnel is not None:
        picture[f"tunnel {connection}"] = (
            tuple(tunnel.installed), tuple(tunnel.active), tunnel.wanted, tunnel.interface, tunnel.mtu,
            frozenset(tunnel.held), tunnel.established_at,
        )  # fmt: skip
    return picture


def difference(before: Picture, after: Picture) -> str:
    """What changed, by name; "" when nothing did."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return "; ".join(f"{name}: {_first(before.get(name), after.get(name))}" for name in names)


def _first(before: Any, after: Any) -> str:
    """The first part that differs, as deep as there is one."""
    if isinstance(before, tuple) and isinstance(after, tuple) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            if one != other:
                return _first(one, other)
    return f"{str(before)[:160]} -> {str(after)[:160]}"


def _data_plane(shell: Shell) -> object:
    """Whoever sent garbage moved no counter of packets, no window, no address."""
    return tuple(
        (key[0].value, f"{key[2]:08x}", sa.sequence, sa.packets, sa.octets, sa.window.top, sa.remote, sa.hard_reached)
        for key, sa in shell.dataplane._sas.items()
    ), tuple(shell.policies.items())


def _frozen(thing: object, above: set[int]) -> object:
    """A value that compares as the graph behind `thing` does."""
    if isinstance(thing, LEAVES):
        return thing
    if isinstance(thing, tuple | list | deque):
        return tuple([_frozen(one, above) for one in thing])
    if isinstance(thing, dict):
        return tuple([(_frozen(key, above), _frozen(value, above)) for key, value in thing.items()])
    if is_dataclass(thing) and thing.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return thing
    if id(thing) in above:
        return type(thing).__name__
    above.add(id(thing))
    return (type(thing).__name__, tuple([(name, _frozen(value, above)) for name, value in _attributes(thing)]))


def _attributes(thing: object) -> list[tuple[str, object]]:
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    slots = [(name, getattr(thing, name)) for name in names if hasattr(thing, name)]
    held = [*slots, *getattr(thing, "__dict__", {}).items()]
    return [(name, value) for name, value in held if name not in OUTSIDE]
