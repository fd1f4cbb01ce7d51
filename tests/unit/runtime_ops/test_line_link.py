"""Lines over a UNIX socket: whole, in order, some at a time, held back, and from our own user alone."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from gateway.runtime import line_link
from gateway.runtime.line_link import LINES_AT_ONCE, LineLink, listen


class Owner:
    def __init__(self) -> None:
        self.link: LineLink | None = None
        self.portions: list[list[bytes]] = []
        self.full: list[bool] = []
        self.lost = 0

    def link_made(self, link: LineLink) -> None:
        self.link = link

    def link_lines(self, link: LineLink, lines: list[bytes]) -> None:
        self.portions.append(lines)

    def link_lost(self, link: LineLink) -> None:
        self.lost += 1

    def link_full(self, link: LineLink, full: bool) -> None:
        self.full.append(full)

    @property
    def lines(self) -> list[bytes]:
        return [line for portion in self.portions for line in portion]


def play(path: Path, scenario: Callable[[Owner, socket.socket], Awaitable[None]]) -> Owner:
    owner = Owner()

    async def run() -> None:
        server = await listen(owner, str(path))
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            other.setblocking(False)
            await scenario(owner, other)
        server.close()

    uvloop.run(run())
    return owner


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def test_lines_come_whole_in_order_and_some_at_a_time(tmp_path: Path) -> None:
    wanted = [f"line {number}".encode() for number in range(1000)]

    async def scenario(owner: Owner, other: socket.socket) -> None:
        text = b"\n".join(wanted) + b"\nhalf"
        for start in range(0, len(text), 37):
            other.send(text[start : start + 37])
        await until(lambda: len(owner.lines) == 1000)
        other.send(b" and half\n")
        await until(lambda: len(owner.lines) == 1001)

    owner = play(tmp_path / "s", scenario)
    assert owner.lines == [*wanted, b"half and half"]
    assert max(map(len, owner.portions)) <= LINES_AT_ONCE


def test_while_held_nothing_is_taken_and_afterwards_everything(tmp_path: Path) -> None:
    async def scenario(owner: Owner, other: socket.socket) -> None:
        await until(lambda: owner.link)
        assert owner.link is not None
        owner.link.hold(True)
        other.send(b"one\ntwo\n")
        await asyncio.sleep(0.05)
        assert owner.lines == []
        owner.link.hold(False)
        await until(lambda: len(owner.lines) == 2)

    assert play(tmp_path / "s", scenario).lines == [b"one", b"two"]


def test_who_does_not_read_is_noticed_and_a_bounded_link_ends(tmp_path: Path) -> None:
    async def scenario(owner: Owner, other: socket.socket) -> None:
        await until(lambda: owner.link)
        assert owner.link is not None
        while not owner.full:
            owner.link.send(b"x" * 65536)
            await asyncio.sleep(0)
        assert owner.full == [True]
        while owner.link.send_bounded(b"x" * 65536):
            await asyncio.sleep(0)
        await until(lambda: owner.lost)
        assert owner.link.closing

    play(tmp_path / "s", scenario)


def test_a_line_without_end_ends_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_link, "LINE_LIMIT", 1000)

    async def scenario(owner: Owner, other: socket.socket) -> None:
        other.send(b"x" * 2000)
        await until(lambda: owner.lost)

    assert play(tmp_path / "s", scenario).lines == []


def test_the_socket_is_our_users_and_strangers_who_get_there_all_the_same_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def mode(owner: Owner, other: socket.socket) -> None:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600

    play(tmp_path / "s", mode)
    monkeypatch.setattr(line_link, "_ours", lambda peer: False)

    async def scenario(owner: Owner, other: socket.socket) -> None:
        async with asyncio.timeout(5):
            while True:
                await asyncio.sleep(0.001)
                try:
                    if other.recv(1) == b"":
                        break
                except BlockingIOError:
                    continue
        assert owner.link is None

    play(tmp_path / "t", scenario)
