"""Keys are in no core dump, neither in a file nor in a pipe (core(5)), and what the daemon reads of itself it still may."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

NOBODY = 65534


def run(script: str, *prefix: str) -> str:
    done = subprocess.run([*prefix, sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("mode", ["serving", "witness_mode"])
def test_a_process_that_has_keys_leaves_no_core_dump(mode: str) -> None:
    script = f"""
import ctypes, resource
from pathlib import Path
from gateway.runtime import {mode}
assert {mode}.run(Path("/nowhere/gateway.toml"), "json") == 78
PR_GET_DUMPABLE = 3
print(*resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
"""
    assert run(script) == "0 0 0"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_without_privileges_it_still_reads_of_itself_what_it_needs() -> None:
    script = """
import os, subprocess, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from gateway.runtime import core_dumps

def families():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return {line.split()[0] for line in generate_latest(registry).decode().splitlines() if line[0] != "#"}

before = families()
core_dumps.forbid()
assert os.stat("/proc/self/stat").st_uid == 0, "it is not dumpable"
assert families() == before >= {"process_open_fds", "process_max_fds", "process_resident_memory_bytes"}
assert "CapEff" in Path("/proc/self/status").read_text()
subprocess.run([sys.executable, "-c", "pass"], check=True)
print("reads")
"""
    assert run(script, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") == "reads"
