"""The sealed way of the copies: who does not know the secret learns nothing, says nothing and stops nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.heartbeat_network import SeededRandom

from gateway.ha.replica_channel import HELLO_OCTETS, LONGEST, Channel, ChannelError

SECRET, OTHER = b"a secret of the pair, long enough", b"another secret, also long enough"


def channel(*, dialed: bool, seed: int = 1, secrets: tuple[bytes, ...] = (SECRET,), cluster: int = 0) -> Channel:
    return Channel(secrets, cluster, dialed, SeededRandom(seed + dialed))


def pair(**changes: object) -> tuple[Channel, Channel]:
    """Both said hello."""
    one, other = channel(dialed=True), channel(dialed=False, **changes)  # type: ignore[arg-type]
    assert list(one.receive(other.hello)) == list(other.receive(one.hello)) == []
    return one, other


def test_contents_arrive_in_both_directions_however_they_are_cut() -> None:
    one, other = pair()
    chance = random.Random(3)
    contents = [chance.randbytes(size) for size in (0, 1, 100, 40000, LONGEST)]
    octets = b"".join(map(one.seal, contents))
    found = []
    while octets:
        size = chance.randrange(1, 5000)
        found += list(other.receive(octets[:size]))
        octets = octets[size:]
    assert found == contents
    assert other.authentic
    assert not one.authentic
    assert list(one.receive(other.seal(b"back"))) == [b"back"]


@pytest.mark.parametrize("change", [{"secrets": (OTHER,)}, {"cluster": 1}])
def test_another_secret_or_another_pair_is_refused(change: dict[str, object]) -> None:
    one, other = pair(**change)
    with pytest.raises(ChannelError, match="does not have the secret"):
        list(one.receive(other.seal(b"x")))
    assert not one.authentic


def test_an_older_secret_is_understood_in_both_directions() -> None:
    one, other = pair(secrets=(OTHER, SECRET))
    with pytest.raises(ChannelError):
        list(one.receive(other.seal(b"x")))
    one, other = channel(dialed=True, secrets=(OTHER, SECRET)), channel(dialed=False, secrets=(SECRET, OTHER))
    assert list(one.receive(other.hello)) == list(other.receive(one.hello)) == []
    assert list(one.receive(other.seal(b"x"))) == list(other.receive(one.seal(b"x"))) == [b"x"]


def test_a_recording_is_worth_nothing() -> None:
    one, other = pair()
    frame = one.seal(b"x")
    assert list(other.receive(frame)) == [b"x"]
    with pytest.raises(ChannelError):
        list(other.receive(frame))
    later = channel(dialed=False, seed=7)
    assert list(later.receive(one.hello)) == []
    with pytest.raises(ChannelError):
        list(later.receive(frame))


def test_a_mirror_is_no_other_gateway() -> None:
    one = channel(dialed=True)
    with pytest.raises(ChannelError, match="mirror"):
        list(one.receive(one.hello))
    one, _ = pair()
    with pytest.raises(ChannelError):
        list(one.receive(one.seal(b"x")))


def test_a_key_that_makes_the_shared_secret_known_is_refused() -> None:
    one = channel(dialed=True)
    with pytest.raises(ChannelError, match="low order"):
        list(one.receive(one.hello[:-32] + bytes(32)))


@pytest.mark.parametrize(
    ("octets", "why"), [(b"GET / HTTP/1.1\r\n" * 8, "no gatewayd"), (b"GWRS\x02" + bytes(64), "version 2")]
)
def test_who_says_something_else_is_named(octets: bytes, why: str) -> None:
    with pytest.raises(ChannelError, match=why):
        list(channel(dialed=False).receive(octets))


@pytest.mark.parametrize("length", [0, 15, LONGEST + 17, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_is_not_waited_for(length: int) -> None:
    one, _ = pair()
    with pytest.raises(ChannelError, match="a frame of"):
        list(one.receive(length.to_bytes(4, "big")))


def test_what_is_too_long_is_not_sealed() -> None:
    one, _ = pair()
    with pytest.raises(ChannelError):
        one.seal(bytes(LONGEST + 1))
    with pytest.raises(ChannelError):
        channel(dialed=True).seal(b"too early")


@given(octets=st.binary(max_size=400), at=st.integers(0, HELLO_OCTETS + 60), change=st.integers(1, 255))
def test_hostile_octets_end_in_channel_errors_only(octets: bytes, at: int, change: int) -> None:
    one, other = channel(dialed=True), channel(dialed=False)
    list(one.receive(other.hello))
    list(other.receive(one.hello))
    said = bytearray(one.hello + one.seal(b"state"))
    said[at % len(said)] ^= change
    for hostile in (bytes(said), one.hello + octets, octets):
        fresh = channel(dialed=False)
        try:
            found = list(fresh.receive(hostile))
        except ChannelError:
            continue
        assert found == []
        assert not fresh.authentic
