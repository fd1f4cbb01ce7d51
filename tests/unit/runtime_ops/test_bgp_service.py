"""The daemon's end of the service that runs ExaBGP: reached, told the newest settings, lost, of another release, absent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.bgp.events import ProcessDown, ProcessUp
from gateway.bgp.settings import NeighborSettings, SpeakerSettings
from gateway.config.bgp_model import Bgp
from gateway.runtime import bgp_service, exabgp
from gateway.runtime.bgp_frames import SOCKET, VERSION, frame, unframe
from gateway.runtime.bgp_service import BgpService, Terms, terms
from gateway.runtime.exabgp import ExabgpProcess
from gateway.runtime.line_link import LineLink, listen

SETTINGS = SpeakerSettings(
    65010, IPv4Address("10.0.0.1"),
    neighbors=(NeighborSettings("edge", IPv4Address("10.0.0.2"), 65020, IPv4Address("10.0.0.1")),),
)  # fmt: skip
UNIT = Terms(child=False, orphan_time=7.0)


@dataclass
class Service:
    """What the service says, as a test wants it; `refuse` is what the next configurations get for an answer."""

    refuse: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    link: LineLink | None = None

    def link_made(self, link: LineLink) -> None:
        self.link = link
        version = self.versions.pop(0) if self.versions else VERSION
        link.send(frame("hello", version=version, release="0.9"))

    def link_lines(self, link: LineLink, lines: list[bytes]) -> None:
        for line in lines:
            message = unframe(line)
            if message is None:
                self.commands.append(line)
                continue
            self.heard.append(dict(message))
            if message["kind"] == "configure":
                refusal = self.refuse.pop(0) if self.refuse else ""
                link.send(frame("refused", text=refusal) if refusal else frame("configured"))
            elif message["kind"] == "stop":
                link.send(frame("stopped"))

    def link_lost(self, link: LineLink) -> None:
        if link is self.link:
            self.link = None

    def link_full(self, link: LineLink, full: bool) -> None: ...

    def kinds(self) -> list[str]:
        return [one["kind"] for one in self.heard]


@dataclass
class Heard:
    lines: list[str] = field(default_factory=list)
    commands: list[object] = field(default_factory=list)
    reports: list[tuple[str, str, str]] = field(default_factory=list)


Scenario = Callable[[BgpService, Service, Heard], Awaitable[None]]


def play(directory: Path, scenario: Scenario, service: Service | None = None, agreed: Terms = UNIT) -> Heard:
    heard, there = Heard(), service or Service()

    async def ready() -> None:
        await asyncio.sleep(0)

    async def run() -> None:
        server = await listen(there, str(directory / SOCKET))
        ours = BgpService(
            directory, heard.lines.append, heard.commands.append, lambda *words: heard.reports.append(words),
            lambda: agreed,
        )  # fmt: skip
        ours.start(ready)
        await scenario(ours, there, heard)
        await ours.stop()
        server.close()

    uvloop.run(run())
    return heard


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_the_newest_settings_are_told_and_lines_pass_both_ways(tmp_path: Path) -> None:
    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.send("lost: there is no link")
        for number in range(5):
            ours.want(replace(SETTINGS, local_as=65000 + number))
        await until(lambda: service.heard)
        assert service.link is not None
        service.link.send(frame("state", state="running"))
        service.link.send(frame("up", generation=3) + b'\n{"a": 1}\ndone')
        await until(lambda: len(heard.lines) > 0)
        ours.send("show neighbor json")
        await until(lambda: service.commands)
        assert ours.state == "running"

    service = Service()
    heard = play(tmp_path, scenario, service)
    assert service.kinds()[:2] == ["hello", "configure"]
    assert service.heard[1]["orphan_time"] == 7.0
    assert service.heard[1]["forwards"] is False
    assert "process gatewayd" in service.heard[1]["text"]
    assert "\n".join(heard.lines) == '{"a": 1}\ndone'
    assert service.commands == [b"show neighbor json"]
    assert heard.commands == [ProcessUp(3), ProcessDown()]
    assert service.kinds()[-1] == "stop"


def test_whether_packets_go_where_they_went_before_is_told_with_the_settings(tmp_path: Path) -> None:
    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.want(SETTINGS, True)
        await until(lambda: service.kinds().count("configure") == 1)
        ours.want(SETTINGS)
        await until(lambda: service.kinds().count("configure") == 2)

    service = Service()
    play(tmp_path, scenario, service)
    assert [one["forwards"] for one in service.heard if one["kind"] == "configure"] == [True, False]


def test_a_refusal_is_said_once_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "python3: No module named exabgp.__main__;\n'exabgp' cannot be executed"
    monkeypatch.setattr(bgp_service, "RETRY", 0.01)

    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.want(SETTINGS)
        await until(lambda: ours.problem)
        assert ours.state == "down"
        await until(lambda: service.kinds().count("configure") == 3 and not ours.problem)

    heard = play(tmp_path, scenario, Service(refuse=[missing, missing]))
    ((level, _, problem),) = heard.reports
    assert level == "error"
    assert problem.startswith("ExaBGP cannot be started, so BGP stays as it is: python3: No module named")
    assert "Python package exabgp" in problem
    assert "\n" not in problem


def test_a_lost_service_is_found_again_and_told_again(tmp_path: Path) -> None:
    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.want(SETTINGS)
        await until(lambda: "configure" in service.kinds())
        assert service.link is not None
        service.link.send(frame("up", generation=1))
        await until(lambda: heard.commands == [ProcessUp(1)])
        service.link.abort()
        await until(lambda: service.kinds().count("configure") == 2)

    heard = play(tmp_path, scenario)
    assert heard.commands == [ProcessUp(1), ProcessDown()]
    assert [event for _, event, _ in heard.reports] == ["bgp-service-lost"]


def test_a_service_of_another_release_is_told_to_start_again(tmp_path: Path) -> None:
    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.want(SETTINGS)
        await until(lambda: "configure" in service.kinds())

    service = Service(versions=[VERSION + 1])
    heard = play(tmp_path, scenario, service)
    assert service.kinds()[:3] == ["restart", "hello", "configure"]
    ((_, event, text),) = heard.reports
    assert event == "bgp-service-restart"
    assert "of release 0.9" in text


def test_leaving_says_nothing_so_that_the_service_waits_for_the_next_daemon(tmp_path: Path) -> None:
    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.want(SETTINGS)
        await until(lambda: "configure" in service.kinds())
        await ours.leave()
        await until(lambda: service.link is None)
        assert "stop" not in service.kinds()

    play(tmp_path, scenario)


def test_a_unit_that_does_not_run_is_a_problem_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bgp_service, "PATIENCE", 0.1)

    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        (tmp_path / SOCKET).unlink()
        ours.want(SETTINGS)
        await until(lambda: ours.problem)

    ((_, _, problem),) = play(tmp_path, scenario).reports
    assert "systemctl start gatewayd-bgp" in problem


def test_our_own_child_is_started_where_nobody_answers_and_ends_with_us(tmp_path: Path) -> None:
    states = []

    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        (tmp_path / SOCKET).unlink()
        ours.want(SETTINGS)
        await until(lambda: states.append(ours.state) or "running" in states)  # type: ignore[func-returns-value]

    heard = play(tmp_path, scenario, agreed=Terms())
    assert heard.reports == []
    assert not (tmp_path / SOCKET).exists()


@pytest.mark.parametrize(
    ("service", "unit", "child"),
    [("auto", False, True), ("auto", True, False), ("child", True, True), ("unit", False, False)],
)
def test_who_starts_it(service: Any, unit: bool, child: bool) -> None:
    environment = {"GATEWAYD_UNIT": "gatewayd.service"} if unit else {}
    assert terms(Bgp(local_as=65001, service=service, orphan_time=3), environment) == Terms(child, 3)


def test_its_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exabgp, "LOG_LIMIT", 1000)
    process = ExabgpProcess(tmp_path, on_lines=print, on_up=print, on_down=print)
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


def test_python_is_asked_for_nothing_beside_what_is_installed() -> None:
    """-P: were it not there, whoever can write where the daemon was started would be imported."""
    source = Path(bgp_service.__file__).read_text()
    assert '"-P", "-m", "gateway.runtime.bgp_unit"' in source
    assert sys.version_info >= (3, 11)


@pytest.mark.parametrize("turns", range(12))
def test_stopped_at_any_moment_of_reaching_it(tmp_path: Path, turns: int) -> None:
    """uvloop closes the transport of a cancelled connect without `connection_lost`, and writing to it raised."""

    async def scenario(ours: BgpService, service: Service, heard: Heard) -> None:
        ours.want(SETTINGS)
        for _ in range(turns):
            await asyncio.sleep(0)

    service = Service()
    play(tmp_path, scenario, service)
    assert service.heard == [] or service.kinds()[-1] == "stop"
