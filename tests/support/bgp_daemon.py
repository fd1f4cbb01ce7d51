"""The part of the daemon that BGP needs, with a real ExaBGP: the speaker, the process, one timer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import uvloop
from support.birds import Lab

from gateway.bgp.events import (
    BestChanged,
    Command,
    Drained,
    Effect,
    FollowNextHop,
    NextHop,
    ProcessDown,
    ProcessUp,
    SendLine,
    SessionsChanged,
)
from gateway.bgp.exabgp_config import render
from gateway.bgp.path import Path as BgpPath
from gateway.bgp.settings import NeighborSettings, Prefix, SpeakerSettings
from gateway.bgp.speaker import Speaker
from gateway.runtime.exabgp import ExabgpProcess


def bird_config(number: int, asn: int, prefixes: tuple[str, ...], extra: str, option: str) -> str:
    static4 = "".join(f"route {prefix} blackhole; " for prefix in prefixes if ":" not in prefix)
    static6 = "".join(f"route {prefix} blackhole; " for prefix in prefixes if ":" in prefix)
    return f"""
router id 10.99.{number}.2;
log stderr all;
protocol device {{ }}
protocol static s4 {{ ipv4; {static4} }}
protocol static s6 {{ ipv6; {static6} }}
filter announced {{ {extra} accept; }}
protocol bgp b4 {{ local 10.99.{number}.2 as {asn}; neighbor 10.99.{number}.1 as 65001; {option} hold time 9;
    error wait time 1, 2; connect retry time 1; ipv4 {{ import all; export filter announced; }}; }}
protocol bgp b6 {{ local fd99:{number}::2 as {asn}; neighbor fd99:{number}::1 as 65001; hold time 9;
    error wait time 1, 2; connect retry time 1; ipv6 {{ import all; export filter announced; }}; }}
"""


def neighbor(name: str, number: int, version: int, remote_as: int, **more: object) -> NeighborSettings:
    net = "10.99.{}.{}" if version == 4 else "fd99:{}::{}"
    values: dict[str, object] = {"hold_time": 9, **more}
    return NeighborSettings(
        name,
        ip_address(net.format(number, 2)),
        remote_as,
        ip_address(net.format(number, 1)),
        **values,  # type: ignore[arg-type]
    )


class Supervised(ExabgpProcess):
    """ExaBGP without the service that stands between it and the daemon (gateway/runtime/bgp_unit.py)."""

    drained = False

    async def start(self, settings: SpeakerSettings) -> None:
        await self.adopt()
        await self.run(render(settings))

    async def reload(self, settings: SpeakerSettings) -> None:
        await self.run(render(settings))


class Daemon:
    """The part of the daemon this needs: one core, one process, one timer."""

    def __init__(self, directory: Path, namespace: str, settings: SpeakerSettings) -> None:
        self.speaker = Speaker(settings)
        self.settings = settings
        self.effects: list[Effect] = []
        self.best: dict[Prefix, BgpPath] = {}
        self.withdrawn: list[Prefix] = []
        self.process = Supervised(
            directory,
            on_lines=lambda lines: self.do(lambda now: self.speaker.receive(b"\n".join(lines).decode(), now)),
            on_up=lambda generation: self.command(ProcessUp(generation)),
            on_down=lambda: self.command(ProcessDown()),
            command_prefix=("ip", "netns", "exec", namespace),
        )
        self.timer: asyncio.TimerHandle | None = None
        self.reload: asyncio.Future[None] | None = None

    def command(self, command: Command) -> None:
        self.do(lambda now: self.speaker.command(command, now))

    def do(self, action: Callable[[float], None]) -> None:
        loop = asyncio.get_running_loop()
        action(loop.time())
        for effect in self.speaker.poll():
            self.effects.append(effect)
            if isinstance(effect, SendLine):
                self.process.send(effect.text.encode())
            elif isinstance(effect, Drained):
                self.process.drained = True
            elif isinstance(effect, BestChanged) and effect.path is not None:
                self.best[effect.prefix] = effect.path
            elif isinstance(effect, BestChanged):
                self.withdrawn.append(effect.prefix)
                del self.best[effect.prefix]
            elif isinstance(effect, FollowNextHop) and effect.wanted:
                # There is no FIB here: everything is reached
                loop.call_soon(self.command, NextHop(effect.address, True, effect.instance))
            elif isinstance(effect, SessionsChanged):
                self.reload = asyncio.ensure_future(self.process.reload(self.speaker.session_settings))
        if self.timer is not None:
            self.timer.cancel()
        deadline = self.speaker.next_deadline()
        self.timer = None if deadline is None else loop.call_at(deadline, self.do, self.speaker.handle_deadline)

    def count(self, kind: type[Effect]) -> int:
        return sum(isinstance(effect, kind) for effect in self.effects)

    def stale(self) -> set[str]:
        return {route.prefix for route in self.speaker.routes_status() if route.stale}

    def state(self, name: str) -> str:
        return next(peer.state for peer in self.speaker.peers_status() if peer.name == name)

    async def stop(self) -> None:
        """At once: a graceful end is the system tests' affair, and takes ExaBGP three seconds."""
        pid = self.process.pid
        await self.process.detach()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        await self.process.stop()
        self.cancel()

    def cancel(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


async def eventually(what: str, condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.03)


@asynccontextmanager
async def running(directory: Path, lab: Lab, settings: SpeakerSettings) -> AsyncIterator[Daemon]:
    daemon = Daemon(directory, lab.gateway, settings)
    try:
        await daemon.process.start(settings)
        yield daemon
    finally:
        await daemon.stop()


def run(main: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
