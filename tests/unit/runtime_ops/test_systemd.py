"""The notify protocol against a real datagram socket, path and abstract."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from support.snapshots import FRESH, HEALTHY, TROUBLED

from gateway.observe.snapshot import WorkerStatus
from gateway.runtime import systemd
from gateway.runtime.systemd import Notifier, attend, status_line


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@gateway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if name.startswith("@") else name)
        listener.setblocking(False)
        yield listener, {"NOTIFY_SOCKET": name}


def received(listener: socket.socket) -> list[str]:
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(listener.recv(4096).decode())
    return messages


def test_the_messages(manager: tuple[socket.socket, dict[str, str]]):
    listener, environment = manager
    notifier = Notifier(environment)
    notifier.ready()
    notifier.status("1/2 tunnels up\nREADY=0")
    notifier.status("1/2 tunnels up\nREADY=0")
    notifier.reloading()
    notifier.extend_timeout(2.5)
    notifier.stopping()
    ready, status, reloading, extend, stopping = received(listener)
    assert (ready, stopping, extend) == ("READY=1", "STOPPING=1", "EXTEND_TIMEOUT_USEC=2500000")
    assert status == "STATUS=1/2 tunnels up\\nREADY=0", "once, and a line break cannot smuggle an assignment in"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")


def test_another_main_process_is_told_or_it_is_an_error(
    manager: tuple[socket.socket, dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    listener, environment = manager
    monkeypatch.setattr(systemd, "PATIENCE", 0.2)
    notifier = Notifier(environment)
    notifier.main_process(4711)
    assert received(listener) == ["MAINPID=4711"]
    for _ in range(100_000):
        notifier.ready()
    with pytest.raises(OSError):
        notifier.main_process(4712)
    assert "MAINPID=4712" not in received(listener)
    notifier.ready()
    assert received(listener) == ["READY=1"], "and others go on as ever"


def test_nothing_happens_without_a_manager_or_when_it_went_away(tmp_path: Path):
    for environment in (
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"NOTIFY_SOCKET": str(tmp_path / "gone")},
    ):
        notifier = Notifier(environment)
        notifier.ready()
        notifier.close()
        notifier.ready()


def test_the_watchdog_interval():
    assert Notifier({"WATCHDOG_USEC": "20000000"}).watchdog_interval == 10.0
    assert Notifier({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_interval == 10.0
    assert Notifier({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}).watchdog_interval is None
    for value in ("", "0", "-5", "x"):
        assert Notifier({"WATCHDOG_USEC": value}).watchdog_interval is None


def test_the_watchdog_starves_when_a_worker_is_stuck(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "40000"})
        ticks = [0]
        picture = lambda: replace(HEALTHY, workers=(WorkerStatus(0, ticks[0], 0.0, idle=False),))  # noqa: E731

        async def run() -> tuple[int, int]:
            task = asyncio.create_task(attend(notifier, picture, period=0.005))
            for _ in range(20):
                ticks[0] += 1
                await asyncio.sleep(0.01)
            fed = received(listener).count("WATCHDOG=1")
            await asyncio.sleep(0.1)
            received(listener)
            await asyncio.sleep(0.1)
            task.cancel()
            return fed, received(listener).count("WATCHDOG=1")

        fed, starved = uvloop.run(run())
        assert fed >= 5
        assert starved == 0


def test_the_status_line_says_what_matters():
    assert status_line(TROUBLED) == "1/2 tunnels up (down: onprem-b), 1/1 BGP peers, pair up, 1 host problem(s)"
    assert status_line(FRESH) == "0/1 tunnels up (down: onprem-b)"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo '8842 gatewayd.service restart running'", True),
        ("echo '12 other.service restart waiting'; echo '8842 gatewayd.service restart running'", True),
        ("echo '8842 gatewayd.service stop running'", False),
        ("echo '8842 other.service restart running'", False),
        ("echo 'No jobs running.'", False),
        ("exit 1", False),
        ("exec sleep 60", False),
    ],
)
def test_a_restart_is_told_from_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, expected: bool
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(systemd, "JOB_TIMEOUT", 0.5)
    assert uvloop.run(systemd.restarting({"GATEWAYD_UNIT": "gatewayd.service"})) is expected
    assert uvloop.run(systemd.restarting({})) is False


def test_where_there_is_no_systemctl_it_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert uvloop.run(systemd.restarting({"GATEWAYD_UNIT": "gatewayd.service"})) is False
