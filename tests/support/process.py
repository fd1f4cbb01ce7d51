"""Real processes in network namespaces: started with a log of their own, waited for with a deadline, ended by pid.

Not a supervisor: nothing is restarted. A process dies with the test run that started it (PR_SET_PDEATHSIG through
setpriv), also when that run is killed. Nothing here sleeps for its own sake: `wait_until` polls a condition, and a
condition that never comes true fails with the log tails of everything concerned.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


class LabError(AssertionError):
    """Something of the laboratory did not happen; the message carries the log tails."""


class Process:
    """One child process; stdout and stderr go to `log`."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, *, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.argv = tuple(argv)
        self.log = log
        self.started_at = time.monotonic()
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *argv),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        return self._child.poll()

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def kill(self, number: int = signal.SIGKILL, timeout: float = 10.0) -> int:
        """Send one signal and wait for the end; returns the exit code."""
        if self.running:
            self._child.send_signal(number)
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end within {timeout} s of signal {number}\n{self.tail()}") from None

    def signal(self, number: int) -> None:
        if self.running:
            self._child.send_signal(number)

    def wait(self, timeout: float) -> int:
        """Wait for the process to end by itself."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} still runs after {timeout} s\n{self.tail()}") from None

    def stop(self, grace: float = 5.0) -> None:
        """SIGTERM, and SIGKILL for a process that does not listen."""
        if self.running:
            self._child.terminate()
            try:
                self._child.wait(grace)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait(grace)

    def tail(self, lines: int = 30) -> str:
        """The end of the log, with a heading."""
        return tail(self.log, lines, self.name)


def tail(log: Path, lines: int = 30, name: str = "") -> str:
    """The last lines of a log file, with a heading; works for a file that does not exist."""
    text = log.read_text(errors="replace") if log.exists() else "(no log)"
    body = "\n".join(text.splitlines()[-lines:])
    return f"--- {name or log.name}, last {lines} lines ---\n{body}\n"


def wait_until(
    condition: Callable[[], Value],
    seconds: float,
    what: str,
    *,
    interval: float = 0.02,
    logs: Iterable[Process | None] = (),
) -> Value:
    """Poll until `condition` gives something true and return it; fail with log tails after `seconds`."""
    deadline = time.monotonic() + seconds
    watched = [process for process in logs if process is not None]
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            tails = "".join(process.tail() for process in watched)
            raise LabError(f"not within {seconds:g} s: {what} (last value {value!r})\n{tails}")
        time.sleep(interval)


def holds_for(condition: Callable[[], bool], seconds: float, what: str, *, interval: float = 0.05) -> None:
    """Fail as soon as `condition` is false within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            raise LabError(f"did not hold for {seconds:g} s: {what}")
        time.sleep(interval)


def run(argv: Sequence[str], *, timeout: float = 20.0, check: bool = True, stdin: str | None = None) -> str:
    """Run a command to its end and return its stdout; stderr goes into the error."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, input=stdin, check=False)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def ended(pid: int) -> bool:
    """Also before its parent, which may take a second or two, has asked what became of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
