"""gatewayd under a service manager: restarted, crashed and upgraded as systemd does it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from support.daemon import GatewayDaemon
from support.process import wait_until

_PROGRAM = Path(__file__).with_name("service_manager.py")


class Managed:
    """Started in place of the daemon; `daemon.stop()` stops the service."""

    def __init__(self, daemon: GatewayDaemon) -> None:
        self.daemon = daemon
        self.directory = daemon.machine.directory / "manager"
        self.directory.mkdir(exist_ok=True)

    def start(self) -> None:
        self.daemon.start(wrapper=self.wrapper)

    @property
    def wrapper(self) -> tuple[str, ...]:
        """The manager, as a command that runs the one appended to it."""
        return sys.executable, "-S", "-E", str(_PROGRAM), str(self.directory)

    @property
    def pid(self) -> int:
        """Of gatewayd itself."""
        return int((self.directory / "pid").read_text())

    def events(self) -> list[str]:
        """What the manager did and was told, without the times."""
        return [line.partition(" ")[2] for line in (self.directory / "events").read_text().splitlines()]

    def restart(self) -> None:
        """`systemctl restart`: until the next process answers."""
        before = self.pid
        self.ask_for_restart()
        self._wait_for_another(before)

    def ask_for_restart(self) -> None:
        assert self.daemon.process is not None
        os.kill(self.daemon.process.pid, signal.SIGHUP)

    def crash(self) -> None:
        """kill -9, and the manager starts it again."""
        before = self.pid
        os.kill(before, signal.SIGKILL)
        self._wait_for_another(before)

    def upgrade(self, program: Path | None = None) -> tuple[bool, str]:
        """gatewayctl upgrade."""
        chosen = () if program is None else ("--program", str(program))
        done = self.daemon.ctl("upgrade", *chosen, check=False, timeout=120)
        return done.returncode == 0, done.stdout + done.stderr.removeprefix("gatewayctl: ")

    def _wait_for_another(self, before: int) -> None:
        logs = [self.daemon.process]
        wait_until(lambda: self.pid != before, 15, "another process", logs=logs)
        wait_until(lambda: self.daemon.status() is not None, 15, "it answers", logs=logs)
