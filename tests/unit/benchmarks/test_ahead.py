"""What a benchmark starts goes ahead of other sessions, and nobody else does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.process import wait_until

from benchmarks.ahead import put_ahead

_GROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not _GROUPS.exists() or _GROUPS.read_text().strip() != "1",
    reason="needs root, and a kernel that groups processes by session",
)


def nice(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().rsplit(maxsplit=1)[1])


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sessions_that_descendants_began_are_put_ahead_and_no_others() -> None:
    def shell(text: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sh", "-c", text], start_new_session=True)

    ours, other = shell("setsid sleep 60 & wait"), shell("sleep 60 & wait")
    try:
        wait_until(
            lambda: [os.getsid(one) for one in children(ours.pid)] == children(ours.pid) != [], 10, "its session"
        )
        (child,) = children(ours.pid)
        put_ahead(ours.pid)
        assert nice(child) == -15
        assert nice(ours.pid) == nice(other.pid) == 0
    finally:
        for process in (ours, other):
            for one in children(process.pid):
                os.kill(one, 9)
            process.kill()
            process.wait()
