"""The ExaBGP process: configuration, start, adoption, restart, and the socket its relay connects to.

ExaBGP runs in a session of its own: who supervises it may be another after a while, and finds it by its pidfile with all
its BGP sessions; the relay simply reconnects. What the lines mean is `gateway.bgp`'s affair; who wants ExaBGP, and for how
long, is `bgp_unit`'s.

    run directory:  exabgp.conf (0600)   exabgp.json (pid, start time)   exabgp.log   exabgp.forwards   bgp.sock (0600)
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from gateway.bgp.exabgp_config import RELAY_PLACE, process_section
from gateway.runtime.left_running import Process, end_stale, recall, remember, start_time, write_private
from gateway.runtime.line_link import LineLink, listen

RELAY = Path(__file__).with_name("bgp_relay.py")
PROGRAM = Path(__file__).with_name("exabgp_start.py")
BACKOFF = (0.2, 30.0)
STABLE_AFTER = 60.0  # seconds of life after which the back-off begins anew
VALIDATE_TIMEOUT = 30.0
# Interop: ExaBGP 5.0.15 forgets a SIGUSR1 that arrives while routes wait to be sent; a reload of the same file is harmless
RELOAD_SIGNALS_AFTER = (0.0, 1.0, 3.0)
LOG_LIMIT = 4 * 1024 * 1024

log = logging.getLogger(__name__)


class ExabgpConfigError(Exception):
    """ExaBGP does not take the configuration; the text is its own."""


class ExabgpProcess:
    """Runs ExaBGP for as long as it is wanted. Callbacks are called in the event loop's thread."""

    def __init__(
        self,
        run_directory: Path,
        *,
        on_lines: Callable[[list[bytes]], None],
        on_up: Callable[[int], None],
        on_down: Callable[[], None],
        on_state: Callable[[], None] = lambda: None,
        command_prefix: Iterable[str] = (),
    ) -> None:
        self.run_directory = run_directory
        self.state = ""  # "", starting, running, down: for status
        self._on_lines = on_lines
        self._on_up = on_up
        self._on_down = on_down
        self._on_state = on_state
        self._command_prefix = tuple(command_prefix)
        self._process: Process | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._server: asyncio.AbstractServer | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._reloads: set[asyncio.TimerHandle] = set()
        self._link: LineLink | None = None
        self._held = False
        self._generation = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def supervised(self) -> bool:
        """There is one, or there will be."""
        return self._supervisor is not None

    @property
    def link_generation(self) -> int:
        """Of the link there is; 0: none."""
        return self._generation if self._link is not None else 0

    async def adopt(self) -> bool:
        """Take over the ExaBGP that was left running, whatever its configuration; False: there is none."""
        found = recall(self.run_directory)
        if found is None:
            return False
        log.info("adopting ExaBGP, pid %d", found.pid)
        self._process = found
        await self._listen()
        self._supervise_from_now_on()
        return True

    async def run(self, text: str) -> None:
        """Have ExaBGP run with this configuration: start it, or let it reload, or leave it as it is. Unchanged neighbors keep
        their sessions. ExabgpConfigError: the old file and what runs stay as they are."""
        relay = f"{sys.executable} -I {RELAY} {self.run_directory / 'bgp.sock'}"
        content = text.replace(RELAY_PLACE, relay).encode()
        self.run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = self._config_path.read_bytes() if self._config_path.exists() else b""
        alive = self._process is not None and self._process.alive
        if content == before and alive:
            return
        await self._write_config(content)
        if not self.supervised:
            await asyncio.to_thread(end_stale, self.run_directory)
            await self._listen()
            self._supervise_from_now_on()
        elif alive and process_section(before.decode()) != process_section(content.decode()):
            # Interop: ExaBGP 5.0.15 does not take another helper in a reload
            log.warning("ExaBGP is to run another relay, and starts anew: every session restarts")
            self.end()
        elif alive:
            loop = asyncio.get_running_loop()
            for delay in RELOAD_SIGNALS_AFTER:
                self._reloads.add(loop.call_later(delay, self._signal, signal.SIGUSR1))

    def forwards(self, preserved: bool) -> None:
        """What every OPEN from now on says of our forwarding state (`exabgp_start`); nothing to sessions that stand."""
        if preserved:
            self._forwards_path.touch(0o600)
        else:
            self._forwards_path.unlink(missing_ok=True)

    def send(self, line: bytes) -> bool:
        """One command line. False: no link, or one that does not drain; the line is lost and a new link follows."""
        return self._link is not None and self._link.send_bounded(line)

    def hold(self, held: bool) -> None:
        """Take no lines for a while; the relay keeps them."""
        self._held = held
        if self._link is not None:
            self._link.hold(held)

    def relink(self) -> None:
        """A new link, which begins when every command of this one is answered."""
        if self._link is not None:
            self._link.abort()

    def end(self) -> None:
        """At once, without a word to the peers; another follows."""
        self._signal(signal.SIGKILL)

    def trim_log(self) -> None:
        """Moves a long exabgp.log into exabgp.log.1. ExaBGP holds the file open for appending, so it is emptied, not renamed."""
        log_file = self.run_directory / "exabgp.log"
        try:
            if log_file.stat().st_size > LOG_LIMIT:
                write_private(log_file.with_name("exabgp.log.1"), log_file.read_bytes()[-LOG_LIMIT:])
                os.truncate(log_file, 0)
        except FileNotFoundError:
            return
        except OSError as error:
            log.error("%s cannot be cut: %s", log_file, error)

    async def stop(self) -> None:
        """End ExaBGP for good."""
        await self.detach()
        await asyncio.to_thread(end_stale, self.run_directory)
        if self._child is not None:
            await asyncio.to_thread(self._child.wait)
        self._process = self._child = None
        self._enter("")

    async def detach(self) -> None:
        """Stop supervising and listening, but leave ExaBGP and its sessions running for whoever comes next."""
        for handle in self._reloads:
            handle.cancel()
        self._reloads.clear()
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

    def _supervise_from_now_on(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise(), name="exabgp")

    async def _supervise(self) -> None:
        backoff = BACKOFF[0]
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if self._process is None:
                    self._enter("starting")
                    self._spawn()
                self._enter("running")
                await self._ended()
            except OSError as error:
                log.error("ExaBGP does not start, or cannot be watched: %s", error)
            except Exception:
                log.exception("ExaBGP does not start, or cannot be watched")
            else:
                self._process = None
            if self._process is not None and self._process.alive:
                # Another one beside it would take its place at every peer
                await asyncio.sleep(backoff)
                continue
            self._process = None
            self._enter("down")
            if loop.time() - began > STABLE_AFTER:
                backoff = BACKOFF[0]
            log.error("ExaBGP ended; starting it again in %.1f s; see %s", backoff, self.run_directory / "exabgp.log")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF[1])

    def _spawn(self) -> None:
        program = [sys.executable, "-I", str(PROGRAM), str(self._forwards_path)]
        command = [*self._command_prefix, *program, "server", str(self._config_path)]
        output = os.open(self.run_directory / "exabgp.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(),
                cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(output)
        self._process = Process(self._child.pid, start_time(self._child.pid) or 0)
        remember(self.run_directory, self._process)
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
            return
        with suppress(ChildProcessError):  # ours all the same, when this process was another program before (bgp_unit)
            os.waitpid(self._process.pid, os.WNOHANG)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)

    def _enter(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._on_state()

    # ---- the configuration ----

    @property
    def _config_path(self) -> Path:
        return self.run_directory / "exabgp.conf"

    @property
    def _forwards_path(self) -> Path:
        return self.run_directory / "exabgp.forwards"

    async def _write_config(self, content: bytes) -> None:
        candidate = self.run_directory / "exabgp.conf.new"
        write_private(candidate, content)
        try:
            await self._validate(candidate)
            candidate.replace(self._config_path)
        finally:
            candidate.unlink(missing_ok=True)

    async def _validate(self, candidate: Path) -> None:
        check = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "exabgp", "validate", str(candidate),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), cwd="/",
        )  # fmt: skip
        try:
            async with asyncio.timeout(VALIDATE_TIMEOUT):
                output, _ = await check.communicate()
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
        self._server = await listen(self, str(path))

    def link_made(self, link: LineLink) -> None:
        """The newest connection is the only one."""
        if self._link is not None:
            old, self._link = self._link, None
            old.abort()
            self._on_down()
        self._link = link
        self._generation += 1
        link.hold(self._held)
        self._on_up(self._generation)

    def link_lines(self, link: LineLink, lines: list[bytes]) -> None:
        if link is self._link:
            self._on_lines(lines)

    def link_lost(self, link: LineLink) -> None:
        if link is self._link:
            self._link = None
            self._on_down()

    def link_full(self, link: LineLink, full: bool) -> None:
        """Commands wait: `send_bounded` ends it when they are too many."""


def environment() -> dict[str, str]:
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
