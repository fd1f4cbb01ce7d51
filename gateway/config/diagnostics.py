"""One finding about a configuration file, and how findings are shown.

`FILE:LINE:COL: PATH: what is wrong; what is allowed; did you mean 'rekey_time'?` is the form that
editors and CI systems jump to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Severity = Literal["error", "warning"]
KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# A value behind one of these words is not repeated on a terminal or in a log.
_SECRET_LINE = re.compile(r"psk|ppk|local_key|password|secret|inline|credential")
_QUOTED = re.compile(r"=.*$")
_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m"}
_RESET = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding; `line` and `column` count from 1."""

    severity: Severity
    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        parts = [where, *(["warning"] if self.severity == "warning" else []), *([self.path] if self.path else [])]
        return _printable(": ".join([*parts, self.message]))

    def as_json(self) -> dict[str, str | int]:
        """The form of `gatewayd --check -o json`."""
        return {
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "path": self.path,
            "message": self.message,
        }


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sorted by place, each once."""
    key = {item: (item.line, item.column, item.severity, item.path, item.message) for item in diagnostics}
    return tuple(sorted(key, key=key.__getitem__))


def warnings_as_errors(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The same findings for `--strict`."""
    return tuple(replace(item, severity="error") for item in diagnostics)


def has_errors(diagnostics: Iterable[Diagnostic]) -> bool:
    """Whether one of them is an error."""
    return any(item.severity == "error" for item in diagnostics)


def document(diagnostics: Iterable[Diagnostic], file: str) -> dict[str, object]:
    """All findings as one JSON document."""
    found = tuple(diagnostics)
    return {
        "schema": 1,
        "file": file,
        "ok": not has_errors(found),
        "errors": sum(item.severity == "error" for item in found),
        "warnings": sum(item.severity == "warning" for item in found),
        "diagnostics": [item.as_json() for item in found],
    }


def render(diagnostics: Iterable[Diagnostic], source: str, color: bool = False) -> str:
    """For a terminal: each finding, the line it is about, and a caret under the place."""
    lines = source.split("\n")
    return "".join(_rendered(item, lines, color) for item in diagnostics)


def spelled(path: KeyPath) -> str:
    """A key path as it would be written: `connection.onprem.remote_ts[1]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        word = part if _BARE_KEY.fullmatch(part) else '"' + _printable(part).replace('"', '\\"') + '"'
        text += f".{word}" if text else word
    return text


def _rendered(item: Diagnostic, lines: list[str], color: bool) -> str:
    text = str(item)
    if color:
        text = f"{_COLOURS[item.severity]}{text}{_RESET}"
    if not 1 <= item.line <= len(lines) or not lines[item.line - 1].strip():
        return f"{text}\n"
    line = _printable(_masked(lines[item.line - 1].rstrip("\r"), item.path))
    lead = "".join("\t" if char == "\t" else " " for char in line[: item.column - 1])
    caret = f"{lead}^"
    if color:
        caret = f"{_COLOURS[item.severity]}{caret}{_RESET}"
    return f"{text}\n  {line}\n  {caret}\n"


def _masked(line: str, path: str) -> str:
    if _SECRET_LINE.search(line) or _SECRET_LINE.search(path):
        return _QUOTED.sub("= ***", line, count=1)
    return line


def _printable(text: str) -> str:
    """No control character of a file reaches the terminal; the columns stay."""
    return "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
