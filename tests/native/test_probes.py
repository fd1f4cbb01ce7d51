"""gateway._native.Probes: what Python gives the probe thread and what it gets back. What the thread does with it: native/tests."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest

from gateway import _native

PACKET, MASK = bytes(range(24)), b"\xff" * 24
KEY = int.from_bytes(PACKET[8:12], "big")


@pytest.fixture
def probes() -> Iterator[_native.Probes]:
    made = _native.Probes()
    yield made
    made.stop()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours and the peer's, on loopback."""
    with socket.socket(type=socket.SOCK_DGRAM) as ours, socket.socket(type=socket.SOCK_DGRAM) as peer:
        ours.bind(("127.0.0.1", 0))
        peer.bind(("127.0.0.2", 0))
        peer.settimeout(5)
        yield ours, peer


def add(probes: _native.Probes, ends: tuple[socket.socket, socket.socket], number: int = 7, key: int = KEY) -> None:
    ours, peer = ends
    probes.add(number, "bfd", key, ours.fileno(), "127.0.0.1", peer.getsockname(), 0, 0)


def news(probes: _native.Probes) -> list[tuple[int, int, float, bytes | None]]:
    assert select.select([probes.event_fd()], [], [], 5)[0]
    return probes.news()


def test_it_sends_tells_what_is_new_and_says_when_it_is_silent(
    probes: _native.Probes, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, peer = ends
    probes.listen(ours.fileno(), "bfd")
    add(probes, ends)
    began = time.monotonic()
    probes.arm(7, b"hello", 10_000_000, 20_000_000, PACKET, MASK, 300_000_000, 3, True)
    assert peer.recv(64) == peer.recv(64) == b"hello"
    peer.sendto(PACKET, ours.getsockname())  # as expected: alive, and not told
    peer.sendto(PACKET[:-1] + b"!", ours.getsockname())
    ((number, generation, at, octets),) = news(probes)
    assert (number, generation, octets) == (7, 3, PACKET[:-1] + b"!")
    assert began < at < time.monotonic()
    ((number, generation, at, octets),) = news(probes)
    assert (number, generation, octets) == (7, 3, None)
    assert at - began >= 0.3
    (row,), refused = probes.statistics()
    assert (row[0], row[3], row[4]) == (7, 2, 1)
    assert row[1] >= 10
    assert began < row[5] < at
    assert refused == (0,) * len(_native.PROBE_REFUSALS)


def test_a_removed_probe_is_silent_and_its_socket_is_not_touched(
    probes: _native.Probes, ends: tuple[socket.socket, socket.socket]
) -> None:
    ours, peer = ends
    probes.listen(ours.fileno(), "bfd")
    add(probes, ends)
    probes.arm(7, b"hello", 1_000_000, 2_000_000, b"", b"", 0, 1, True)
    peer.recv(64)
    probes.remove(7)
    probes.unlisten(ours.fileno())
    peer.setblocking(False)
    while select.select([peer], [], [], 0.05)[0]:
        peer.recv(64)
    assert probes.statistics()[0] == []


def test_what_is_wrong_has_a_sentence(probes: _native.Probes, ends: tuple[socket.socket, socket.socket]) -> None:
    add(probes, ends)
    with pytest.raises(ValueError, match="this id"):
        add(probes, ends)
    with pytest.raises(ValueError, match="another probe's"):
        add(probes, ends, 8)
    with pytest.raises(ValueError, match="unknown kind: ping"):
        probes.listen(ends[0].fileno(), "ping")
    with pytest.raises(ValueError, match="more than 128 octets"):
        probes.arm(7, bytes(129), 1, 1, b"", b"", 0, 1, False)
    with pytest.raises(ValueError, match="mask"):
        probes.arm(7, b"", 0, 0, b"x", b"xx", 0, 1, False)
    with pytest.raises(ValueError, match="interval"):
        probes.arm(7, b"x", 0, 0, b"", b"", 0, 1, False)
    with pytest.raises(ValueError, match="no such probe"):
        probes.send(9, b"x")
    with pytest.raises(OSError, match="does not tell"):
        probes.listen(0, "bfd")
    probes.stop()
    probes.stop()
    with pytest.raises(ValueError, match="stopped"):
        probes.remove(7)
    assert probes.news() == []
