"""Where each key of a TOML text stands.

Not a TOML parser: `tomllib` decides what is valid and what it means. This scanner walks the same text
once and notes (line, column) of every table, key and array element; on text that is not valid TOML it
stops where it no longer understands, and what it found until then still serves.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from gateway.config.diagnostics import KeyPath


class Position(NamedTuple):
    """Line and column, counted from 1."""

    line: int
    column: int


class Duplicate(NamedTuple):
    """A key or table given twice."""

    path: KeyPath
    first: Position
    second: Position


@dataclass(frozen=True, slots=True)
class Positions:
    """The index of one file."""

    places: dict[KeyPath, Position]
    duplicates: tuple[Duplicate, ...] = ()

    def at(self, path: KeyPath) -> Position:
        """The place of a path, or of the nearest enclosing table that is written down."""
        for length in range(len(path), 0, -1):
            found = self.places.get(path[:length])
            if found is not None:
                return found
        return Position(1, 1)

    def has(self, path: KeyPath) -> bool:
        """Whether the path itself is written down."""
        return path in self.places


def index(source: str) -> Positions:
    """Scans a TOML text; never raises."""
    scanner = _Scanner(source.replace("\r\n", "\n"))
    with suppress(_NotUnderstoodError):
        scanner.document()
    return Positions(scanner.places, tuple(scanner.duplicates))


_MAX_DEPTH = 64
_BLANK = re.compile(r"(?:[ \t\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
_BASIC = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_LITERAL = re.compile(r"'([^'\n]*)'")
# Up to two quotation marks may stand directly before the closing three.
_LONG_BASIC = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}


class _NotUnderstoodError(Exception):
    """The text is not TOML from here on."""


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.offset = 0
        self.places: dict[KeyPath, Position] = {}
        self.duplicates: list[Duplicate] = []
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._last_element: dict[KeyPath, int] = {}
        self._declared: set[KeyPath] = set()

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text.startswith("[", self.offset):
                table = self._header()
            else:
                self._assignment(table, 0)

    def _header(self) -> KeyPath:
        start = self._place()
        brackets = "[[" if self.text.startswith("[[", self.offset) else "["
        self.offset += len(brackets)
        keys = [key for key, _ in self._dotted_key()]
        self._expect("]" * len(brackets))
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._entered((*path, key))
            self.places.setdefault(path, start)
        path = (*path, keys[-1])
        if brackets == "[[":
            self.places.setdefault(path, start)
            self._last_element[path] = self._last_element.get(path, -1) + 1
            path = self._entered(path)
            self.places[path] = start
        else:
            path = self._entered(path)
            self._declare(path, start)
        return path

    def _entered(self, path: KeyPath) -> KeyPath:
        """A header below an array of tables means its last element."""
        return (*path, self._last_element[path]) if path in self._last_element else path

    def _assignment(self, table: KeyPath, depth: int) -> None:
        path = table
        for key, place in self._dotted_key():
            path = (*path, key)
            self.places.setdefault(path, place)
        self._declare(path, place)
        self._expect("=")
        self._skip(_SPACE)
        self._value(path, depth)

    def _declare(self, path: KeyPath, place: Position) -> None:
        if path in self._declared:
            self.duplicates.append(Duplicate(path, self.places[path], place))
        elif path not in self.places:
            self.places[path] = place
        self._declared.add(path)

    def _value(self, path: KeyPath, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _NotUnderstoodError
        opening = self.text[self.offset : self.offset + 1]
        if opening == "[":
            self._array(path, depth)
        elif opening == "{":
            self._inline_table(path, depth)
        elif opening in ('"', "'"):
            self._string()
        else:
            self._take(_SCALAR)

    def _array(self, path: KeyPath, depth: int) -> None:
        self._expect("[")
        element = 0
        while self._skip(_BLANK) < len(self.text) and not self._accept("]"):
            self.places[(*path, element)] = self._place()
            self._value((*path, element), depth + 1)
            element += 1
            self._skip(_BLANK)
            if not self._accept(","):
                self._expect("]")
                return

    def _inline_table(self, path: KeyPath, depth: int) -> None:
        self._expect("{")
        while self._skip(_BLANK) < len(self.text) and not self._accept("}"):
            self._assignment(path, depth + 1)
            self._skip(_BLANK)
            if not self._accept(","):
                self._expect("}")
                return

    def _string(self) -> None:
        for triple, long_form in (('"""', _LONG_BASIC), ("'''", _LONG_LITERAL)):
            if self.text.startswith(triple, self.offset):
                self._take(long_form)
                return
        self._take(_BASIC if self.text[self.offset] == '"' else _LITERAL)

    def _dotted_key(self) -> list[tuple[str, Position]]:
        keys = []
        while True:
            self._skip(_SPACE)
            keys.append((self._key(), self._key_place))
            self._skip(_SPACE)
            if not self._accept("."):
                return keys

    def _key(self) -> str:
        self._key_place = self._place()
        opening = self.text[self.offset : self.offset + 1]
        if opening == '"':
            return _ESCAPE.sub(_unescaped, self._take(_BASIC)[1])
        if opening == "'":
            return self._take(_LITERAL)[1]
        return self._take(_BARE)[0]

    def _place(self) -> Position:
        line = bisect_right(self._line_starts, self.offset)
        return Position(line, self.offset - self._line_starts[line - 1] + 1)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.offset)
        self.offset = match.end() if match else self.offset
        return self.offset

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self.text, self.offset)
        if match is None:
            raise _NotUnderstoodError
        self.offset = match.end()
        return match

    def _accept(self, text: str) -> bool:
        if not self.text.startswith(text, self.offset):
            return False
        self.offset += len(text)
        return True

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise _NotUnderstoodError


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    if code is None:
        return _ESCAPED.get(match[3], match[3])
    number = int(code, 16)
    if number > 0x10FFFF:
        raise _NotUnderstoodError
    return chr(number)
