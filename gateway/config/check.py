"""`gatewayd --check FILE`: every finding on a stream, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TextIO

from gateway.config.diagnostics import Diagnostic, document, has_errors, render, warnings_as_errors
from gateway.config.load import load

OK = 0
# sysexits.h EX_CONFIG; the unit has RestartPreventExitStatus=78.
EX_CONFIG = 78


def check_file(path: Path, strict: bool, output: Literal["text", "json"], stream: TextIO, color: bool) -> int:
    """Checks a file without reading secrets; 0 when it can be used, else 78."""
    loaded = load(path)
    found = warnings_as_errors(loaded.diagnostics) if strict else loaded.diagnostics
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
