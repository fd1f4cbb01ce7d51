"""The secret of quick crash detection: made once, for us alone, and never a bad one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.runtime.crash_secret import NAME, OCTETS, crash_secret


def test_it_is_made_once_and_stays(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    first = crash_secret(directory)
    assert len(first) == OCTETS
    assert crash_secret(directory) == first
    assert os.listdir(directory) == [NAME]
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_every_gateway_has_its_own(tmp_path: Path) -> None:
    assert crash_secret(tmp_path / "a") != crash_secret(tmp_path / "b")


@pytest.mark.parametrize("octets", [0, 31])
def test_one_that_was_not_written_to_its_end_is_made_anew(tmp_path: Path, octets: int) -> None:
    (tmp_path / NAME).touch(0o600)
    (tmp_path / NAME).write_bytes(bytes(octets))
    (tmp_path / NAME).with_suffix(".new").write_bytes(b"x")
    made = crash_secret(tmp_path)
    assert len(made) == OCTETS
    assert made != bytes(OCTETS)
    assert crash_secret(tmp_path) == made
    assert os.listdir(tmp_path) == [NAME]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_one_that_others_may_read_is_refused_and_kept(tmp_path: Path, mode: int) -> None:
    (tmp_path / NAME).write_bytes(bytes(OCTETS))
    (tmp_path / NAME).chmod(mode)
    with pytest.raises(OSError, match=r"no quick crash detection: .*only we can read") as caught:
        crash_secret(tmp_path)
    assert str(tmp_path / NAME) in str(caught.value.strerror)
    assert (tmp_path / NAME).read_bytes() == bytes(OCTETS)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(OCTETS))
    (tmp_path / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="no quick crash detection"):
        crash_secret(tmp_path)


def test_no_directory_to_be_had(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(OSError, match="no quick crash detection"):
        crash_secret(tmp_path / "state")
