"""A process of the installed program that gets ready to take over from this daemon: `gatewayctl upgrade`.

It loads everything first (`predecessor.py` is its end), so what is wrong with it is known while this one forwards. It is a child of the
service manager, not of ours: else the manager would not hear of its end, once it is the main process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gateway.runtime import handing
from gateway.runtime.handing import Message, hear, say

READY_PATIENCE = 60.0
"""Seconds for it to load a program, a large configuration, and its secrets."""
SERVING_PATIENCE = 30.0
"""Seconds for it to take up a thousand tunnels on a machine that is busy."""
SENDING_PATIENCE = 5.0
OPTION = "--take-over"
_LAST_WORDS = 1 << 16
_NOT_INHERITED = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")


class NotReady(Exception):
    """It cannot take over; str() is the sentence why."""


class Successor:
    """From its start until it serves. `release`: of its program."""

    def __init__(self, process: subprocess.Popen[bytes], ours: socket.socket, errors: int) -> None:
        self._process = process
        self._socket = ours
        self._errors = errors
        self.pid = 0
        self.release = ""

    @classmethod
    async def started(cls, command: Sequence[str], reads: str) -> Successor:
        """Ready to take over what is kept in the format `reads`. NotReady: nothing is left of it."""
        ours, theirs = handing.pair()
        ours.setblocking(False)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        try:
            argv = [command[0], OPTION, str(theirs.fileno()), *command[1:]]
            # Not in a thread: who gives up meanwhile would close what it is about to hand over
            process = _start(argv, theirs.fileno(), writing)
        except OSError as error:
            ours.close()
            os.close(reading)
            raise NotReady(f"{command[0]} cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(writing)
        found = cls(process, ours, reading)
        try:
            await found._ready(reads)
        except BaseException:
            found.end()
            raise
        return found

    async def _ready(self, reads: str) -> None:
        try:
            async with asyncio.timeout(READY_PATIENCE):
                hello = await self._next("hello")
                self.pid = hello.number("pid")
                if hello.number("protocol") != handing.PROTOCOL:
                    raise NotReady("it is of a release that takes over in another way: systemctl restart gatewayd")
                say(self._socket, "welcome", [2])
                ready = await self._next("ready")
        except TimeoutError:
            raise NotReady(f"it is not ready after {READY_PATIENCE:g} s") from None
        except OSError as error:
            raise NotReady(f"it is gone: {error.strerror}") from error
        self.release = ready.text("release")
        if reads not in ready.texts("reads"):
            known = ", ".join(ready.texts("reads")) or "nothing"
            text = (
                f"gatewayd {self.release} does not read the state that this release keeps ({reads}; it reads {known})"
            )
            raise NotReady(f"{text}: its tunnels would begin anew, as they do by systemctl restart gatewayd")

    @property
    def alive(self) -> bool:
        """As far as is known at this moment."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def take(self, held: Mapping[str, Sequence[int]]) -> None:
        """All that it goes on from: this process has halted. OSError when it is gone."""
        self._socket.settimeout(SENDING_PATIENCE)
        handing.say_kept(self._socket, held)
        say(self._socket, "go")
        self._socket.setblocking(False)

    async def serves(self) -> None:
        """Until it forwards; NotReady when it ended, or does not come to it and is ended."""
        try:
            async with asyncio.timeout(SERVING_PATIENCE):
                await self._next("serving")
        except TimeoutError:
            self.end()
            raise NotReady(f"it does not forward after {SERVING_PATIENCE:g} s") from None
        self.close()

    def end(self) -> None:
        """At once: it has nothing to put in order. While it holds its end of the socketpair the number means no other process."""
        with suppress(ProcessLookupError, OSError):
            if self.pid > 1 and self.alive:
                os.kill(self.pid, signal.SIGKILL)
            elif self._process.poll() is None:
                self._process.kill()
        self.close()

    def close(self) -> None:
        self._socket.close()
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)

    async def _next(self, kind: str) -> Message:
        """NotReady for any other, and for none."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        try:
            message = hear(self._socket)
        except ValueError:
            raise NotReady("it says what nobody understands") from None
        if message is None:
            due = "forwarded" if kind == "serving" else "was ready"
            raise NotReady(f"it ended before it {due}{self._last_words()}")
        if message.kind == "refused":
            raise NotReady(" ".join(message.text("text").split()) or "it gives no reason")
        if message.kind != kind:
            raise NotReady(f"it says {message.kind!r} where {kind!r} is due")
        return message

    def _last_words(self) -> str:
        """The last line of its standard error."""
        words = b""
        with suppress(BlockingIOError):
            while piece := os.read(self._errors, _LAST_WORDS):
                words = (words + piece)[-_LAST_WORDS:]
        lines = [line.strip() for line in words.decode("utf-8", "replace").splitlines() if line.strip()]
        return f": {lines[-1]}" if lines else ""


def command_of(program: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """`program`, or by default what this process was started as, which may be another release by now; with the same
    `arguments` (`sys.argv`)."""
    options = list(arguments[1:])
    if options[:1] == [OPTION]:
        options = options[2:]
    if program:
        return (program, *options)
    if os.access(arguments[0], os.X_OK):
        return (arguments[0], *options)
    # -P: nothing is imported from wherever the daemon was started
    return (sys.executable, "-P", "-m", "gateway.runtime.main", *options)


def _start(argv: Sequence[str], fd: int, errors: int) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        environment.pop("WATCHDOG_USEC", None)  # not meant for us, so neither for it
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=errors, pass_fds=(fd,), env=environment)
