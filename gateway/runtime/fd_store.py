"""File descriptors that outlive the process: systemd's store (sd_pid_notify_with_fds(3)), without libsystemd.

    keep(name, fds) -> the manager holds copies -> the next process is started with them (sd_listen_fds_with_names(3))

FDPOLL=0: else the manager lets go of a TUN that goes down. Under no manager, or one that keeps nothing, all this does nothing, and
the next process finds nothing.
"""

from __future__ import annotations

import fcntl
import os
import socket
from array import array
from collections.abc import Mapping, MutableMapping, Sequence

from gateway.runtime.systemd import address

FIRST = 3  # SD_LISTEN_FDS_START
AT_ONCE = 200  # fewer than SCM_MAX_FD
PATIENCE = 1.0


class Inherited:
    """What the process before this one kept, by name. What nobody takes is closed by `close`."""

    def __init__(self, fds: Mapping[str, Sequence[int]] | None = None) -> None:
        self._fds = {name: list(some) for name, some in (fds or {}).items()}

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] | None = None) -> Inherited:
        """Takes the variables out of it: no child shall think that they are its own."""
        environment = os.environ if environment is None else environment
        pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
        names = environment.pop("LISTEN_FDNAMES", "").split(":")
        if pid != str(os.getpid()) or not count.isdecimal():
            return cls()
        found: dict[str, list[int]] = {}
        for number in range(int(count)):
            fd = FIRST + number
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            found.setdefault(names[number] if number < len(names) else "", []).append(fd)
        return cls(found)

    def take(self, name: str) -> list[int]:
        """They are the caller's from now on."""
        return self._fds.pop(name, [])

    @property
    def held(self) -> dict[str, list[int]]:
        """What nobody took so far."""
        return {name: list(fds) for name, fds in self._fds.items()}

    def close(self) -> list[str]:
        """The names of what nobody took."""
        left, self._fds = self._fds, {}
        for fds in left.values():
            for fd in fds:
                os.close(fd)
        return list(left)


class FdStore:
    """The manager's store for our unit. From any thread; waits for a manager that is busy."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = address(environment.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(PATIENCE)

    @property
    def exists(self) -> bool:
        return self._socket is not None

    def keep(self, name: str, fds: Sequence[int]) -> None:
        """Beside those of that name it has."""
        for first in range(0, len(fds), AT_ONCE):
            self._send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds[first : first + AT_ONCE])

    def drop(self, name: str) -> None:
        """All of that name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}", ())

    def _send(self, text: str, fds: Sequence[int]) -> None:
        if self._socket is None:
            return
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([text.encode()], rights, socket.MSG_NOSIGNAL, self._address)
        except OSError:
            return  # what is not kept begins anew after a restart; nothing else is lost
