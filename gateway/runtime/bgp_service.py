"""ExaBGP as the daemon wants it: the newest settings, one change at a time, tried again until it runs.

The process itself is `exabgp.ExabgpProcess`; what its lines mean is `gateway.bgp`'s affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.bgp.events import ProcessDown, ProcessUp
from gateway.bgp.settings import SpeakerSettings
from gateway.runtime.exabgp import ExabgpConfigError, ExabgpProcess

RETRY = 15.0  # seconds until an ExaBGP that could not be started is tried again


class BgpService:
    """`want` may be called at any time; from `start` to `stop` it is carried out."""

    def __init__(
        self, run_directory: Path, on_line: Callable[[str], None], command: Callable[[object], None],
        report: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.problem = ""
        self._run_directory = run_directory
        self._on_line = on_line
        self._command = command
        self._report = report
        self._process: ExabgpProcess | None = None
        self._wanted: SpeakerSettings | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """For status: "", starting, running, down."""
        if self._process is not None:
            return self._process.state
        return "down" if self.problem else ""

    def want(self, settings: SpeakerSettings) -> None:
        """These settings from now on; several in quick succession come to the last."""
        self._wanted = settings
        self._changed.set()

    def start(self, ready: Callable[[], Awaitable[None]]) -> None:
        """`ready`: awaited before each attempt, so that the addresses of sessions in tunnels exist."""
        self._task = asyncio.create_task(self._run(ready), name="bgp")

    async def stop(self, withdraw_wait: float) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._process is not None:
            await self._process.stop(withdraw_wait)

    async def _run(self, ready: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await ready()
            try:
                await self._apply()
            except (ExabgpConfigError, OSError) as error:
                self._failed(" ".join(str(error).split()))
            else:
                self.problem = ""

    async def _apply(self) -> None:
        assert self._wanted is not None
        if self._process is not None:
            await self._process.reload(self._wanted)
            return
        process = ExabgpProcess(
            self._run_directory,
            on_line=self._on_line,
            on_up=lambda generation: self._command(ProcessUp(generation)),
            on_down=lambda: self._command(ProcessDown()),
        )
        await process.start(self._wanted)
        self._process = process

    def _failed(self, reason: str) -> None:
        what = "does not take the new neighbors" if self._process is not None else "cannot be started"
        hint = "; install it beside gatewayd (Python package exabgp)" if "No module named" in reason else ""
        problem = f"ExaBGP {what}, so BGP stays as it is: {reason}{hint}; tried again every {RETRY:g} s"
        if problem != self.problem:
            self._report(problem)
        self.problem = problem
        asyncio.get_running_loop().call_later(RETRY, self._changed.set)

    def send(self, text: str) -> None:
        if self._process is not None:
            self._process.send(text)

    def unresponsive(self, times: int) -> None:
        if self._process is not None:
            self._process.unresponsive(times)

    def drained(self) -> None:
        if self._process is not None:
            self._process.drained.set()

    def trim_log(self) -> None:
        if self._process is not None:
            self._process.trim_log()
