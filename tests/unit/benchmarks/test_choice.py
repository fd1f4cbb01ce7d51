"""What is measured: by options, or by the environment; mistakes are named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[3]


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "benchmarks", *arguments),
        cwd=_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_list_names_the_cases() -> None:
    done = _run("--list")
    assert done.returncode == 0
    assert {"tcp-1-gcm", "udp-64-single", "micro-path"} <= {line.split()[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"BENCH_CASES": "tcp-1-gcm,tcp-9"}, "no such case: tcp-9; there are "),
        ({"BENCH_ROUNDS": "0"}, "must be positive"),
        ({"BENCH_ROUNDS": "many"}, "invalid int value: 'many'"),
        ({"BENCH_SECONDS": "-1"}, "must be positive"),
    ],
)
def test_a_mistake_in_the_environment_is_named(environment: dict[str, str], said: str) -> None:
    done = _run("--list", **environment)
    assert done.returncode == 2
    assert said in done.stderr


def test_arguments_go_before_the_environment() -> None:
    assert _run("--list", "tcp-1-gcm", "--rounds", "5", BENCH_CASES="tcp-9", BENCH_ROUNDS="0").returncode == 0
