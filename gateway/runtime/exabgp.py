"""The supervised ExaBGP process: configuration, start, adoption, restart, and the socket its relay connects to.

ExaBGP runs in a session of its own and is not ended with the daemon: a daemon that starts again finds it by its
pidfile, and when the configuration is still the same takes it over with all its BGP sessions; the relay simply
reconnects. What the lines mean is `gateway.bgp`'s affair.

    run directory:  exabgp.conf (0600)   exabgp.json (pid, start time, hash)   exabgp.log   bgp.sock (0600)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import pwd
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gateway.bgp.exabgp_config import render
from gateway.bgp.settings import SpeakerSettings

RELAY = Path(__file__).with_name("bgp_relay.py")
BACKOFF = (0.2, 30.0)
STABLE_AFTER = 60.0  # seconds of life after which the back-off begins anew
VALIDATE_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0
# Interop: ExaBGP 5.0.15 forgets a SIGUSR1 that arrives while routes wait to be sent; a reload of the same file is harmless
RELOAD_SIGNALS_AFTER = (0.0, 1.0, 3.0)
LOG_LIMIT = 4 * 1024 * 1024
LINE_LIMIT = 16 * 1024 * 1024
LINES_AT_ONCE = 32
WRITE_HIGH = 1024 * 1024

log = logging.getLogger(__name__)


class ExabgpConfigError(Exception):
    """ExaBGP does not take the configuration; the text is its own."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that is certainly the one we mean: numbers are used again, start times are not."""

    pid: int
    start_time: int
    config_hash: str

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.start_time and _is_exabgp(self.pid)


class ExabgpProcess:
    """Runs ExaBGP for as long as it is wanted. Callbacks are called in the event loop's thread."""

    def __init__(
        self,
        run_directory: Path,
        *,
        on_line: Callable[[str], None],
        on_up: Callable[[int], None],
        on_down: Callable[[], None],
        command_prefix: Iterable[str] = (),
    ) -> None:
        self.run_directory = run_directory
        self.drained = asyncio.Event()  # set it when the speaker says Drained; `stop` waits for it
        self.state = ""  # "", starting, running, down: for status
        self._on_line = on_line
        self._on_up = on_up
        self._on_down = on_down
        self._command_prefix = tuple(command_prefix)
        self._process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._config_hash = ""
        self._server: asyncio.AbstractServer | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._reloads: set[asyncio.TimerHandle] = set()
        self._link: _Link | None = None
        self._generation = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self, settings: SpeakerSettings) -> None:
        """Write and check the configuration, listen for the relay, adopt or start ExaBGP."""
        self.run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._config_hash = await self._write_config(settings)
        await self._listen()
        self.state = "starting"
        found = _read_pidfile(self.run_directory)
        if found is not None and found.alive and found.config_hash == self._config_hash:
            log.info("adopting ExaBGP, pid %d", found.pid)
            self._process = found
            self.state = "running"
        else:
            await asyncio.to_thread(end_stale, self.run_directory)
        self._supervisor = asyncio.create_task(self._supervise(), name="exabgp")

    async def reload(self, settings: SpeakerSettings) -> None:
        """Give ExaBGP new neighbors; unchanged ones keep their sessions. The old file stays if the new one is bad."""
        config_hash = await self._write_config(settings)
        if config_hash == self._config_hash:
            return
        self._config_hash = config_hash
        if self._process is None or not self._process.alive:
            return  # the next start reads the new file
        self._remember(Process(self._process.pid, self._process.start_time, config_hash))
        loop = asyncio.get_running_loop()
        for delay in RELOAD_SIGNALS_AFTER:
            self._reloads.add(loop.call_later(delay, self._signal, signal.SIGUSR1))

    def send(self, text: str) -> bool:
        """One command line. False: no link, or one that does not drain; the line is lost and a new link follows."""
        return self._link is not None and self._link.send(text)

    def unresponsive(self, times: int) -> None:
        """ExaBGP does not answer (the speaker's `AnswersMissing`): a new link, and the next time a new ExaBGP."""
        if times > 1:
            log.error("ExaBGP does not answer and is ended")
            self._signal(signal.SIGKILL)
        elif self._link is not None:
            log.warning("ExaBGP does not answer; dropping the link")
            self._link.abort()

    def trim_log(self) -> None:
        """Moves a long exabgp.log into exabgp.log.1. ExaBGP holds the file open for appending, so it is emptied, not renamed."""
        log_file = self.run_directory / "exabgp.log"
        try:
            if log_file.stat().st_size > LOG_LIMIT:
                _write_private(log_file.with_name("exabgp.log.1"), log_file.read_bytes()[-LOG_LIMIT:])
                os.truncate(log_file, 0)
        except OSError as error:
            log.error("%s cannot be cut: %s", log_file, error)

    async def stop(self, withdraw_wait: float) -> None:
        """End ExaBGP for good, waiting up to `withdraw_wait` for `drained` first."""
        try:
            await asyncio.wait_for(self.drained.wait(), withdraw_wait)
        except TimeoutError:
            log.warning("ExaBGP is stopped before every route was withdrawn")
        await self.detach()
        await asyncio.to_thread(end_stale, self.run_directory)
        if self._child is not None:
            await asyncio.to_thread(self._child.wait)
        self._process = self._child = None
        self.state = ""

    async def detach(self) -> None:
        """Stop supervising and listening, but leave ExaBGP and its sessions running for the next daemon."""
        for handle in self._reloads:
            handle.cancel()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._link is not None:
            self._link.abort()
        (self.run_directory / "bgp.sock").unlink(missing_ok=True)

    # ---- the process ----

    async def _supervise(self) -> None:
        backoff = BACKOFF[0]
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if self._process is None:
                    self.state = "starting"
                    self._spawn()
                self.state = "running"
                await self._ended()
            except OSError as error:
                log.error("ExaBGP does not start: %s", error)
            self._process = None
            self.state = "down"
            if loop.time() - began > STABLE_AFTER:
                backoff = BACKOFF[0]
            log.error("ExaBGP ended; starting it again in %.1f s; see %s", backoff, self.run_directory / "exabgp.log")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF[1])

    def _spawn(self) -> None:
        command = [*self._command_prefix, sys.executable, "-m", "exabgp", "server", str(self._config_path)]
        output = os.open(self.run_directory / "exabgp.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(),
                cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(output)
        start_time = _start_time(self._child.pid)
        self._remember(Process(self._child.pid, start_time or 0, self._config_hash))
        log.info("started ExaBGP, pid %d", self._child.pid)

    async def _ended(self) -> None:
        """Wait for the end of a process that may not be our child."""
        assert self._process is not None
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        try:
            if not self._process.alive and self._child is None:
                return
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        if self._child is not None:
            self._child.poll()
            self._child = None

    def _remember(self, process: Process) -> None:
        self._process = process
        content = {"pid": process.pid, "start_time": process.start_time, "config_hash": process.config_hash}
        _write_private(self.run_directory / "exabgp.json", json.dumps(content).encode())

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.alive:
            os.kill(self._process.pid, number)

    # ---- the configuration ----

    @property
    def _config_path(self) -> Path:
        return self.run_directory / "exabgp.conf"

    async def _write_config(self, settings: SpeakerSettings) -> str:
        relay = f"{sys.executable} -I {RELAY} {self.run_directory / 'bgp.sock'}"
        text = render(settings, relay).encode()
        candidate = self.run_directory / "exabgp.conf.new"
        _write_private(candidate, text)
        try:
            await self._validate(candidate)
            candidate.replace(self._config_path)
        finally:
            candidate.unlink(missing_ok=True)
        return hashlib.sha256(text).hexdigest()

    async def _validate(self, candidate: Path) -> None:
        check = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "exabgp", "validate", str(candidate),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=_environment(), cwd="/",
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(check.communicate(), VALIDATE_TIMEOUT)
        except TimeoutError:
            check.kill()
            await check.wait()
            raise ExabgpConfigError("exabgp validate did not end") from None
        if check.returncode != 0:
            raise ExabgpConfigError(output.decode(errors="replace").strip()[-2000:])

    # ---- the relay's socket ----

    async def _listen(self) -> None:
        path = self.run_directory / "bgp.sock"
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _Link(self), str(path))
        finally:
            os.umask(mask)

    def link_made(self, link: _Link) -> None:
        """The newest connection is the only one."""
        if self._link is not None:
            old, self._link = self._link, None
            old.abort()
            self._on_down()
        self._link = link
        self._generation += 1
        self._on_up(self._generation)

    def link_line(self, link: _Link, line: str) -> None:
        if link is self._link:
            self._on_line(line)

    def link_lost(self, link: _Link) -> None:
        if link is self._link:
            self._link = None
            self._on_down()


class _Link(asyncio.Protocol):
    """One connection of the relay: bytes to lines, and the limits of both directions."""

    def __init__(self, owner: ExabgpProcess) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._lines: deque[bytes] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from asyncio's
        self._owner.link_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.link_lost(self)

    def data_received(self, data: bytes) -> None:
        *lines, rest = (bytes(self._buffer) + data).split(b"\n") if self._buffer else data.split(b"\n")
        self._buffer[:] = rest
        if len(self._buffer) > LINE_LIMIT:
            self.abort()
        waiting = bool(self._lines)
        self._lines.extend(lines)
        if not waiting:
            self._take_some()

    def _take_some(self) -> None:
        """Timers and datagrams come between; meanwhile the relay keeps what ExaBGP says."""
        for _ in range(min(LINES_AT_ONCE, len(self._lines))):
            self._owner.link_line(self, self._lines.popleft().decode("utf-8", "replace"))
        if self._transport is None or self._transport.is_closing():
            self._lines.clear()
        elif self._lines:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._take_some)
        else:
            self._transport.resume_reading()

    def send(self, text: str) -> bool:
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > WRITE_HIGH:
            self.abort()
            return False
        # Interop: one octet that is not ASCII makes ExaBGP 5.0.15 restart its helper
        transport.write(text.encode("ascii", "replace") + b"\n")
        return True

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def end_stale(run_directory: Path) -> bool:
    """End the ExaBGP a former daemon left in `run_directory`; True if there was one. Blocks for some seconds at most."""
    found = _read_pidfile(run_directory)
    ended = False
    if found is not None and found.alive:
        ended = True
        _end(found)
    for name in ("exabgp.json", "exabgp.conf.new"):
        (run_directory / name).unlink(missing_ok=True)
    return ended


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


def _environment() -> dict[str, str]:
    """ExaBGP's settings; names with dots, which only `env=` can set."""
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "exabgp.daemon.user": pwd.getpwuid(os.geteuid()).pw_name,
        "exabgp.daemon.drop": "true",
        "exabgp.daemon.daemonize": "false",
        "exabgp.api.cli": "false",
        "exabgp.api.ack": "true",
        "exabgp.api.respawn": "true",
        "exabgp.api.show-routes-format": "v2",
        "exabgp.api.chunk": "100",
        "exabgp.log.level": "WARNING",
        "exabgp.log.short": "false",
    }


def _write_private(path: Path, content: bytes) -> None:
    """Replace `path` as a whole, mode 0600 from its first moment."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _read_pidfile(run_directory: Path) -> Process | None:
    try:
        value = json.loads((run_directory / "exabgp.json").read_bytes())
        return Process(int(value["pid"]), int(value["start_time"]), str(value["config_hash"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _start_time(pid: int) -> int | None:
    """proc(5): field 22 of stat; the name in field 2 may hold anything, so count from its end."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def _is_exabgp(pid: int) -> bool:
    try:
        return b"exabgp" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
