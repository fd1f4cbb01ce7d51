"""As much of systemd as one gatewayd sees of it, where PID 1 is another: started by tests in place of gatewayd.

    python service_manager.py DIRECTORY COMMAND...

Type=notify with a file descriptor store, Restart=on-failure, ExecStopPost=COMMAND --cleanup. SIGHUP is `systemctl restart`, SIGTERM `stop`. In
DIRECTORY: the notify socket, a `systemctl` that answers list-jobs, `pid` (of the main process), `events` (what happened, a line
each). Standard library only: it runs with the tests' interpreter and nothing else.
"""

from __future__ import annotations

import array
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

UNIT = "gatewayd.service"
EX_CONFIG = 78  # RestartPreventExitStatus=
FIRST = 3
RESTART_SEC = 0.1  # of the unit
STOP_TIMEOUT = 30.0
WATCHDOG_USEC = "20000000"  # only looked at, whoever does it
_PR_SET_CHILD_SUBREAPER = 36


class Manager:
    """One service."""

    def __init__(self, directory: Path, command: list[str]) -> None:
        self.directory, self.command = directory, command
        self.store: dict[str, list[int]] = {}
        self.child: subprocess.Popen[bytes] | None = None
        self.main = self.fed_by = 0
        self.wanted: list[int] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        (directory / "notify").unlink(missing_ok=True)
        self.socket.bind(str(directory / "notify"))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        program = directory / "systemctl"
        program.write_text(f"#!/bin/sh\ncat {directory}/jobs 2>/dev/null\n")
        program.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{directory}:{os.environ['PATH']}",
            "GATEWAYD_UNIT": UNIT,
            "NOTIFY_SOCKET": str(directory / "notify"),
        }

    def log(self, text: str) -> None:
        with (self.directory / "events").open("a") as file:
            file.write(f"{time.monotonic():.3f} {text}\n")

    def run(self) -> int:
        for number in (signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self.wanted.append(number))
        # As PID 1: who takes over from the main process is this one's child
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.start()
        while True:
            self.take(0.02)
            self.reap()
            if signal.SIGTERM in self.wanted:
                return self.stop()
            if signal.SIGHUP in self.wanted:
                self.wanted.clear()
                (self.directory / "jobs").write_text(f"1 {UNIT} restart running\n")
                self.stop()
                self.start()
                (self.directory / "jobs").unlink()
            elif not self.alive():
                if self.ended() == EX_CONFIG:
                    return EX_CONFIG
                time.sleep(RESTART_SEC)
                self.start()

    def start(self) -> None:
        fds = [(name, fd) for name, some in self.store.items() for fd in some]
        # Above the numbers they shall have, so that none is overwritten before its turn
        spare = [os.dup2(fd, 1000 + number) for number, (_, fd) in enumerate(fds)]
        names, count = ":".join(name for name, _ in fds), len(fds)

        def become() -> None:
            for number in range(count):
                os.dup2(1000 + number, FIRST + number)
            if count:
                os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
            os.environ.update(self.environment, WATCHDOG_USEC=WATCHDOG_USEC, WATCHDOG_PID=str(os.getpid()))

        pid = os.fork()
        if pid == 0:
            try:
                become()
                os.closerange(FIRST + count, 65536)
                os.execvpe(self.command[0], self.command, dict(os.environ))
            finally:
                os._exit(127)
        for fd in spare:
            os.close(fd)
        self.main = pid
        self.show_main()
        self.log(f"started {pid} with {count} fds")

    def show_main(self) -> None:
        (self.directory / "pid.new").write_text(str(self.main))
        (self.directory / "pid.new").replace(self.directory / "pid")

    def alive(self) -> bool:
        """Of the main process."""
        pid, self.status = os.waitpid(self.main, os.WNOHANG)
        return pid == 0

    def reap(self) -> None:
        """Those that are not the main process, or no longer; what they say of themselves was read before."""
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid != self.main:
            os.waitpid(found.si_pid, 0)
            self.log(f"reaped {found.si_pid}")

    def stop(self) -> int:
        self.log("stop")
        os.kill(self.main, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        while self.alive():
            self.take(0.01)
            if time.monotonic() > deadline:
                os.kill(self.main, signal.SIGKILL)
        return self.ended()

    def ended(self) -> int:
        self.take(0)
        code = os.waitstatus_to_exitcode(self.status)
        result = "success" if code == 0 else "signal" if code < 0 else "exit-code"
        self.log(f"ended {code}")
        told = {"SERVICE_RESULT": result, "EXIT_STATUS": str(code)}
        subprocess.run([*self.command, "--cleanup"], env={**self.environment, **told}, check=False)
        return code

    def take(self, seconds: float) -> None:
        """What the service says, until nothing comes for so long."""
        while select.select([self.socket], [], [], seconds)[0]:
            data, told, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(253 * 4) + socket.CMSG_SPACE(12))
            fds, sender = array.array("i"), 0
            for _, kind, content in told:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(content)
                else:
                    sender = struct.unpack("3i", content)[0]
            words = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            self.notified(sender, words, fds)
            seconds = 0

    def notified(self, sender: int, words: dict[str, str], fds: array.array[int]) -> None:
        """NotifyAccess=main."""
        if sender != self.main:
            self.log(f"refused {sender} {' '.join(words)}")
            for fd in fds:
                os.close(fd)
            return
        name = words.get("FDNAME", "stored")
        if "FDSTORE" in words:
            self.store.setdefault(name, []).extend(fds)
            self.log(f"stored {len(fds)} {name}")
        elif "FDSTOREREMOVE" in words:
            for fd in self.store.pop(name, []):
                os.close(fd)
            self.log(f"removed {name}")
        elif "MAINPID" in words:
            self.main = int(words["MAINPID"])
            # Of another's child systemd would not hear that it ended
            self.log(f"main process {self.main} {'' if self.is_ours(self.main) else 'is not our child'}".rstrip())
            self.show_main()
        elif "WATCHDOG" in words and self.fed_by != sender:
            self.fed_by = sender
            self.log(f"watchdog fed by {sender}")

    def is_ours(self, pid: int) -> bool:
        try:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False


if __name__ == "__main__":
    sys.exit(Manager(Path(sys.argv[1]), sys.argv[2:]).run())
