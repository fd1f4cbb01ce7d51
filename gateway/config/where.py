"""Where the settings of connections stand in the file: for a sentence that names one, the line to change."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gateway.config.derive import SHORTHANDS
from gateway.config.diagnostics import KeyPath
from gateway.config.model import Child, Connection
from gateway.config.positions import Positions, index


@dataclass(frozen=True, slots=True)
class Place:
    """Of one key: the `lines` that set it, in the connection's table and in those of its children; none: it has its default, and
    `below` is the line of a table to add it to. Lines count from 1."""

    connection: str
    key: str
    lines: tuple[int, ...]
    below: int


def places(source: str, keys: Collection[str], connection: str = "") -> Iterator[Place]:
    """Of these keys, in every connection that the text has, or in one; words that are no keys of a connection are passed over."""
    wanted = [key for key in keys if key in Connection.model_fields or key in Child.model_fields]
    found = index(source)
    children: dict[str, list[KeyPath]] = {}
    for path in found.places:
        match path:
            case ("connection", str(name)) if connection in ("", name):
                children.setdefault(name, [])
            case ("connection", str(name), "child", str()) if connection in ("", name):
                children.setdefault(name, []).append(path)
    for name, tables in children.items():
        for key in wanted:
            yield _place(found, name, key, tables)


def _place(found: Positions, name: str, key: str, children: list[KeyPath]) -> Place:
    table: KeyPath = ("connection", name)
    # A shorthand is for a connection without tables of its children
    able = [table] if key in Connection.model_fields and not (children and key in SHORTHANDS) else []
    able += children if key in Child.model_fields else []
    lines = sorted(found.at((*one, key)).line for one in able if found.has((*one, key)))
    return Place(name, key, tuple(lines), found.at(able[0] if able else table).line)
