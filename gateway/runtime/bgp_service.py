"""The daemon's end of the service that runs ExaBGP (`bgp_unit`): reach it, tell it the newest settings, pass lines on.

    gatewayd -- bgp-service.sock -- the service -- its relay -- ExaBGP

The service is a unit of its own, or a process this starts (`bgp.service`); either way it outlives this daemon, for
`bgp.orphan_time` at least. What the lines mean is `gateway.bgp`'s affair.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.bgp.events import ProcessDown, ProcessUp
from gateway.bgp.exabgp_config import render
from gateway.bgp.settings import SpeakerSettings
from gateway.config.model import Bgp
from gateway.runtime.bgp_frames import SOCKET, VERSION, frame, unframe
from gateway.runtime.line_link import LineLink
from gateway.runtime.turns import say_end, turns
from gateway.runtime.unit import UNIT

RETRY = 15.0  # seconds until settings that were refused are told again
REACH = 0.05  # between two attempts to reach the service
PATIENCE = 10.0  # without it, until that is a problem
HELLO_TIMEOUT = 5.0
STOP_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class Terms:
    """`child`: the service is ours to start."""

    child: bool = True
    orphan_time: float = 10.0


def terms(bgp: Bgp | None, environment: Mapping[str, str] = os.environ) -> Terms:
    """What the configuration says; "auto" means the unit where our own unit is."""
    if bgp is None:
        return Terms()
    child = bgp.service == "child" or (bgp.service == "auto" and UNIT not in environment)
    return Terms(child, bgp.orphan_time)


class BgpService:
    """`want` may be called at any time; from `start` to `stop` it is carried out."""

    def __init__(
        self, run_directory: Path, on_lines: Callable[[str], None], command: Callable[[object], None],
        report: Callable[[str, str, str], None], terms: Callable[[], Terms] = Terms,
    ) -> None:  # fmt: skip
        self.problem = ""
        self._run_directory = run_directory
        self._on_lines = on_lines
        self._command = command
        self._report = report  # level, event, text
        self._terms = terms
        self._state = ""
        self._link: LineLink | None = None
        self._connecting: asyncio.Task[tuple[asyncio.Transport, LineLink]] | None = None
        self._connected = False  # to ExaBGP's relay
        self._greeting: asyncio.Future[Mapping[str, Any]] | None = None
        self._lost = asyncio.Event()
        self._stopped = asyncio.Event()
        self._wanted: SpeakerSettings | None = None
        self._forwards = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def state(self) -> str:
        """For status: "", starting, running, down."""
        return self._state or ("down" if self.problem else "")

    @property
    def outlives(self) -> bool:
        """The service is a unit of its own, which stays when the daemon's unit ends."""
        return not self._terms().child

    def want(self, settings: SpeakerSettings, forwards: bool = False) -> None:
        """These settings from now on; several in quick succession come to the last. `forwards`: see `effects.BgpStart`."""
        self._wanted, self._forwards = settings, forwards
        self._changed.set()

    def start(self, ready: Callable[[], Awaitable[None]]) -> None:
        """`ready`: awaited before the settings are told, so that the addresses of sessions in tunnels exist."""
        self._task = asyncio.create_task(self._run(ready), name="bgp")
        self._task.add_done_callback(say_end)

    async def leave(self) -> None:
        """The next daemon takes over; until then, and for `orphan_time` at most, the sessions and all routes stay."""
        await self._end_task()
        if self._link is not None:
            self._link.close()
        self._state = ""

    async def stop(self) -> None:
        """For good: every route is withdrawn, then the sessions are closed."""
        await self._end_task()
        link = self._link
        if link is not None and link.send(frame("stop")):
            self._stopped.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT):
                    await self._stopped.wait()
            link.close()
        elif self._child is not None and self._child.poll() is None:
            self._child.terminate()
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._child.wait, STOP_TIMEOUT)
        self._state = ""

    def send(self, text: str) -> None:
        """One command for ExaBGP."""
        if self._link is not None and self._connected:
            # Interop: one octet that is not ASCII makes ExaBGP 5.0.15 restart its helper
            self._link.send_bounded(text.encode("ascii", "replace"))

    def unresponsive(self, times: int) -> None:
        """ExaBGP does not answer (the speaker's `AnswersMissing`): a new link, and the next time a new ExaBGP."""
        if self._link is not None:
            self._link.send(frame("end" if times > 1 else "relink"))

    # ---- reaching it ----

    async def _end_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connecting is not None:
            await asyncio.gather(self._connecting, return_exceptions=True)

    async def _run(self, ready: Callable[[], Awaitable[None]]) -> None:
        await self._changed.wait()
        await turns(lambda: self._session(ready), "BGP sessions are left to themselves for a moment")

    async def _session(self, ready: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._reach()
            await self._serve(ready)
        except Exception:
            if self._link is not None:
                self._link.abort()
                await self._lost.wait()
            raise
        self._state = "down"
        self._report("warning", "bgp-service-lost", "the service that runs ExaBGP is gone; looking for it again")

    async def _reach(self) -> None:
        """Until it is there and understands us."""
        loop = asyncio.get_running_loop()
        began, pause = loop.time(), REACH
        path = str(self._run_directory / SOCKET)
        while True:
            self._greeting = loop.create_future()
            self._lost.clear()
            try:
                # uvloop: cancelled while it connects, the transport closes without connection_lost, so it is never cancelled
                self._connecting = asyncio.create_task(loop.create_unix_connection(lambda: LineLink(self), path))
                await asyncio.shield(self._connecting)
                async with asyncio.timeout(
                    HELLO_TIMEOUT
                ):  # wait_for of Python 3.11 swallows a cancel in the answer's turn
                    greeting = await self._greeting
            except (OSError, TimeoutError):
                self._start_child()
                if loop.time() - began > PATIENCE:
                    self._failed(f"nobody answers at {path}{self._advice()}")
            else:
                if greeting.get("version") == VERSION:
                    return
                self._replace(greeting)
                pause = 1.0
            if self._link is not None:
                self._link.abort()
                await self._lost.wait()
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, 1.0)

    def _start_child(self) -> None:
        if not self._terms().child or (self._child is not None and self._child.poll() is None):
            return
        self._state = "starting"
        ours = {key: value for key, value in os.environ.items() if key not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", UNIT)}
        self._child = subprocess.Popen(
            # -P: nothing is imported from wherever the daemon was started
            [sys.executable, "-P", "-m", "gateway.runtime.bgp_unit", str(self._run_directory)],
            stdin=subprocess.DEVNULL, env=ours, start_new_session=True,
        )  # fmt: skip

    def _advice(self) -> str:
        return "" if self._terms().child else '; systemctl start gatewayd-bgp, or bgp.service = "child"'

    def _replace(self, greeting: Mapping[str, Any]) -> None:
        text = f"the service that runs ExaBGP is of release {greeting.get('release')}, gatewayd is {__version__}"
        self._report("warning", "bgp-service-restart", f"{text}: it is told to start again as what is installed")
        if self._link is not None:
            self._link.send(frame("restart"))

    async def _serve(self, ready: Callable[[], Awaitable[None]]) -> None:
        """Until the link is lost."""
        assert self._link is not None
        self._link.send(frame("hello", version=VERSION, release=__version__))
        while not self._lost.is_set():
            await ready()
            self._changed.clear()
            assert self._wanted is not None
            wanted = {"text": render(self._wanted), "forwards": self._forwards}
            self._link.send(frame("configure", **wanted, orphan_time=self._terms().orphan_time))
            waits = [asyncio.ensure_future(event.wait()) for event in (self._changed, self._lost)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()

    # ---- what it says ----

    def link_made(self, link: LineLink) -> None:
        self._link = link

    def link_lines(self, link: LineLink, lines: list[bytes]) -> None:
        """ExaBGP's lines go on together, up to what the service itself says."""
        if link is not self._link:
            return
        together: list[bytes] = []
        for line in lines:
            message = unframe(line)
            if message is None:
                together.append(line)
                continue
            self._pass_on(together)
            if message["kind"] in _FRAMES:
                _FRAMES[message["kind"]](self, message)
        self._pass_on(together)

    def _pass_on(self, lines: list[bytes]) -> None:
        if lines:
            self._on_lines(b"\n".join(lines).decode("utf-8", "replace"))
            lines.clear()

    def link_lost(self, link: LineLink) -> None:
        if link is self._link:
            self._link = None
            self._down({})
            self._lost.set()
            self._stopped.set()

    def link_full(self, link: LineLink, full: bool) -> None:
        """Commands wait: `send_bounded` ends it when they are too many."""

    def _hello(self, message: Mapping[str, Any]) -> None:
        if self._greeting is not None and not self._greeting.done():
            self._greeting.set_result(message)

    def _up(self, message: Mapping[str, Any]) -> None:
        self._connected = True
        self._command(ProcessUp(int(message.get("generation", 0))))

    def _down(self, _message: Mapping[str, Any]) -> None:
        if self._connected:
            self._connected = False
            self._command(ProcessDown())

    def _enter(self, message: Mapping[str, Any]) -> None:
        self._state = str(message.get("state", ""))

    def _configured(self, _message: Mapping[str, Any]) -> None:
        self.problem = ""

    def _refuse(self, message: Mapping[str, Any]) -> None:
        reason = " ".join(str(message.get("text", "")).split())
        hint = "; install it beside gatewayd (Python package exabgp)" if "No module named" in reason else ""
        what = "does not take the new neighbors" if self._state else "cannot be started"
        self._failed(f"{what}, so BGP stays as it is: {reason}{hint}; tried again every {RETRY:g} s", "ExaBGP ")
        asyncio.get_running_loop().call_later(RETRY, self._changed.set)

    def _stop_done(self, _message: Mapping[str, Any]) -> None:
        self._stopped.set()

    def _failed(self, reason: str, of: str = "the service that runs ExaBGP cannot be reached: ") -> None:
        problem = f"{of}{reason}"
        if problem != self.problem:
            self._report("error", "exabgp-failed", problem)
        self.problem = problem


_FRAMES: dict[str, Callable[[BgpService, Mapping[str, Any]], None]] = {
    "hello": BgpService._hello,
    "up": BgpService._up,
    "down": BgpService._down,
    "state": BgpService._enter,
    "configured": BgpService._configured,
    "refused": BgpService._refuse,
    "stopped": BgpService._stop_done,
}
