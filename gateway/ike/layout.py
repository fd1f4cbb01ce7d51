"""Declared layouts: one parser and one generator for every table of fields (style: strongSwan's encoding rules).

A codec class is a frozen dataclass with a class variable LAYOUT, written under its RFC diagram.
`parse(cls, reader)` consumes exactly what the layout says; `emit(value, writer)` is its inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.wire import Reader, Truncated, Writer


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
    """Structures of class `item` up to the end."""

    name: str
    item: Any


@dataclass(frozen=True, slots=True)
class Chunks:
    """Equal octet strings; length and number from LengthOf and CountOf."""

    name: str


Field = UInt | Reserved | LengthOf | CountOf | TotalLength | More | Octets | Rest | Items | Chunks
Layout = tuple[Field, ...]
T = TypeVar("T")


def parse(cls: type[T], reader: Reader) -> T:
    """Reads one structure; `Truncated` when it does not fit its own lengths."""
    values, more = _parse_fields(cls, reader)
    del more
    return cls(**values)


def _parse_fields(cls: Any, reader: Reader) -> tuple[dict[str, Any], int | None]:
    start = reader.offset
    bounded: Reader | None = None
    values: dict[str, Any] = {}
    lengths: dict[str, int] = {}
    counts: dict[str, int] = {}
    more: int | None = None
    source = reader
    for field in cls.LAYOUT:
        match field:
            case UInt(name, octets):
                values[name] = source.uint(octets)
            case Reserved(octets):
                source.take(octets)
            case LengthOf(name, octets):
                lengths[name] = source.uint(octets)
            case CountOf(name, octets):
                counts[name] = source.uint(octets)
            case TotalLength(octets):
                source = bounded = source.sub(source.uint(octets) - (reader.offset - start))
            case More():
                more = source.u8()
            case Octets(name):
                values[name] = source.take(lengths[name])
            case Rest(name):
                values[name] = source.rest()
            case Items(name, item):
                values[name] = _parse_items(item, source, counts.get(name))
            case Chunks(name):
                values[name] = tuple(
                    source.take(lengths[name]) for _ in range(_sane_count(counts[name], lengths[name], source))
                )
    if bounded is not None:
        bounded.expect_end()
    return values, more


def _sane_count(count: int, length: int, source: Reader) -> int:
    if count and length == 0:
        raise Truncated(f"{count} entries of no octets")
    if count * length > source.remaining:
        raise Truncated(f"{count} entries of {length} octets, {source.remaining} octets left")
    return count


def _parse_items(item: Any, source: Reader, count: int | None) -> tuple[Any, ...]:
    items = []
    code = next((field.code for field in item.LAYOUT if isinstance(field, More)), None)
    while source.remaining:
        values, more = _parse_fields(item, source)
        items.append(item(**values))
        if code is not None and (more != 0) != (source.remaining > 0):
            raise Truncated("'last substructure' octet contradicts the length")
    if count is not None and count != len(items):
        raise Truncated(f"{count} entries announced, {len(items)} present")
    return tuple(items)


def emit(value: Any, writer: Writer, last: bool = True) -> None:
    """Writes one structure; the lengths and counts follow from the values."""
    start = len(writer)
    total: tuple[int, int] | None = None
    for field in type(value).LAYOUT:
        match field:
            case UInt(name, octets):
                writer.uint(getattr(value, name), octets)
            case Reserved(octets):
                writer.uint(0, octets)
            case LengthOf(name, octets):
                content = getattr(value, name)
                writer.uint(len(content) if isinstance(content, bytes) else len(content[0]) if content else 0, octets)
            case CountOf(name, octets):
                writer.uint(len(getattr(value, name)), octets)
            case TotalLength(octets):
                total = (len(writer), octets)
                writer.uint(0, octets)
            case More(code):
                writer.u8(0 if last else code)
            case Octets(name) | Rest(name):
                writer.put(getattr(value, name))
            case Items(name, _):
                items = getattr(value, name)
                for index, item in enumerate(items):
                    emit(item, writer, last=index == len(items) - 1)
            case Chunks(name):
                for chunk in getattr(value, name):
                    writer.put(chunk)
    if total is not None:
        writer.patch(total[0], len(writer) - start, total[1])
