"""The fuzz targets (native/tests/fuzz_*.c) under libFuzzer: coverage finds what the fixed mutator of `meson test` does not.

    native/tests/seeds/NAME.txt     inputs that were kept, in hexadecimal: what libFuzzer found to reach new code, and
                                    whatever failed once. `meson test` runs them all, with and without sanitizers.

`FUZZ_SECONDS=n` for longer than a few seconds each; `FUZZ_KEEP=1` adds what was found to the kept ones. clang is needed
for this alone, so that a machine without it skips.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
SEEDS = NATIVE / "tests" / "seeds"
WRAPS = {
    "fuzz_replay": (),
    "fuzz_segment": (),
    "fuzz_coalesce": (),
    "fuzz_inbound": ("ioctl", "writev"),
    "fuzz_outbound": ("ioctl", "writev", "udp_send_runs"),
}
"""Targets, and the functions that each replaces."""
INCLUDED = {"fuzz_inbound": "inbound.c", "fuzz_outbound": "outbound.c"}
"""What a target takes in as a whole, to reach its insides."""
NOT_PLANE = {"module.c", "arguments.c", "rows.c", "probe_py.c"}  # Python's side
SECONDS = int(os.environ.get("FUZZ_SECONDS", "5"))
LONGEST = 2500


@pytest.mark.slow
@pytest.mark.parametrize("target", WRAPS)
def test_libfuzzer_finds_nothing(target: str, tmp_path: Path) -> None:
    fuzzer, corpus, found = compiled(target, tmp_path), tmp_path / "kept", tmp_path / "found"
    unpack(target, corpus)
    found.mkdir()
    run(fuzzer, f"-max_total_time={SECONDS}", f"-max_len={LONGEST}", "-timeout=10", f"-artifact_prefix={tmp_path}/",
        found, corpus)  # fmt: skip
    if os.environ.get("FUZZ_KEEP"):
        keep(target, fuzzer, tmp_path, [found, corpus])


@pytest.mark.parametrize("target", WRAPS)
def test_inputs_are_kept_for_every_target(target: str) -> None:
    kept = [bytes.fromhex(line) for line in (SEEDS / f"{target}.txt").read_text().splitlines()]
    assert len(kept) == len(set(kept)) > 10
    assert max(map(len, kept)) <= LONGEST


def compiled(target: str, directory: Path) -> Path:
    """The target and the data plane with AddressSanitizer, UndefinedBehaviorSanitizer and libFuzzer's coverage."""
    left_out = NOT_PLANE | {INCLUDED.get(target, "")}
    sources = [path for path in sorted(NATIVE.glob("*.c")) if path.name not in left_out]
    multibuffer = Path("/usr/include/intel-ipsec-mb.h").exists()
    flags = ["-std=gnu11", "-g", "-O1", "-D_GNU_SOURCE", "-DLIBFUZZER", f"-I{NATIVE}", "-Wno-unused-function"]
    flags += ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    flags += ["-DHAVE_IPSECMB"] if multibuffer else []
    libraries = ["-lcrypto", "-lpthread", *(f"-Wl,--wrap={name}" for name in WRAPS[target])]
    libraries += ["-lIPSec_MB"] if multibuffer else []
    output = directory / target
    run("clang", *flags, NATIVE / "tests" / f"{target}.c", *sources, "-o", output, *libraries)
    return output


def unpack(target: str, directory: Path) -> None:
    """The kept inputs as libFuzzer takes them: a file each."""
    directory.mkdir()
    for number, line in enumerate((SEEDS / f"{target}.txt").read_text().splitlines()):
        (directory / str(number)).write_bytes(bytes.fromhex(line))


def keep(target: str, fuzzer: Path, directory: Path, corpora: list[Path]) -> None:
    """The smallest set that reaches all that all of them reach."""
    merged = directory / "merged"
    merged.mkdir()
    run(fuzzer, "-merge=1", "-use_counters=0", f"-max_len={LONGEST}", merged, *corpora)
    lines = sorted({path.read_bytes().hex() for path in merged.iterdir() if path.stat().st_size > 0})
    (SEEDS / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines))


def run(*command: str | Path) -> None:
    # libipsec-mb's managers live as long as the process
    around = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(command, capture_output=True, text=True, env=around, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
