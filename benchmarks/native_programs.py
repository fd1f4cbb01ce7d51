"""The C programs under benchmarks/native: built on demand in a build directory of their own, run, their JSON read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError, Unavailable

ROOT = Path(__file__).resolve().parent.parent
_BUILD = ROOT / "build" / "bench"
_PROGRAMS = ("udp_load", "udp_rr", "micro_esp", "micro_path")
_UNAVAILABLE = "not available"


def program(name: str) -> str:
    """The path of a built program."""
    return str(_built() / name)


def lines(name: str, *arguments: str, timeout: float = 300.0) -> list[dict[str, Any]]:
    """Run a program to its end; what it printed, an object a line."""
    done = subprocess.run((program(name), *arguments), capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        words = f"{done.stderr.strip() or 'no message'} (exit {done.returncode})"
        raise (Unavailable if done.stderr.startswith(_UNAVAILABLE) else BenchError)(f"{name}: {words}")
    return [json.loads(line) for line in done.stdout.splitlines()]


@cache
def _built() -> Path:
    tools = Path(sys.executable).parent
    if not (_BUILD / "build.ninja").exists():
        _tool((str(tools / "meson"), "setup", str(_BUILD), str(ROOT)))
    directory = "benchmarks/native"
    _tool((str(tools / "ninja"), "-C", str(_BUILD), *(f"{directory}/{name}" for name in _PROGRAMS)))
    return _BUILD / directory


def _tool(argv: Sequence[str]) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False, env=environment)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
