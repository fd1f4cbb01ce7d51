"""The guard on disk: what is written is read, and what cannot be read is named."""

from __future__ import annotations

import stat
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.node.effects import SaveGuard
from gateway.routing.guard import guard
from gateway.runtime.saved_guard import NAME, read, write

LEARNED = (ip_network("10.9.0.0/16"), ip_network("2001:db8::/32"))
SAVE = SaveGuard(guard(LEARNED, [ip_network("10.9.1.0/24")]).routes, LEARNED)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    write(directory, SAVE)
    saved = read(directory)
    assert (set(saved.entries), saved.learned, saved.problem) == (set(SAVE.entries), LEARNED, "")
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600
    write(directory, SaveGuard((), ()))
    assert read(directory).entries == ()
    assert [path.name for path in directory.iterdir()] == [NAME]


def test_nothing_written_is_nothing_wrong(tmp_path: Path) -> None:
    assert read(tmp_path).problem == ""


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"throws": [], "blackholes": ["x"], "learned": []}', "\xff"])
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    assert str(tmp_path / NAME) in read(tmp_path).problem


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SAVE)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, SaveGuard((), ()))
    assert read(tmp_path).learned == LEARNED
