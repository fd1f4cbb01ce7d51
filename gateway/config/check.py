"""`gatewayd --check FILE`: every finding on a stream, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from gateway.config.diagnostics import Diagnostic, document, has_errors, in_order, render, warnings_as_errors
from gateway.config.load import Checked, load

OK = 0
# sysexits.h EX_CONFIG; the unit has RestartPreventExitStatus=78.
EX_CONFIG = 78


Load = Callable[[Path], Checked[Any]]
Also = Callable[[Path, Checked[Any]], Sequence[Diagnostic]]


def check_file(
    path: Path,
    strict: bool,
    output: Literal["text", "json"],
    stream: TextIO,
    color: bool,
    also: Also | None = None,
    load: Load = load,
) -> int:
    """Checks a file without reading secrets, unless `also` does; 0 when it can be used, else 78. `load`: by its kind."""
    loaded = load(path)
    diagnostics = in_order((*loaded.diagnostics, *(also(path, loaded) if also is not None else ())))
    found = warnings_as_errors(diagnostics) if strict else diagnostics
    if output == "json":
        json.dump(document(found, str(path)), stream, indent=2)
        stream.write("\n")
    else:
        stream.write(render(found, loaded.source, color))
        stream.write(_summary(path, found))
    return EX_CONFIG if has_errors(found) else OK


def _summary(path: Path, found: Sequence[Diagnostic]) -> str:
    errors = sum(item.severity == "error" for item in found)
    counts = [_count(errors, "error"), _count(len(found) - errors, "warning")]
    told = " and ".join(count for count in counts if count)
    return f"{path}: {told or 'ok'}\n"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}" if number else ""
