"""An ExaBGP that cannot be watched for a moment runs all the same: nobody starts another one beside it."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.runtime import exabgp, left_running
from gateway.runtime.exabgp import ExabgpProcess
from gateway.runtime.left_running import Process, remember, start_time


def test_no_second_one_is_started_while_the_first_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, spawned, honest = [], [], os.pidfd_open

    def without_descriptors(pid: int, flags: int = 0) -> int:
        if len(refused) < 3:
            refused.append(pid)
            raise OSError(errno.EMFILE, "Too many open files")
        return honest(pid, flags)

    def spawn(self: ExabgpProcess) -> None:
        spawned.append(True)
        raise OSError(errno.ENOENT, "none")

    monkeypatch.setattr(left_running, "_is_exabgp", lambda pid: True)
    monkeypatch.setattr(exabgp, "BACKOFF", (0.01, 0.02))
    monkeypatch.setattr(ExabgpProcess, "_spawn", spawn)
    monkeypatch.setattr(os, "pidfd_open", without_descriptors)

    async def scene() -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(9)"]) as child:
            began = start_time(child.pid)
            assert began is not None
            remember(tmp_path, Process(child.pid, began))
            made = ExabgpProcess(tmp_path, on_lines=lambda lines: None, on_up=lambda link: None, on_down=lambda: None)
            assert await made.adopt()
            async with asyncio.timeout(10):
                while len(refused) < 3:
                    await asyncio.sleep(0.01)
                assert (made.pid, spawned) == (child.pid, [])
                child.kill()
                while not spawned:
                    await asyncio.sleep(0.01)
            await made.stop()

    asyncio.run(scene())
