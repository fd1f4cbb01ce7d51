"""The C code against the Python reference: every suite and engine, both directions, any length, damage, the window."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.esp_material import ALL_SUITES, CHACHA_SUITES, GCM_SUITES, SeededRandom, keys_for, suite_name, udp4, udp6
from support.esp_shim import BURST, ENGINES, ShimEsp, library

from gateway.esp.dataplane import Suite
from gateway.esp.packet import Drop, EspKeys, Opened, ReplayWindow, open_packet, seal

SPI = 0xDEADBEEF
every_suite = pytest.mark.parametrize("suite", ALL_SUITES, ids=suite_name)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return library(tmp_path_factory.mktemp("shim"))


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, shim: ctypes.CDLL) -> str:
    name: str = request.param
    if shim.shim_engine_resolve(ENGINES[name]) != ENGINES[name]:
        pytest.skip(f"{name} cannot run on this machine")
    return name


@pytest.fixture
def ends(shim: ctypes.CDLL, engine: str, suite: Suite) -> Iterator[tuple[EspKeys, ShimEsp, ShimEsp]]:
    keys = keys_for(suite)
    sealer, opener = (ShimEsp(shim, engine, keys, SPI, seal=direction) for direction in (True, False))
    yield keys, sealer, opener
    sealer.close()
    opener.close()


def bursts(suite: Suite, seed: int) -> Iterator[tuple[list[bytes], list[int], list[int]]]:
    """Bursts of every size class with IPv4 and IPv6 packets of random lengths."""
    source = random.Random(seed)
    sequence = 2**32 - 200 if suite.esn else 1
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 16, 33, 64, 128, BURST):
        payloads, next_headers = [], []
        for _ in range(count):
            data = source.randbytes(source.choice((0, 1, 2, 3, source.randrange(64), source.randrange(1500), 8900)))
            ipv6 = source.random() < 0.5
            payloads.append(udp6("fd00::1", "fd01::1", data) if ipv6 else udp4("10.0.0.1", "10.1.0.1", data))
            next_headers.append(41 if ipv6 else 4)
        yield payloads, next_headers, list(range(sequence, sequence + count))
        sequence += count


@every_suite
def test_python_opens_what_c_seals(suite: Suite, ends: tuple[EspKeys, ShimEsp, ShimEsp]) -> None:
    keys, sealer, _ = ends
    for payloads, next_headers, sequences in bursts(suite, 1):
        packets = sealer.seal(payloads, next_headers, sequences)
        for packet, payload, next_header, sequence in zip(packets, payloads, next_headers, sequences, strict=True):
            assert open_packet(keys, packet, sequence) == Opened(payload, next_header)
            if suite.encryption.aead:
                assert packet == seal(keys, SPI, sequence, payload, next_header, SeededRandom())
            else:
                assert len(packet) == len(seal(keys, SPI, sequence, payload, next_header, SeededRandom()))


@every_suite
def test_c_opens_what_python_seals(suite: Suite, ends: tuple[EspKeys, ShimEsp, ShimEsp]) -> None:
    keys, _, opener = ends
    source = SeededRandom()
    for payloads, next_headers, sequences in bursts(suite, 2):
        items = zip(payloads, next_headers, sequences, strict=True)
        packets = [seal(keys, SPI, sequence, payload, header, source) for payload, header, sequence in items]
        expected = [Opened(payload, header) for payload, header in zip(payloads, next_headers, strict=True)]
        assert opener.open(packets, sequences) == expected


@every_suite
def test_every_short_length_agrees(suite: Suite, ends: tuple[EspKeys, ShimEsp, ShimEsp]) -> None:
    keys, sealer, opener = ends
    payloads = [bytes(range(length)) for length in range(130)]
    sequences = list(range(1, 131))
    packets = sealer.seal(payloads, [4] * 130, sequences)
    assert [open_packet(keys, packet, sequence) for packet, sequence in zip(packets, sequences, strict=True)] == [
        Opened(payload, 4) for payload in payloads
    ]
    assert opener.open(packets, sequences) == [Opened(payload, 4) for payload in payloads]


@every_suite
def test_damage_gets_the_same_verdict(suite: Suite, ends: tuple[EspKeys, ShimEsp, ShimEsp]) -> None:
    """Flipped bits, cuts, extensions, foreign trailers, wrong high halves; alone and in a burst."""
    keys, _, opener = ends
    source = random.Random(3)
    for count in (1, 24):
        packets, sequences = [], []
        for _ in range(count * (40 if count == 1 else 8)):
            header = source.choice((4, 41, 59, 0, 6, 255))
            sequence = source.randrange(1, 2**32)
            packet = bytearray(
                seal(keys, SPI, sequence, source.randbytes(source.randrange(90)), header, SeededRandom())
            )
            match source.randrange(5):
                case 0:
                    packet[source.randrange(len(packet))] ^= 1 << source.randrange(8)
                case 1:
                    del packet[source.randrange(len(packet)) :]
                case 2:
                    packet += source.randbytes(source.randrange(40))
                case 3:
                    sequence += 2**32
            packets.append(bytes(packet))
            sequences.append(sequence)
        expected = [open_packet(keys, packet, number) for packet, number in zip(packets, sequences, strict=True)]
        assert {Drop.TOO_SHORT, Drop.INTEGRITY, Drop.BAD_TRAILER} <= {e for e in expected if isinstance(e, Drop)}
        answers = []
        for start in range(0, len(packets), count):
            answers += opener.open(packets[start : start + count], sequences[start : start + count])
        assert answers == expected


@pytest.mark.parametrize("suite", [*GCM_SUITES, *CHACHA_SUITES], ids=suite_name)
def test_numbers_that_python_refuses_c_refuses(suite: Suite, ends: tuple[EspKeys, ShimEsp, ShimEsp]) -> None:
    keys, sealer, _ = ends
    for sequence in (0, 1, 2**32 - 1, 2**32, 2**64 - 1):
        try:
            expected = seal(keys, SPI, sequence, b"payload", 4, SeededRandom())
        except ValueError:
            expected = b""
        assert sealer.seal([b"payload"], [4], [sequence]) == [expected]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([0, 1, 64, 100, 1024]),
    st.booleans(),
    st.sampled_from([0, 500, 2**32 - 60]),
    st.lists(
        st.one_of(st.integers(-70, 70), st.integers(-1100, 3000), st.integers(2**31 - 5, 2**31 + 5)), max_size=200
    ),
    st.booleans(),
)
def test_windows_agree(shim: ctypes.CDLL, size: int, esn: bool, start: int, steps: list[int], resumed: bool) -> None:
    model = ReplayWindow(size, esn)
    window = ctypes.c_void_p(shim.shim_replay_new(ctypes.c_uint32(size), int(esn)))
    if resumed:
        model.resume(start)
        shim.shim_replay_resume(window, ctypes.c_uint64(start))
    try:
        position = start
        for step in steps:
            position = max(position + step, 0)
            number = model.infer(position % 2**32)
            assert shim.shim_replay_infer(window, ctypes.c_uint32(position % 2**32)) == number
            assert bool(shim.shim_replay_check(window, ctypes.c_uint64(number))) == model.check(number)
            if position % 5:
                assert bool(shim.shim_replay_accept(window, ctypes.c_uint64(number))) == model.accept(number)
    finally:
        shim.shim_replay_free(window)
