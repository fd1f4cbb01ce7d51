"""The daemon that this process takes over from, seen from here: `gatewayd --take-over FD`, which only a daemon says
(`successor.py` is the other end).

Loads next to nothing: what goes wrong while the rest is loaded is to be told.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from gateway import __version__
from gateway.runtime.handing import PROTOCOL, hear, say

LONGEST_REASON = 4000


class NotTakenOver(Exception):
    """The daemon goes on, or is gone: nothing was touched."""


class Predecessor:
    """`fd`: our end of the socketpair."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.set_inheritable(False)
        self._errors = -1  # where it writes its log
        self.pid = os.getppid()

    def forsake(self) -> None:
        """From now on this is no child of the daemon's but of the service manager, which hears of its end only so.
        Before there are threads."""
        if os.fork():
            os._exit(0)
        say(self._socket, "hello", pid=os.getpid(), protocol=PROTOCOL)
        answer = hear(self._socket)
        if answer is not None and answer.kind == "welcome" and answer.fds:
            self._errors = answer.fds[0]

    def refuse(self, text: str) -> None:
        """Something stands in the way of taking over."""
        say(self._socket, "refused", text=text[:LONGEST_REASON])

    def share_log(self) -> None:
        """What is said from now on goes where the daemon's words go, which has heard ours so far."""
        if self._errors >= 0:
            os.dup2(self._errors, 2)
            os.close(self._errors)
            self._errors = -1

    def succeed(self, reads: tuple[str, ...]) -> dict[str, list[int]]:
        """Says that all is loaded and checked, and waits until it has halted: what it held, by name. `reads`: the formats of
        kept state that are known here. NotTakenOver when it goes on without us, or is gone."""
        held: dict[str, list[int]] = {}
        with suppress(OSError):
            say(self._socket, "ready", release=__version__, reads=reads)
        while (message := hear(self._socket)) is not None:
            if message.kind == "go":
                return held
            for name, fd in zip(message.texts("names"), message.fds, strict=True):
                held.setdefault(name, []).append(fd)
        raise NotTakenOver("the daemon goes on without this process, or is gone")

    def serving(self) -> None:
        """It may go."""
        with suppress(OSError):  # gone already, which is no matter any more
            say(self._socket, "serving")
        self._socket.close()
