"""The guard on disk: what is written is read, and what cannot be read is named."""

from __future__ import annotations

import os
import stat
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.node.effects import SaveGuard, TableGuard
from gateway.node.instances import InstanceSettings
from gateway.routing.guard import guard
from gateway.runtime.saved_guard import NAME, read, write

LEARNED = (ip_network("10.9.0.0/16"), ip_network("2001:db8::/32"))
GUARD = guard(LEARNED, [ip_network("10.9.1.0/24")]).routes
BLUE = InstanceSettings("blue", 301, ("eth1",), (ip_network("10.1.0.0/16"),), (ip_network("10.1.0.0/16"),))
SAVE = SaveGuard((TableGuard(GUARD, LEARNED), TableGuard(GUARD[:2], LEARNED[:1], BLUE)))
EMPTY = SaveGuard((TableGuard(),))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    write(directory, SAVE)
    saved = read(directory)
    assert (saved.tables, saved.problem) == (SAVE.tables, "")
    assert saved.learned == {"": LEARNED, "blue": LEARNED[:1]}
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600
    write(directory, EMPTY)
    assert read(directory).tables == EMPTY.tables
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
        write(tmp_path, EMPTY)
    assert read(tmp_path).learned[""] == LEARNED


def test_it_is_on_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose directory is not synchronised may be the old one after a power failure."""
    synchronised: list[bool] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synchronised.append(stat.S_ISDIR(found.st_mode) and found.st_ino == tmp_path.stat().st_ino)
        assert not synchronised[-1] or read(tmp_path).learned[""] == LEARNED, "after it is in its place"
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", noted)
    write(tmp_path, SAVE)
    assert synchronised == [False, True]
