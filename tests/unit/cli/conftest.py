"""A control server with samples behind it, and gatewayctl called as a function."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.control_fixture import Run, SampleOperations, served
from support.snapshots import TROUBLED

from gateway.cli.main import main


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SampleOperations]:
    monkeypatch.setenv("GATEWAYCTL_SOCKET", str(tmp_path / "control.sock"))
    monkeypatch.setenv("COLUMNS", "60")  # a narrow terminal must not cut what is piped
    with served(SampleOperations(TROUBLED), tmp_path / "control.sock") as operations:
        yield operations


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
