"""The last grants on disk: whole or named, never guessed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ha.witness_node import Record
from gateway.runtime.faults import Unavailable
from gateway.runtime.witness_records import Records, StateError, Stored

STORED = Stored(Record(5, bytes(range(16)), "gw-a"), 10.0)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    found = Records(tmp_path / "state")
    found.open()
    return found


def test_what_is_written_is_read_by_the_next_process(records: Records):
    assert records.read(7) is None
    records.write(7, STORED)
    records.close()
    after = Records(records.directory)
    after.open()
    assert (after.read(7), after.read(8)) == (STORED, None)
    assert records.directory.stat().st_mode & 0o777 == 0o700
    assert records.path(7).stat().st_mode & 0o777 == 0o600
    after.close()


@given(
    st.builds(
        Stored,
        st.builds(
            Record,
            st.integers(0, 2**64 - 1),
            st.binary(min_size=16, max_size=16),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32),
        ),
        st.sampled_from([0.1, 0.25, 6.0, 60.0]),
    )
)
def test_any_record_comes_back(tmp_path_factory: pytest.TempPathFactory, stored: Stored):
    records = Records(tmp_path_factory.mktemp("state"))
    records.write(1, stored)
    assert records.read(1) == stored


def test_every_cut_and_every_changed_bit_is_named(records: Records):
    records.write(7, STORED)
    path = records.path(7)
    whole = path.read_bytes()
    cuts = [whole[:length] for length in range(len(whole))]
    flips = [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)
    ]
    for damaged in [*cuts, *flips, b"[" * 100_000, b"null", b"[]", b"9" * 5000]:
        path.write_bytes(damaged)
        assert believed(records) is None, damaged


def believed(records: Records) -> Stored | None:
    try:
        return records.read(7)
    except StateError:
        return None


def test_a_record_of_another_cluster_is_not_taken(records: Records):
    records.write(7, STORED)
    records.path(7).rename(records.path(8))
    with pytest.raises(StateError, match=r"cluster-8\.json cannot be read \(damaged\)"):
        records.read(8)


def test_a_record_that_is_there_and_cannot_be_opened_is_not_an_absent_one(records: Records):
    records.path(7).mkdir()
    with pytest.raises(StateError, match="Is a directory"):
        records.read(7)


def test_a_write_that_fails_leaves_what_was(records: Records):
    records.write(7, STORED)
    (records.directory / "cluster-7.json.new").mkdir()
    with pytest.raises(IsADirectoryError):
        records.write(7, Stored(Record(6, bytes(16), "gw-b"), 10.0))
    assert records.read(7) == STORED


def test_one_process_at_a_time(records: Records):
    with pytest.raises(StateError, match="another witness uses"):
        Records(records.directory).open()
    records.close()
    again = Records(records.directory)
    again.open()
    again.close()


def test_a_directory_that_cannot_be_had_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match=f"state directory {tmp_path}/file/state: {os.strerror(20)}"):
        Records(tmp_path / "file" / "state").open()
