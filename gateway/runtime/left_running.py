"""A process that outlives who started it: how it is found again, for certain, and ended.

Written beside its socket as JSON; a number alone proves nothing, because numbers are used again, so the start time is
part of it. Nothing here knows what the process does.
"""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PIDFILE = "exabgp.json"
STOP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is certainly the one we mean."""

    pid: int
    start_time: int

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.start_time and _is_exabgp(self.pid)

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def remember(directory: Path, process: Process) -> None:
    content = {"pid": process.pid, "start_time": process.start_time}
    write_private(directory / PIDFILE, json.dumps(content).encode())


def recall(directory: Path) -> Process | None:
    """The one that was remembered, if it lives."""
    try:
        value = json.loads((directory / PIDFILE).read_bytes())
        found = Process(int(value["pid"]), int(value["start_time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.alive else None


def end_stale(directory: Path) -> bool:
    """End the ExaBGP that was left in `directory`; True if there was one. Blocks for some seconds at most."""
    found = recall(directory)
    if found is not None:
        _end(found)
    for name in (PIDFILE, "exabgp.conf.new"):
        (directory / name).unlink(missing_ok=True)
    return found is not None


def start_time(pid: int) -> int | None:
    """proc(5): field 22 of stat; the name in field 2 may hold anything, so count from its end."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` as a whole, mode 0600 from its first moment."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _end(process: Process) -> None:
    """SIGTERM, and SIGKILL for one that does not listen. The pidfd keeps the number from meaning another process."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not process.alive:
                return
            signal.pidfd_send_signal(descriptor, number)
            if _gone_within(descriptor, STOP_TIMEOUT):
                return
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _gone_within(descriptor: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _is_exabgp(pid: int) -> bool:
    try:
        return b"exabgp" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
