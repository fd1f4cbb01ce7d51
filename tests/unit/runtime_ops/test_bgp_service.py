"""ExaBGP as a service: the newest settings win, a failure is said once and tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.bgp.settings import SpeakerSettings
from gateway.runtime import bgp_service, exabgp
from gateway.runtime.bgp_service import BgpService
from gateway.runtime.exabgp import ExabgpConfigError, ExabgpProcess

SETTINGS = SpeakerSettings(65010, IPv4Address("10.0.0.1"), (), 120.0, (), (), 179)


@dataclass
class Model:
    """ExabgpProcess without a process; `refuse` is what the next attempts say."""

    refuse: list[str] = field(default_factory=list)
    taken: list[SpeakerSettings] = field(default_factory=list)
    busy: int = 0
    overlapped: bool = False
    state: str = "running"

    def __call__(self, _directory: Path, **_callbacks: Any) -> Model:
        return self

    async def start(self, settings: SpeakerSettings) -> None:
        self.busy += 1
        self.overlapped |= self.busy > 1
        await asyncio.sleep(0)
        self.busy -= 1
        if self.refuse:
            raise ExabgpConfigError(self.refuse.pop(0))
        self.taken.append(settings)

    reload = start

    async def stop(self, _wait: float) -> None:
        self.state = ""


def play(model: Model, scenario: Callable[[BgpService], Awaitable[None]], said: list[str]) -> None:
    async def ready() -> None:
        await asyncio.sleep(0)

    async def run() -> None:
        service = BgpService(Path("/nowhere"), lambda _line: None, lambda _command: None, said.append)
        service.start(ready)
        await scenario(service)
        await service.stop(0)

    uvloop.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_quick_reloads_never_overlap_and_the_last_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, said = Model(), list[str]()
    monkeypatch.setattr(bgp_service, "ExabgpProcess", model)
    last = replace(SETTINGS, local_as=65099)

    async def scenario(service: BgpService) -> None:
        for number in range(5):
            service.want(replace(SETTINGS, local_as=65000 + number))
            await asyncio.sleep(0)
        service.want(last)
        await until(lambda: model.taken[-1:] == [last])

    play(model, scenario, said)
    assert not model.overlapped
    assert said == []


def test_a_missing_exabgp_is_said_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "python3: No module named exabgp.__main__;\n'exabgp' cannot be executed"
    model, said = Model(refuse=[missing, missing]), list[str]()
    monkeypatch.setattr(bgp_service, "ExabgpProcess", model)
    monkeypatch.setattr(bgp_service, "RETRY", 0.01)

    async def scenario(service: BgpService) -> None:
        service.want(SETTINGS)
        await until(lambda: bool(service.problem))
        assert service.state == "down"
        await until(lambda: bool(model.taken))
        await until(lambda: not service.problem)
        assert service.state == "running"

    play(model, scenario, said)
    (problem,) = said
    assert problem.startswith("ExaBGP cannot be started, so BGP stays as it is: python3: No module named")
    assert "Python package exabgp" in problem
    assert "\n" not in problem


def test_its_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exabgp, "LOG_LIMIT", 1000)
    process = ExabgpProcess(tmp_path, on_line=print, on_up=print, on_down=print)
    process.trim_log()
    log = tmp_path / "exabgp.log"
    with log.open("ab") as held:
        for number in range(2000):
            held.write(f"{number:05d}\n".encode())
            held.flush()
            if number % 100 == 0:
                process.trim_log()
    process.trim_log()
    assert log.stat().st_size <= 1000
    old = tmp_path / "exabgp.log.1"
    assert old.stat().st_size <= 1000
    assert old.stat().st_mode & 0o777 == 0o600
    assert (old.read_text() + log.read_text()).endswith("01999\n")
