"""What is built from benchmarks/native, on demand, in a build directory of its own: C programs, and a daemon without a
cipher. None of it is part of an installation."""

from __future__ import annotations

import json
import shlex
import shutil
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
_DIRECTORY = "benchmarks/native"
_MODULE = "_native.abi3.so"
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
def null_cipher_binaries() -> Path:
    """A directory with a gatewayd that runs the same Python code on a data plane without a cipher."""
    home = _BUILD / "null"
    module = _ninja(_MODULE) / _MODULE
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(ROOT / "gateway", home / "gateway", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(module, home / "gateway" / _MODULE)
    start = home / "bin" / "gatewayd"
    start.parent.mkdir()
    environment = f"PYTHONPATH={shlex.quote(str(home))}"
    start.write_text(f'#!/bin/sh\n{environment} exec {shlex.quote(sys.executable)} -P -m gateway.runtime.main "$@"\n')
    start.chmod(0o755)
    return start.parent


@cache
def _built() -> Path:
    return _ninja(*_PROGRAMS)


def _ninja(*targets: str) -> Path:
    tools = Path(sys.executable).parent
    if not (_BUILD / "build.ninja").exists():
        _tool((str(tools / "meson"), "setup", str(_BUILD), str(ROOT)))
    _tool((str(tools / "ninja"), "-C", str(_BUILD), *(f"{_DIRECTORY}/{target}" for target in targets)))
    return _BUILD / _DIRECTORY


def _tool(argv: Sequence[str]) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False, env=environment)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
