"""The notify protocol of systemd (sd_notify(3)), without libsystemd. Every call is nothing when not under systemd.

READY=1 goes out once sockets are bound and the configuration is applied, not when tunnels are up. WATCHDOG=1 goes
out only while the event loop turns *and* no data plane worker is stuck.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping

from gateway.observe.liveness import Liveness
from gateway.observe.snapshot import Snapshot
from gateway.observe.text import printable
from gateway.runtime.turns import turns
from gateway.runtime.unit import JOB_TIMEOUT, UNIT, is_restart, jobs

PATIENCE = 1.0
"""Seconds for a manager that is busy, where it matters that it hears."""


class Notifier:
    """Talks to the service manager that started us, if one did."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = address(environment.get("NOTIFY_SOCKET", ""))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self._address else None
        self._watchdog = _watchdog_seconds(environment)
        self._status = ""

    @property
    def exists(self) -> bool:
        return self._socket is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between WATCHDOG=1: half of what the unit allows (sd_watchdog_enabled(3)); None when not wanted."""
        return self._watchdog / 2 if self._watchdog is not None else None

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """RELOADING=1; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def main_process(self, pid: int) -> None:
        """From now on that one is the service, which alone is listened to (NotifyAccess=main). OSError when this is not heard,
        also by a manager that stays busy for so long: nothing follows that would make good for it."""
        assert self._socket is not None
        self._socket.settimeout(PATIENCE)
        try:
            self._socket.sendto(f"MAINPID={pid}".encode(), socket.MSG_NOSIGNAL, self._address)
        finally:
            self._socket.settimeout(None)

    def extend_timeout(self, seconds: float) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """The line of `systemctl status`, sent when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={printable(text)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(
                "\n".join(assignments).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address
            )
        except OSError:
            return  # the manager is restarting or its queue is full; a lost line is no reason to stop forwarding


async def attend(notifier: Notifier, snapshot: Callable[[], Snapshot], period: float = 1.0) -> None:
    """Keeps the status line current and the watchdog fed, until cancelled."""
    interval = notifier.watchdog_interval
    liveness = Liveness(patience=interval if interval is not None else 5.0)
    period = min(period, interval) if interval is not None else period
    fed = float("-inf")

    async def turn() -> None:
        nonlocal fed
        picture, now = snapshot(), time.monotonic()
        notifier.status(status_line(picture))
        stuck = liveness.stuck(picture.workers, now)
        if interval is not None and not stuck and now - fed >= interval / 2:
            notifier.watchdog()
            fed = now

    # One that fails withholds the watchdog, too
    await turns(turn, "the service manager hears nothing", lambda: period)


async def restarting(environment: Mapping[str, str] | None = None) -> bool:
    """Whether we are told to stop only to be started again, as far as the manager tells: its job for our unit is a restart.

    False when in doubt: then everything is withdrawn, which costs some moments, but no packet goes into nothing.
    """
    environment = os.environ if environment is None else environment
    unit = environment.get(UNIT, "")
    if not unit:
        return False
    try:
        asked = await asyncio.create_subprocess_exec(*jobs(unit), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    try:
        async with asyncio.timeout(JOB_TIMEOUT):
            output, _ = await asked.communicate()
    except TimeoutError:
        asked.kill()
        await asked.wait()
        return False
    return is_restart(output, unit)


def status_line(snapshot: Snapshot) -> str:
    """For example "3/4 tunnels up (down: azure-b), 2/2 BGP peers, pair up"."""
    down = [tunnel.name for tunnel in snapshot.tunnels if not tunnel.up]
    parts = [f"{len(snapshot.tunnels) - len(down)}/{len(snapshot.tunnels)} tunnels up"]
    if down:
        parts[0] += f" (down: {', '.join(down[:3])}{', ...' if len(down) > 3 else ''})"
    if snapshot.peers:
        established = sum(peer.state == "Established" for peer in snapshot.peers)
        parts.append(f"{established}/{len(snapshot.peers)} BGP peers")
    if snapshot.ha is not None:
        parts.append("pair up" if snapshot.ha.peer_up else "pair DOWN")
    if snapshot.problems:
        parts.append(f"{len(snapshot.problems)} host problem(s)")
    return ", ".join(parts)


def address(value: str) -> str:
    """A path, or an abstract name written with a leading "@". Others (vsock) are not for services like this."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else ""


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """WATCHDOG_PID, if set, must be us: the variables may be inherited from a parent."""
    microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(microseconds) / 1e6
