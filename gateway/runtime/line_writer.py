"""Lines for a stream that may stand still (a pipe nobody reads, a stopped terminal): a thread waits for it, and nobody else.

put --> a file, or a pipe with room for it: written at once, so that who dies in the next instant has said why
    --> else: the lines that wait, MOST characters at most --> thread --> stream

O_NONBLOCK is no way: it is of the open file, which others share (our parent's terminal, our children's stderr).
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

MOST = 1 << 20
"""Characters that wait: some thousand records, or a start of a thousand tunnels."""
ATOMIC = select.PIPE_BUF
"""Octets that go into a pipe at once, or not at all (pipe(7)): with room for any there is room for so many."""
PATIENCE = 1.0
"""Seconds for which a flush waits for a stream that takes nothing."""


class LineWriter:
    """`close` ends the thread when all is written; the stream stays open."""

    def __init__(self, stream: TextIO, most: int = MOST) -> None:
        self._stream, self._most = stream, most
        self._fd = _descriptor(stream)
        self._has_room = _room(self._fd)
        self._lines: list[str] = []
        self._size = 0
        self._writing = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Whether it will be written; False: too much waits already."""
        with self._changed:
            if self._size + len(line) > self._most or self._closed:
                return False
            if not self._lines and not self._writing and self._written_at_once(line):
                return True
            self._lines.append(line)
            self._size += len(line)
            self._changed.notify_all()
            return True

    def flush(self, patience: float = PATIENCE) -> bool:
        """Until the stream has all of it, but not for longer than `patience` seconds; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, patience)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while lines := self._taken():
            # The reader is gone, or the stream is closed: there is nowhere to say so
            with suppress(OSError, ValueError):
                self._write("".join(lines))
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _write(self, text: str) -> None:
        """To the descriptor: where the interpreter ends while a thread is in the stream's own buffer, it aborts."""
        if self._fd < 0:
            self._stream.write(text)
            return
        octets = memoryview(_octets(text))
        while octets:
            try:
                octets = octets[os.write(self._fd, octets) :]
            except BlockingIOError:
                # Somebody who shares it made it so
                writable = select.poll()
                writable.register(self._fd, select.POLLOUT)
                writable.poll()

    def _written_at_once(self, line: str) -> bool:
        """What does not go that way, for whatever reason, is the thread's."""
        octets = _octets(line)
        if len(octets) > ATOMIC or not self._has_room():
            return False
        with suppress(OSError):
            return os.write(self._fd, octets) == len(octets)
        return False

    def _taken(self) -> list[str]:
        """All that wait, as soon as there are any; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            lines, self._lines, self._size = self._lines, [], 0
            self._writing = bool(lines)
            return lines


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _room(fd: int) -> Callable[[], bool]:
    """Whether a line can be written now without waiting; of terminals and sockets poll(2) does not say for how much."""
    mode = os.fstat(fd).st_mode if fd >= 0 else 0
    if stat.S_ISREG(mode):
        return lambda: True
    if not stat.S_ISFIFO(mode):
        return lambda: False
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    return lambda: writable.poll(0) == [(fd, select.POLLOUT)]


def _descriptor(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return -1  # one in memory
