"""Lines are where they belong when `put` returns, as long as that takes no waiting; else a thread brings them, in their order."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.runtime.line_writer import ATOMIC, LineWriter


def test_a_file_has_the_line_at_once(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as stream:
        writer = LineWriter(stream)
        assert writer.put("one\n")
        assert (tmp_path / "log").read_text() == "one\n"
        writer.close()


def test_a_pipe_with_room_has_it_at_once_and_what_is_longer_keeps_its_place() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(writing, "w") as stream, open(reading, "rb", buffering=0) as reader:
        writer = LineWriter(stream)
        writer.put("one\n")
        assert reader.read(100) == b"one\n"
        long = "x" * ATOMIC + "\n"
        writer.put(long)
        writer.put("last\n")
        assert writer.flush()
        assert reader.read(3 * ATOMIC) == f"{long}last\n".encode()
        writer.close()


def test_nobody_waits_for_a_full_pipe_and_nothing_is_lost_or_twice() -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as stream, open(reading) as reader:
        writer = LineWriter(stream)
        lines = [f"{number:04} {'x' * 500}\n" for number in range(400)]  # three times what a pipe has room for
        assert all(writer.put(line) for line in lines)
        assert not writer.flush(0.0)
        assert [reader.readline() for _ in lines] == lines
        writer.close()


def test_a_pipe_without_a_reader_stops_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        writer = LineWriter(stream)
        assert writer.put("one\n")
        assert writer.put("two\n")
        assert writer.flush()
        writer.close()
