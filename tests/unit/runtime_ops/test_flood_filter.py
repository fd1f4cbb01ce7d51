"""The kernel's filter against strangers' requests: what it refuses, and all that it must let pass."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from support.half_open import request

from gateway.runtime import flood_filter

INIT = request()
MARKER = bytes(4)
KNOWN, STRANGER = "127.7.0.1", "127.7.0.2"
OTHER = INIT[:18] + bytes([35]) + INIT[19:]  # IKE_AUTH
ANSWER = INIT[:19] + bytes([0x20]) + INIT[20:]
LATER = INIT[:15] + b"\1" + INIT[16:]  # with a responder SPI
ESP = bytes([0, 0, 1, 0]) + bytes(60)


@contextmanager
def filtered(known: Sequence[str], encapsulated: bool, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((host, 0))
        receiver.setblocking(False)
        code = flood_filter.program(known, encapsulated)
        assert code is not None
        flood_filter.attach([receiver], code)
        yield receiver


def arrives(receiver: socket.socket, source: str, data: bytes) -> bool:
    """On loopback a datagram is there, or lost, when sendto returns."""
    with socket.socket(receiver.family, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(data, receiver.getsockname()[:2])
    try:
        return receiver.recv(65535) == data
    except BlockingIOError:
        return False


@pytest.mark.parametrize("peers", [1, 4, 5, 100, 1300])
def test_requests_of_strangers_are_refused_and_those_of_every_peer_pass(peers: int) -> None:
    others = [f"10.{n >> 8}.{n & 255}.7" for n in range(peers - 1)]
    with filtered([*others, KNOWN], encapsulated=False) as receiver:
        assert arrives(receiver, KNOWN, INIT)
        assert not arrives(receiver, STRANGER, INIT)
        for below_or_above in ("127.0.0.1", "127.255.0.1"):
            assert not arrives(receiver, below_or_above, INIT)


@pytest.mark.parametrize("data", [OTHER, ANSWER, LATER, b"\xff", b"", INIT[:27]], ids=range(6))
def test_all_else_passes_also_from_strangers(data: bytes) -> None:
    with filtered([KNOWN], encapsulated=False) as receiver:
        assert arrives(receiver, STRANGER, data)


def test_on_the_port_of_esp_only_what_is_behind_a_marker_is_judged() -> None:
    with filtered([KNOWN], encapsulated=True) as receiver:
        assert arrives(receiver, KNOWN, MARKER + INIT)
        assert not arrives(receiver, STRANGER, MARKER + INIT)
        for data in (MARKER + OTHER, MARKER + ANSWER, ESP, b"\xff", INIT):
            assert arrives(receiver, STRANGER, data)


def test_without_peers_every_request_is_a_strangers_and_taking_the_filter_off_lets_all_pass() -> None:
    with filtered([], encapsulated=False) as receiver:
        assert not arrives(receiver, STRANGER, INIT)
        flood_filter.detach([receiver])
        assert arrives(receiver, STRANGER, INIT)


@pytest.mark.parametrize(("known", "passes"), [(["2001:db8::1", "::1"], True), (["2001:db8::1", "2001:db8::2"], False)])
def test_over_ipv6_too(known: list[str], passes: bool) -> None:
    with filtered(known, encapsulated=False, host="::1") as receiver:
        assert arrives(receiver, "::1", INIT) is passes
        assert arrives(receiver, "::1", OTHER)


def test_of_more_peers_than_a_program_holds_nobody_is_refused() -> None:
    assert flood_filter.program([f"10.{n >> 8}.{n & 255}.7" for n in range(2000)], encapsulated=True) is None
