"""A configuration file in, a checked `Config` or every mistake at once out.

Secrets are not read here (`secrets.py`): a file can be checked on a machine that has none. What kind of file it is, a
`Form` says: its model, and the checks across its keys. gateway.toml's is here, witness.toml's in `witness_load.py`.

    bytes -> UTF-8 -> tomllib -> model.Config -> lint.lint -> Loaded
               |         |            |             |
               +---------+------------+-------------+--> diagnostics, by `positions.index`
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.config.diagnostics import Diagnostic, KeyPath, has_errors, in_order, spelled
from gateway.config.lint import lint
from gateway.config.model import Config
from gateway.config.positions import Positions, index
from gateway.config.validation import problems

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Checked(Generic[Model]):
    """`config` is None exactly when a diagnostic is an error; `source` is the text, for `render`."""

    config: Model | None
    diagnostics: tuple[Diagnostic, ...]
    source: str = ""


Loaded = Checked[Config]
Lint = Callable[[Model, Positions, str, Sequence[KeyPath] | None], Iterable[Diagnostic]]
"""The checks across keys: configuration, places, file, and what was left out for mistakes of its own (None: nothing)."""


@dataclass(frozen=True, slots=True)
class Form(Generic[Model]):
    """A kind of configuration file. `items`: tables of which a mistake leaves out a part, not all, by its depth."""

    model: type[Model]
    lint: Lint[Model]
    items: Mapping[KeyPath, int] = field(default_factory=dict)


def load(path: Path) -> Loaded:
    """Reads and checks a file; never raises for what is in it, nor for its absence."""
    return load_as(GATEWAY, path)


def load_text(source: str, file: str = "gateway.toml") -> Loaded:
    """Checks a text; `file` is only for the messages."""
    return load_text_as(GATEWAY, source, file)


def load_as(form: Form[Model], path: Path) -> Checked[Model]:
    """As `load`, a file of another kind."""
    file = str(path)
    try:
        octets = path.read_bytes()
    except OSError as error:
        return Checked(None, (Diagnostic("error", file, 1, 1, "", f"cannot read the file: {error.strerror}"),))
    try:
        # Windows editors put a byte order mark before the text.
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        column = error.start - (octets.rfind(b"\n", 0, error.start) + 1) + 1
        return Checked(None, (Diagnostic("error", file, line, column, "", "not UTF-8; save the file as UTF-8 text"),))
    return load_text_as(form, text, file)


def load_text_as(form: Form[Model], source: str, file: str) -> Checked[Model]:
    """As `load_text`, a text of another kind."""
    positions = index(source)
    try:
        data = tomllib.loads(source)
    # TOMLDecodeError is a ValueError, as is an integer of too many digits.
    except (ValueError, RecursionError) as error:
        return Checked(None, (_syntax_error(error, source, file, positions),), source)
    try:
        config = form.model.model_validate(data)
    except ValidationError as error:
        wrong = problems(error, form.model)
        found = [_diagnostic(path, message, file, positions) for path, message in wrong]
        found += _lint_the_rest(form, data, [path for path, _ in wrong], file, positions)
        return Checked(None, in_order(found), source)
    found = list(form.lint(config, positions, file, None))
    return Checked(None if has_errors(found) else config, in_order(found), source)


def _diagnostic(path: KeyPath, message: str, file: str, positions: Positions) -> Diagnostic:
    place = positions.at(path)
    return Diagnostic("error", file, place.line, place.column, spelled(path), message)


def _lint_the_rest(
    form: Form[Model], data: dict[str, Any], wrong: Iterable[KeyPath], file: str, positions: Positions
) -> list[Diagnostic]:
    """The checks across keys for what has no mistake of its own, so that all mistakes come at once."""
    removed = {_item_of(path, form.items) for path in wrong}
    for path in removed:
        _remove(data, path)
    try:
        config = form.model.model_validate(data)
    except ValidationError:
        return []
    return list(form.lint(config, positions, file, tuple(removed)))


def _item_of(path: KeyPath, depths: Mapping[KeyPath, int]) -> KeyPath:
    """What to leave out for a mistake: the connection, the neighbor, the section or the top-level key."""
    return next((path[:depth] for table, depth in depths.items() if path[: len(table)] == table), path[:1])


def _remove(data: dict[str, Any], path: KeyPath) -> None:
    table: Any = data
    for part in path[:-1]:
        table = table.get(part) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(path[-1], None)


def _lint_gateway(
    config: Config, positions: Positions, file: str, removed: Sequence[KeyPath] | None
) -> tuple[Diagnostic, ...]:
    names = [str(path[1]) for path in removed or () if len(path) == 2 and path[0] == "connection"]
    return lint(config, positions, file, names, incomplete=removed is not None)


GATEWAY = Form(
    Config,
    _lint_gateway,
    {
        ("connection",): 2,
        ("bgp", "neighbor"): 3,
        ("gateway",): 2,
        ("metrics",): 2,
        ("observe",): 2,
        ("dataplane",): 2,
    },
)

_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_PLAIN: tuple[tuple[str, str], ...] = (
    (r"Unterminated string", "the text has no closing quotation mark"),
    (r"Illegal character '\\n'", "the text has no closing quotation mark"),
    (r"Unclosed array", "the array has no closing ']'"),
    (r"Unclosed inline table", "the table has no closing '}'"),
    (r"Cannot overwrite a value|Duplicate inline table key", "the key is given twice"),
    (r"Cannot declare .* twice", "the table is given twice"),
    (r"Cannot mutate immutable", "a table in braces cannot be extended; write all its keys in the braces"),
    (r"Expected '=' after a key", "expected key = value"),
    (r"Invalid statement", "expected key = value or a [table]"),
    (r"Expected ']+' at the end", "the table header has no closing ']'"),
    (r"Invalid value", "not a value; text needs double quotes"),
    (r"Expected newline or end of document", "unexpected text after the value; text needs double quotes"),
    (r"Exceeds the limit", "the number has too many digits"),
    (r"maximum recursion depth", "arrays or tables are nested too deep"),
)


def _syntax_error(error: Exception, source: str, file: str, positions: Positions) -> Diagnostic:
    text = str(error)
    plain = next((message for pattern, message in _PLAIN if re.match(pattern, text)), _AT.sub("", text))
    if plain.endswith("given twice") and positions.duplicates:
        duplicate = positions.duplicates[0]
        message = f"{plain}; it is already at line {duplicate.first.line}"
        return Diagnostic("error", file, *duplicate.second, spelled(duplicate.path), message)
    at = _AT.search(text)
    if at is not None and at[1] is not None:
        return Diagnostic("error", file, int(at[1]), int(at[2]), "", f"syntax: {plain}")
    # At the end of the document, or nowhere: the last line with something in it.
    lines = source.rstrip().split("\n")
    return Diagnostic("error", file, len(lines), len(lines[-1].rstrip("\r")) + 1, "", f"syntax: {plain}")
