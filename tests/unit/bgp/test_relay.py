"""The relay as the process it is: ExaBGP's pipes on one side, a UNIX socket on the other."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.process import wait_until

from gateway.runtime import bgp_relay
from gateway.runtime.bgp_relay import Relay

pytestmark = pytest.mark.timeout(60)

FILE = Path(bgp_relay.__file__)


class Bench:
    """The relay's process, and the daemon's listening socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = self.listen()
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(FILE), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()

    def listen(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self.path))
        server.listen()
        server.settimeout(10)
        return server

    def accept(self) -> socket.socket:
        link, _ = self.server.accept()
        link.settimeout(10)
        return link

    def say(self, text: bytes) -> None:
        """As ExaBGP: blocking, so that a relay that does not read would stop it."""
        while text:
            assert select.select([], [self.stdin], [], 10)[1], "the relay does not read"
            text = text[os.write(self.stdin, text[:65536]) :]

    def unread(self) -> int:
        """Octets in the pipe."""
        return int(struct.unpack("i", fcntl.ioctl(self.stdin, termios.FIONREAD, bytes(4)))[0])

    def heard(self, octets: int) -> bytes:
        found = b""
        while len(found) < octets:
            assert select.select([self.stdout], [], [], 10)[0], f"only {found!r}"
            found += os.read(self.stdout, 65536)
        return found

    def close(self) -> None:
        self.server.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "s")
    yield made
    made.close()


def receive(link: socket.socket, octets: int) -> bytes:
    found = b""
    while len(found) < octets and (data := link.recv(65536)):
        found += data
    return found


def test_lines_pass_both_ways_unchanged(bench: Bench) -> None:
    link = bench.accept()
    bench.say(b'{"a": 1}\n{"b"')
    assert receive(link, 13) == b'{"a": 1}\n{"b"'
    bench.say(b": 2}\n")
    assert receive(link, 5) == b": 2}\n"
    link.sendall(b"show neighbor json\nannou")
    assert bench.heard(19) == b"show neighbor json\n"
    link.sendall(b"nce x\n")
    assert bench.heard(11) == b"announce x\n"


def test_a_new_link_begins_with_a_whole_line_and_never_with_what_came_before(bench: Bench) -> None:
    first = bench.accept()
    first.close()
    bench.server.close()
    bench.path.unlink()
    bench.say(b'{"lost": 1}\n{"cut": ')
    time.sleep(0.3)  # the relay reads it without a link: there is nothing that could be waited for
    bench.server = bench.listen()
    link = bench.accept()
    bench.say(b'2}\n{"next": 3}\n')
    assert receive(link, 12) == b'{"next": 3}\n'


def test_an_unfinished_command_dies_with_its_link(bench: Bench) -> None:
    first = bench.accept()
    first.sendall(b"announce half")
    first.close()
    second = bench.accept()
    second.sendall(b"whole\n")
    assert bench.heard(6) == b"whole\n"


def test_no_new_link_while_commands_of_the_old_one_are_unanswered(bench: Bench) -> None:
    first = bench.accept()
    first.sendall(b"one\ntwo\n")
    bench.heard(8)
    first.close()
    bench.server.settimeout(0.6)
    with pytest.raises(TimeoutError):
        bench.server.accept()
    bench.say(b"done\n[\n]\nerr")
    with pytest.raises(TimeoutError):
        bench.server.accept()
    bench.say(b"or\n")
    bench.server.settimeout(10)
    link = bench.accept()
    bench.say(b"fresh\n")
    assert receive(link, 6) == b"fresh\n"


def test_exabgp_is_never_stopped_by_a_daemon_that_is_away_or_does_not_read(bench: Bench) -> None:
    link = bench.accept()
    line = b"x" * 999 + b"\n"
    bench.say(line * 4000)  # nobody reads the link
    assert receive(link, 4_000_000) == line * 4000
    link.close()
    bench.server.close()
    bench.path.unlink()
    bench.say(line * 4000)  # nobody listens
    wait_until(lambda: bench.unread() == 0, 10, "the relay has read all of it")
    bench.server = bench.listen()
    again = bench.accept()
    bench.say(b"now\n")
    assert receive(again, 4) == b"now\n"


def test_the_relay_ends_with_exabgp(bench: Bench) -> None:
    bench.accept()
    assert bench.process.stdin is not None
    bench.process.stdin.close()
    assert bench.process.wait(10) == 0


def test_a_full_buffer_drops_the_link(tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    server.listen()
    (stdin, exabgp), (_, stdout) = os.pipe(), os.pipe()
    relay = Relay(str(tmp_path / "s"), stdin, stdout, buffer_limit=300_000)
    relay._connect()
    assert relay.link is not None
    for _ in range(40):
        os.write(exabgp, b"y" * 59_999 + b"\n")
        relay.turn()
        if relay.link is None:
            break
    assert relay.link is None
    assert not relay.to_daemon
    server.close()


def test_routes_are_gathered_and_answers_are_not_kept_waiting_as_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (theirs, ours), (_, stdout) = socket.socketpair(), socket.socketpair()
    naps: list[float] = []
    monkeypatch.setattr(bgp_relay.time, "sleep", naps.append)
    relay = Relay(str(tmp_path / "nobody"), ours.fileno(), stdout.fileno())
    for said, gathers in (
        (b'{"a": 1}\n', bgp_relay.GATHER),
        (b'{"a": 1}\ndone\n', bgp_relay.GATHER_ANSWERS),
        (b'{"a": 1}\nerr', bgp_relay.GATHER),
        (b"or\n", bgp_relay.GATHER_ANSWERS),
    ):
        theirs.sendall(said)
        assert relay.turn()
        assert relay.gather == gathers
    # before what came next was read
    assert naps == [bgp_relay.GATHER, bgp_relay.GATHER_ANSWERS, bgp_relay.GATHER]
    assert bgp_relay.GATHER_ANSWERS < bgp_relay.GATHER


def test_a_relay_that_nobody_listens_to_withdraws_everything_and_ends_exabgp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bgp_relay, "LONELY", 0.2)
    monkeypatch.setattr(bgp_relay, "LAST_WORDS", ((0.0, b"clear adj-rib out\n"), (0.1, b"shutdown\n")))
    (stdin, exabgp), (heard, stdout) = os.pipe(), os.pipe()
    os.set_blocking(heard, False)
    relay = Relay(str(tmp_path / "s"), stdin, stdout)
    begun = time.monotonic()
    said = b""
    while said.count(b"\n") < 2 and time.monotonic() < begun + 10:
        relay.turn()
        with contextlib.suppress(BlockingIOError):
            said += os.read(heard, 100)
            assert time.monotonic() - begun >= 0.2
    assert said == b"clear adj-rib out\nshutdown\n"
    os.write(exabgp, b"done\ndone\n")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        while relay.link is None and time.monotonic() < begun + 10:
            os.write(exabgp, b"noise\n")
            relay.turn()
        assert relay.last_words == list(bgp_relay.LAST_WORDS), "once more, should it be left again"


def test_the_relay_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(FILE.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)
