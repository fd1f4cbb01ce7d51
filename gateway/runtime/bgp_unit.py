"""`gatewayd --bgp`: runs ExaBGP and outlives the daemon, so that BGP sessions do.

    ExaBGP -- pipes -- relay -- bgp.sock -- this -- bgp-service.sock -- gatewayd

It passes lines on and knows no routes. The daemon tells it the configuration; while the daemon is away, what ExaBGP says is
read and forgotten, because the next one reads ExaBGP's tables anyway. The data plane lives in the daemon: a daemon that stays
away longer than `orphan_time` must not go on attracting traffic, so everything is withdrawn then and the sessions are closed.
The same before every other end of this process that can be foreseen. Not a speaker: that is `gateway.bgp` in the daemon.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from gateway import __version__
from gateway.bgp.withdrawal import Withdrawal
from gateway.runtime import logs
from gateway.runtime.bgp_frames import SOCKET, VERSION, frame, unframe
from gateway.runtime.exabgp import ExabgpConfigError, ExabgpProcess
from gateway.runtime.left_running import end_stale
from gateway.runtime.line_link import LineLink, listen
from gateway.runtime.systemd import Notifier

FIRST_WAIT = 10.0  # for the first daemon, which will say how long to wait for the next
LOOK_INTERVAL = 30.0

log = logging.getLogger("gateway.bgp")

Job = Callable[[], Awaitable[None]]


class BgpUnit:
    """`stays`: without daemon and ExaBGP it waits for the next daemon, as a unit of its own; else it ends."""

    def __init__(
        self, run_directory: Path, *, stays: bool = True, notifier: Notifier | None = None,
        command_prefix: Iterable[str] = (),
    ) -> None:  # fmt: skip
        self._run_directory = run_directory
        self._stays = stays
        self._notifier = notifier or Notifier({})
        self._process = ExabgpProcess(
            run_directory, on_lines=self._lines, on_up=self._up, on_down=self._down, on_state=self._tell_state,
            command_prefix=command_prefix,
        )  # fmt: skip
        self._daemon: LineLink | None = None
        self._greeted = False
        self._orphan_time = FIRST_WAIT
        self._orphan: asyncio.TimerHandle | None = None
        self._withdrawal: Withdrawal | None = None
        self._progress = asyncio.Event()
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._finished = asyncio.Event()
        self._again = False
        self._fault: BaseException | None = None

    async def run(self) -> bool:
        """Until it is told to end, or has nothing left to do. True: to be started anew, as what is installed now."""
        path = self._run_directory / SOCKET
        path.unlink(missing_ok=True)
        self._process.forwards(False)
        server = await listen(self, str(path))
        await self._process.adopt()
        self._wait_for_daemon(FIRST_WAIT)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.terminate)
        tasks = [asyncio.create_task(work) for work in (self._work(), self._attend(), self._look())]
        for task in tasks:
            task.add_done_callback(self._failed)
        self._notifier.ready()
        try:
            await self._finished.wait()
        finally:
            self._notifier.stopping()
            server.close()
            path.unlink(missing_ok=True)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._process.detach()
            if self._daemon is not None:
                self._daemon.close()
        if self._fault is not None:
            raise self._fault
        return self._again

    def _failed(self, task: asyncio.Task[None]) -> None:
        """A defect of ours ends the process; a new one adopts what runs."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault = error
            self._finished.set()

    def terminate(self) -> None:
        """Withdraw and end."""
        self._jobs.put_nowait(self._terminate)

    # ---- the daemon's link ----

    def link_made(self, link: LineLink) -> None:
        """The newest daemon is the only one; what the one before asked for is not answered to it."""
        if self._daemon is not None:
            self._lose_daemon().abort()
        self._daemon = link
        if self._orphan is not None:
            self._orphan.cancel()
        link.send(frame("hello", version=VERSION, release=__version__, pid=os.getpid()))

    def link_lines(self, link: LineLink, lines: list[bytes]) -> None:
        for line in lines:
            if link is not self._daemon:
                return
            message = unframe(line)
            if message is not None:
                _FRAMES.get(message["kind"], BgpUnit._unknown)(self, message)
            elif self._greeted and self._withdrawal is None:
                self._process.send(line)

    def link_lost(self, link: LineLink) -> None:
        if link is self._daemon:
            self._lose_daemon()
            log.warning("gatewayd is gone; ExaBGP goes on for %g s without it", self._orphan_time)
            self._wait_for_daemon(self._orphan_time)

    def link_full(self, link: LineLink, full: bool) -> None:
        if link is self._daemon:
            self._process.hold(full)

    def _lose_daemon(self) -> LineLink:
        assert self._daemon is not None
        link, self._daemon, self._greeted = self._daemon, None, False
        self._process.hold(False)
        self._process.forwards(False)  # until the next one says that it took over
        self._process.relink()
        return link

    def _wait_for_daemon(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._orphan = loop.call_later(seconds, self._jobs.put_nowait, self._end_of_orphan)
        self._show()

    def _tell(self, kind: str, **fields: object) -> None:
        if self._daemon is not None and self._greeted:
            self._daemon.send(frame(kind, **fields))

    # ---- what the daemon says ----

    def _hello(self, message: Mapping[str, Any]) -> None:
        if message.get("version") != VERSION:
            return  # it will ask for a restart
        log.info("gatewayd is here", extra={"event": "daemon-here"})
        self._greeted = True
        self._tell_state()
        if self._process.link_generation and self._withdrawal is None:
            self._tell("up", generation=self._process.link_generation)

    def _wants(self, message: Mapping[str, Any]) -> None:
        try:
            self._orphan_time = float(message["orphan_time"])
            text = str(message["text"])
            self._process.forwards(bool(message["forwards"]))
        except (KeyError, TypeError, ValueError):
            self._tell("refused", text="not understood")
            return
        self._jobs.put_nowait(partial(self._configure, self._daemon, text))

    def _relink(self, _message: Mapping[str, Any]) -> None:
        self._process.relink()

    def _kill(self, _message: Mapping[str, Any]) -> None:
        self._process.end()

    def _stop(self, _message: Mapping[str, Any]) -> None:
        self._jobs.put_nowait(self._end_as_asked)

    def _restart(self, _message: Mapping[str, Any]) -> None:
        self._jobs.put_nowait(self._begin_again)

    def _unknown(self, message: Mapping[str, Any]) -> None:
        log.error("gatewayd says %r, which means nothing", message["kind"])

    # ---- what ExaBGP says ----

    def _lines(self, lines: list[bytes]) -> None:
        if self._withdrawal is not None:
            for line in lines:
                self._say(self._withdrawal.receive(line.decode("utf-8", "replace"), _now()))
        elif self._daemon is not None and self._greeted:
            self._daemon.send(b"\n".join(lines))

    def _up(self, generation: int) -> None:
        if self._withdrawal is not None:
            self._say(self._withdrawal.begin(generation, _now()))
        else:
            self._tell("up", generation=generation)

    def _down(self) -> None:
        self._tell("down")

    def _tell_state(self) -> None:
        self._tell("state", state=self._process.state)
        self._show()

    # ---- jobs, one after the other ----

    async def _work(self) -> None:
        while True:
            await (await self._jobs.get())()

    async def _configure(self, link: LineLink | None, text: str) -> None:
        if link is not self._daemon:
            return
        try:
            await self._process.run(text)
        except (ExabgpConfigError, OSError) as error:
            self._tell("refused", text=str(error))
        else:
            self._tell("configured")

    async def _end_of_orphan(self) -> None:
        if self._daemon is not None:
            return
        if self._process.supervised:
            log.error("no gatewayd for too long: withdrawing every route and closing the BGP sessions")
        await self._end()
        if not self._stays and self._daemon is None:
            self._finished.set()

    async def _end_as_asked(self) -> None:
        await self._end()
        self._tell("stopped")
        if not self._stays:
            self._finished.set()

    async def _terminate(self) -> None:
        await self._end()
        self._finished.set()

    async def _begin_again(self) -> None:
        log.warning("gatewayd is of another release: starting again as what is installed; BGP sessions stay")
        self._again = True
        self._finished.set()

    async def _end(self) -> None:
        if self._process.state == "running":
            await self._withdraw()
        await self._process.stop()

    async def _withdraw(self) -> None:
        self._withdrawal = withdrawal = Withdrawal(_now())
        try:
            if self._daemon is not None:
                self._process.relink()  # answers to the daemon's commands are not for us
            elif self._process.link_generation:
                self._say(withdrawal.begin(self._process.link_generation, _now()))
            while not withdrawal.done:
                self._progress.clear()
                try:
                    async with asyncio.timeout(withdrawal.next_deadline() - _now()):
                        await self._progress.wait()
                except TimeoutError:
                    self._say(withdrawal.handle_deadline(_now()))
        finally:
            self._withdrawal = None

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._process.send(line.encode("ascii"))
        self._progress.set()

    # ---- for the service manager ----

    async def _attend(self) -> None:
        interval = self._notifier.watchdog_interval
        while interval is not None:
            self._notifier.watchdog()
            await asyncio.sleep(interval)

    async def _look(self) -> None:
        while True:
            self._process.trim_log()
            await asyncio.sleep(LOOK_INTERVAL)

    def _show(self) -> None:
        here = "gatewayd is here" if self._greeted else "waiting for gatewayd"
        self._notifier.status(f"ExaBGP {self._process.state or 'not wanted'}, {here}")


_FRAMES: dict[str, Callable[[BgpUnit, Mapping[str, Any]], None]] = {
    "hello": BgpUnit._hello,
    "configure": BgpUnit._wants,
    "relink": BgpUnit._relink,
    "end": BgpUnit._kill,
    "stop": BgpUnit._stop,
    "restart": BgpUnit._restart,
}


def main(run_directory: Path, *, stays: bool) -> int:
    """0: ended in order; 1: cannot run, as when another one does."""
    run_directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    lock = _lock(run_directory)
    if lock is None:
        log.error("another process runs ExaBGP in %s", run_directory)
        return 1
    if uvloop.run(_serve(run_directory, stays)):
        # The same process, so ExaBGP stays its child, and systemd notices nothing; but what it logged is still to be written
        logging.shutdown()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    os.close(lock)
    return 0


def end_forsaken(run_directory: Path) -> None:
    """End an ExaBGP whose service was killed. Where the service lives it knows best, and ends ExaBGP in time."""
    if not run_directory.is_dir():
        return
    lock = _lock(run_directory)
    if lock is not None:
        end_stale(run_directory)
        os.close(lock)


def _lock(run_directory: Path) -> int | None:
    """Held as long as this process lives; None: another one's."""
    descriptor = os.open(run_directory / "bgp-service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


async def _serve(run_directory: Path, stays: bool) -> bool:
    return await BgpUnit(run_directory, stays=stays, notifier=Notifier()).run()


def _now() -> float:
    return asyncio.get_running_loop().time()


if __name__ == "__main__":
    parser = argparse.ArgumentParser("gatewayd-bgp", description=__doc__)
    parser.add_argument("run_directory", type=Path)
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args()
    logs.setup(options.log_level, "auto")
    sys.exit(main(options.run_directory, stays=False))
