"""The C unit tests (native/tests/test_*.c), built with AddressSanitizer and UndefinedBehaviorSanitizer, and without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
BUILDS = {
    "sanitized": ["-Db_sanitize=address,undefined", "-Db_lundef=false"],
    "plain": [],
    "libcrypto only": ["-Dipsecmb=disabled", "-Db_sanitize=address,undefined", "-Db_lundef=false"],
}


@pytest.mark.parametrize("options", BUILDS.values(), ids=BUILDS.keys())
def test_c_unit_tests_pass(options: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "UBSAN_OPTIONS": "halt_on_error=1"}
    build = tmp_path / "build"
    subprocess.run(
        [BIN / "meson", "setup", build, "-Dwerror=true", *options],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [BIN / "meson", "test", "-C", build, "--print-errorlogs"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Fail:              0" in done.stdout or "Fail: 0" in " ".join(done.stdout.split())
