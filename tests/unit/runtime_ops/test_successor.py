"""A new process that gets ready to take over: real processes, which play the part of a program of another release."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from gateway.runtime import successor
from gateway.runtime.successor import NotReady, Successor, command_of

ROOT = Path(__file__).parents[3]
BEGINS = """#!{python}
import os, sys, time
sys.path.insert(0, {root!r})
from gateway.runtime.predecessor import NotTakenOver, Predecessor
assert sys.argv[1] == "--take-over" and sys.argv[3:] == ["--config", "file"]
assert "WATCHDOG_PID" not in os.environ and "LISTEN_FDS" not in os.environ
one = Predecessor(int(sys.argv[2]))
one.forsake()
open({pid!r}, "w").write(str(os.getpid()))
"""
WORKS = """
one.share_log()
try:
    held = one.succeed(("7/x",))
except NotTakenOver:
    open({pid!r}, "w").write("not taken over")
    sys.exit(1)
os.write(held["pipe"][0], b"taken over")
one.serving()
"""


class Program:
    """Written to a file as a program; `pid`: what it wrote there."""

    def __init__(self, directory: Path, text: str) -> None:
        self.path = directory / "gatewayd"
        self.noted = directory / "pid"
        self.path.write_text((BEGINS + text).format(python=sys.executable, root=str(ROOT), pid=str(self.noted)))
        self.path.chmod(0o755)

    async def started(self) -> Successor:
        return await Successor.started((str(self.path), "--config", "file"), "7/x")

    def over(self) -> bool:
        """Whether the process that took over, or was to, has ended."""
        deadline = time.monotonic() + 5
        pid = int(self.noted.read_text())
        while time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not _lives(pid):
                return True
            time.sleep(0.01)
        return False


def _lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await scenario()

    uvloop.run(bounded())


def test_what_is_held_goes_to_the_one_that_is_ready_and_is_no_child_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "3")
    program = Program(tmp_path, WORKS)
    reading, writing = os.pipe()

    async def scenario() -> None:
        one = await program.started()
        assert one.alive
        assert one.pid == int(program.noted.read_text())
        with pytest.raises(ChildProcessError):
            os.waitpid(one.pid, os.WNOHANG)
        one.take({"pipe": [writing]})
        await one.serves()
        assert os.read(reading, 100) == b"taken over"

    run(scenario)
    os.close(reading)
    os.close(writing)


def test_one_that_is_not_needed_any_more_ends(tmp_path: Path) -> None:
    program = Program(tmp_path, WORKS)

    async def scenario() -> None:
        (await program.started()).end()

    run(scenario)
    assert program.over()


def test_one_that_ended_after_it_was_ready_is_not_alive(tmp_path: Path) -> None:
    program = Program(tmp_path, WORKS)

    async def scenario() -> None:
        one = await program.started()
        os.kill(one.pid, signal.SIGSTOP)
        one._socket.send(b"not read")  # so its end is told as an error
        os.kill(one.pid, signal.SIGKILL)
        assert program.over()
        assert not one.alive
        one.end()

    run(scenario)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise SystemExit('nothing\\nthe cause')", "it ended before it was ready: the cause"),
        ("one.refuse('no\\n right')\ntime.sleep(60)", "^no right$"),
        ("one.share_log(); one.succeed(('6/w', '8/y'))", r"\(7/x; it reads 6/w, 8/y\)"),
        ("from gateway.runtime.handing import say; say(one._socket, 'serving')", "it says 'serving' where 'ready' is due"),
        ("one._socket.send(b'nonsense'); time.sleep(60)", "it says what nobody understands"),
        ("one.refuse('x' * 1_000_000)", "^x{4000}$"),
        ("os.kill(os.getpid(), 9)", "it ended before it was ready$"),
        ("time.sleep(60)", "it is not ready after 0.5 s"),
    ],
)  # fmt: skip
def test_one_that_is_not_fit_says_why_and_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cause: str
) -> None:
    monkeypatch.setattr(successor, "READY_PATIENCE", 0.5 if "0.5 s" in cause else 20.0)
    program = Program(tmp_path, "\n" + text + "\n")

    async def scenario() -> None:
        with pytest.raises(NotReady, match=cause):
            await program.started()

    run(scenario)
    assert program.over()


def test_one_that_does_not_come_to_forward_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(successor, "SERVING_PATIENCE", 0.3)
    program = Program(tmp_path, WORKS.replace("one.serving()", "time.sleep(60)"))

    async def scenario() -> None:
        one = await program.started()
        one.take({"pipe": [2]})
        with pytest.raises(NotReady, match=r"does not forward after 0\.3 s"):
            await one.serves()

    run(scenario)
    assert program.over()


def test_a_program_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(NotReady, match="nowhere cannot be started: No such file or directory"):
            await Successor.started((str(tmp_path / "nowhere"),), "7/x")

    before = len(os.listdir("/proc/self/fd"))
    run(scenario)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_program_is_what_runs_now_with_the_same_options_however_often() -> None:
    assert command_of("", [sys.executable, "--config", "f"]) == (sys.executable, "--config", "f")
    assert command_of("", [sys.executable, "--take-over", "7", "--config", "f"]) == (sys.executable, "--config", "f")
    assert command_of("/opt/gatewayd", [sys.executable, "--take-over", "7"]) == ("/opt/gatewayd",)
    assert command_of("", [__file__, "--config", "f"])[1:] == ("-P", "-m", "gateway.runtime.main", "--config", "f")
