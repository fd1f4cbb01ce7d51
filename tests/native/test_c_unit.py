"""The C tests (native/tests/), built with AddressSanitizer and UndefinedBehaviorSanitizer, without, and with ThreadSanitizer;
the fuzz targets at length."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ADDRESSES = ["-Doptimization=1", "-Db_sanitize=address,undefined", "-Db_lundef=false"]
# The compiler warns that ThreadSanitizer does not see the fences of the quiescence; the atomics beside them it sees.
THREADS = ["-Db_sanitize=thread", "-Db_lundef=false", "-Dc_args=-Wno-tsan"]
BUILDS = {
    "sanitized": ADDRESSES,
    "plain": [],
    "libcrypto only": ["-Dipsecmb=disabled", *ADDRESSES],
}
SLOW = ("sanitized", "libcrypto only")
FUZZ_SECONDS = 3
"""For each of the targets."""


def meson(*arguments: str | Path, **environment: str) -> str:
    """Run meson and give what it printed."""
    around = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "UBSAN_OPTIONS": "halt_on_error=1", **environment}
    done = subprocess.run([BIN / "meson", *arguments], cwd=ROOT, env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passes(build: Path, *arguments: str, **environment: str) -> None:
    told = meson("test", "-C", build, "--print-errorlogs", *arguments, **environment)
    assert "Fail: 0" in " ".join(told.split())


@pytest.mark.parametrize(
    "options",
    [pytest.param(build, id=name, marks=pytest.mark.slow if name in SLOW else ()) for name, build in BUILDS.items()],
)
def test_c_unit_tests_pass(options: list[str], tmp_path: Path) -> None:
    meson("setup", tmp_path / "build", "-Dwerror=true", *options)
    passes(tmp_path / "build")


@pytest.mark.slow
def test_two_workers_race_for_nothing(tmp_path: Path) -> None:
    """All of them under ThreadSanitizer: most run workers beside the test's own thread; the one that is made for it again."""
    meson("setup", tmp_path / "build", "-Dwerror=true", *THREADS)
    passes(tmp_path / "build", TSAN_OPTIONS="halt_on_error=1")
    for _ in range(3):
        passes(tmp_path / "build", "test_race", "test_workers", TSAN_OPTIONS="halt_on_error=1")


@pytest.mark.slow
def test_fuzz_targets_hold_for_longer(tmp_path: Path) -> None:
    meson("setup", tmp_path / "build", "-Dwerror=true", *ADDRESSES)
    passes(tmp_path / "build", "--suite", "fuzz", FUZZ_SECONDS=str(FUZZ_SECONDS))


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")
def test_the_data_plane_in_namespaces_under_address_sanitizer(tmp_path: Path) -> None:
    """The module itself too. The interpreter is not instrumented and leaks by design, so leaks are not looked for."""
    build, package = tmp_path / "build", tmp_path / "package"
    meson("setup", build, *ADDRESSES)
    meson("compile", "-C", build)
    shutil.copytree(ROOT / "gateway", package / "gateway", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(build / "native" / "_native.abi3.so", package / "gateway")
    runtimes = [
        subprocess.run(
            ["cc", f"-print-file-name=lib{name}.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": ":".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1",
        "PYTHONPATH": str(package),
    }
    names = ("dataplane_inbound", "dataplane_outbound", "dataplane_control", "packet_trains_inbound",
             "packet_trains_outbound", "packet_trains_through", "safety_rules", "esp_by_scapy", "dataplane_packet_socket")  # fmt: skip
    done = subprocess.run(
        # Code that is several times slower than what is shipped says nothing of delays
        [BIN / "pytest", "-q", "-p", "no:cacheprovider", "-k", "not waits_for_the_gil"]
        + [f"tests/native/test_{name}.py" for name in names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
