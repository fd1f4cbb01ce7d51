"""Declared layouts: one parser and one generator for every table of fields (style: strongSwan's encoding rules).

A codec class is a frozen dataclass with a class variable LAYOUT, written under its RFC diagram.
`parse(cls, reader)` consumes exactly what the layout says; `emit(value, writer)` is its inverse. Fixed fields come first.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any, TypeVar

from gateway.wire import Reader, Truncated, Writer, packed


@dataclass(frozen=True, slots=True)
class UInt:
    """A named unsigned integer."""

    name: str
    octets: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """RFC 7296 2.5 and 3: sent as zero, ignored on receipt."""

    octets: int


@dataclass(frozen=True, slots=True)
class LengthOf:
    """The length in octets of the later `Octets` field `name`; for `Chunks`, of each chunk."""

    name: str
    octets: int


@dataclass(frozen=True, slots=True)
class CountOf:
    """The number of entries of the later `Items` or `Chunks` field `name`."""

    name: str
    octets: int


@dataclass(frozen=True, slots=True)
class TotalLength:
    """The length of the whole structure from its first octet; bounds what follows."""

    octets: int


@dataclass(frozen=True, slots=True)
class More:
    """RFC 7296 3.3.1, 3.3.2: `code` when another structure of the kind follows, 0 for the last."""

    code: int


@dataclass(frozen=True, slots=True)
class Octets:
    """Octets whose length an earlier `LengthOf` gave."""

    name: str


@dataclass(frozen=True, slots=True)
class Rest:
    """All remaining octets."""

    name: str


@dataclass(frozen=True, slots=True)
class Items:
    """Structures of class `item` up to the end; `most` of them, if it says how many that is."""

    name: str
    item: Any
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Chunks:
    """Equal octet strings; length and number from LengthOf and CountOf."""

    name: str


Field = UInt | Reserved | LengthOf | CountOf | TotalLength | More | Octets | Rest | Items | Chunks
Layout = tuple[Field, ...]
T = TypeVar("T")


def parse(cls: type[T], reader: Reader) -> T:
    """Reads one structure; `Truncated` when it does not fit its own lengths."""
    values, _ = _parse_fields(_plan(cls), reader)
    return cls(**values)


def emit(value: Any, writer: Writer) -> None:
    """Writes one structure; the lengths and counts follow from the values."""
    writer.put(octets_of(value))


def octets_of(value: Any, last: bool = True) -> bytes:
    """One structure as it goes on the wire."""
    plan = _plan(type(value))
    tail = b"".join([_tail_octets(field, getattr(value, field.name)) for field in plan.tail])
    row = []
    for field in plan.head:
        match field:
            case UInt(name, _):
                row.append(getattr(value, name))
            case LengthOf(name, _):
                content = getattr(value, name)
                row.append(len(content) if isinstance(content, bytes) else len(content[0]) if content else 0)
            case CountOf(name, _):
                row.append(len(getattr(value, name)))
            case TotalLength():
                row.append(plan.struct.size + len(tail))
            case More(code):
                row.append(0 if last else code)
    return packed(plan.struct, *row) + tail


_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
Head = UInt | LengthOf | CountOf | TotalLength | More
Tail = Octets | Rest | Items | Chunks


class _Plan:
    """A layout made ready: what has a fixed place is read and written in one go, and what varies follows it."""

    __slots__ = ("count", "head", "item_code", "length", "more", "struct", "tail", "total", "uints")

    def __init__(self, layout: Layout) -> None:
        self.head: list[Head] = []
        self.tail: list[Tail] = []
        code = ">"
        for field in layout:
            if isinstance(field, Octets | Rest | Items | Chunks):
                self.tail.append(field)
                continue
            assert not self.tail, "fixed fields come before those that vary"
            code += f"{field.octets}x" if isinstance(field, Reserved) else _CODES[getattr(field, "octets", 1)]
            if not isinstance(field, Reserved):
                self.head.append(field)
        self.struct = Struct(code)
        self.uints = [(place, field.name) for place, field in enumerate(self.head) if isinstance(field, UInt)]
        self.length, self.count = self._place(LengthOf), self._place(CountOf)
        self.total, self.more = self._place(TotalLength), self._place(More)
        self.item_code = next((field.code for field in self.head if isinstance(field, More)), None)

    def _place(self, kind: type[Head]) -> int:
        """Of the only field of a kind; -1: there is none."""
        return next((place for place, field in enumerate(self.head) if isinstance(field, kind)), -1)


_plans: dict[Any, _Plan] = {}


def _plan(cls: Any) -> _Plan:
    found = _plans.get(cls)
    if found is None:
        found = _plans[cls] = _Plan(cls.LAYOUT)
    return found


def _parse_fields(plan: _Plan, reader: Reader) -> tuple[dict[str, Any], int | None]:
    row = reader.unpack(plan.struct)
    values: dict[str, Any] = {name: row[place] for place, name in plan.uints}
    bounded = plan.total >= 0
    source = reader.sub(row[plan.total] - plan.struct.size) if bounded else reader
    for field in plan.tail:
        kind = type(field)
        if kind is Rest:
            values[field.name] = source.rest()
        elif kind is Octets:
            values[field.name] = source.take(row[plan.length])
        elif isinstance(field, Items):
            values[field.name] = _parse_items(field, source, row[plan.count] if plan.count >= 0 else None)
        else:
            values[field.name] = _parse_chunks(row[plan.count], row[plan.length], source)
    if bounded:
        source.expect_end()
    return values, row[plan.more] if plan.more >= 0 else None


def _parse_chunks(count: int, length: int, source: Reader) -> tuple[bytes, ...]:
    if count and length == 0:
        raise Truncated(f"{count} entries of no octets")
    if count * length > source.remaining:
        raise Truncated(f"{count} entries of {length} octets, {source.remaining} octets left")
    return tuple(source.take(length) for _ in range(count))


def _parse_items(field: Items, source: Reader, count: int | None) -> tuple[Any, ...]:
    items: list[Any] = []
    item, most = field.item, field.most
    plan = _plan(item)
    while source.remaining:
        if len(items) == most:
            raise Truncated(f"more than {most} entries")
        values, more = _parse_fields(plan, source)
        items.append(item(**values))
        if plan.item_code is not None and (more != 0) != (source.remaining > 0):
            raise Truncated("'last substructure' octet contradicts the length")
    if count is not None and count != len(items):
        raise Truncated(f"{count} entries announced, {len(items)} present")
    return tuple(items)


def _tail_octets(field: Tail, content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(field, Items):
        final = len(content) - 1
        return b"".join([octets_of(item, index == final) for index, item in enumerate(content)])
    return b"".join(content)
