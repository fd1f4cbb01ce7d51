"""Coverage-guided fuzzing of one target, by atheris: `PYTHONPATH=tests python -m fuzz.guided TARGET [CORPUS] [libFuzzer options]`.

Runs as a process of its own, since libFuzzer ends it. A defect is told with the input that shows it; kept in
tests/fuzz/corpus/TARGET/, test_fuzz.py tries it again in every run.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway"]):
    from fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    target = TARGETS[arguments[1]]
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(target.seeds()):
            Path(folder, f"seed-{number}").write_bytes(seed)

        def alter(data: bytes, size: int, seed: int) -> bytes:
            """libFuzzer's own changes, and those that keep the framing."""
            changed = atheris.Mutate(data, size) if seed % 2 else target.mutate(data, random.Random(seed))
            return changed[:size]

        # An instrumented run is no measure of time; libFuzzer's own limit catches what does not end
        options = ["-timeout=20", "-rss_limit_mb=2048", f"-artifact_prefix={folder}/", "-max_len=65000"]
        atheris.Setup(
            [arguments[0], *options, *arguments[2:], folder], lambda data: told(target.feed, data), custom_mutator=alter
        )
        atheris.Fuzz()


def told(feed: object, data: bytes) -> None:
    try:
        feed(data)  # type: ignore[operator]
    except Exception:
        print(f"defect by {data.hex()}", flush=True)
        raise


if __name__ == "__main__":
    main(sys.argv)
