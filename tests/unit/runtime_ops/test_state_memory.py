"""Memory that outlives the process: torn writes, another release, no room, erased for good, and never resized."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from random import Random

import pytest

from gateway.runtime import state_memory
from gateway.runtime.state_memory import HALF, StateMemory, UnknownStateError


@pytest.fixture
def memory() -> Iterator[StateMemory]:
    made = StateMemory.create(1)
    yield made
    made.close()


def again(memory: StateMemory) -> StateMemory:
    """As the next process finds it."""
    return StateMemory(os.dup(memory.fd))


def test_what_was_written_last_is_found_by_the_next_process(memory: StateMemory) -> None:
    for number in range(5):
        assert memory.write("azure", b"state %d" % number)
        assert memory.write("aws", b"other %d" % number)
    memory.erase("aws")
    assert again(memory).contents() == {"azure": b"state 4"}


@pytest.mark.parametrize("seed", range(40))
def test_a_write_that_was_cut_anywhere_leaves_the_one_before(seed: int) -> None:
    """As kill -9 does: some octets of the last write are there, others are not."""
    chance = Random(seed)
    memory = StateMemory.create(1)
    memory.write("azure", b"first" * 50)
    before = os.pread(memory.fd, os.fstat(memory.fd).st_size, 0)
    memory.write("azure", b"second" * 50)
    after = os.pread(memory.fd, len(before), 0)
    changed = [at for at in range(len(before)) if before[at] != after[at]]
    for at in chance.sample(changed, chance.randrange(1, len(changed))):
        os.pwrite(memory.fd, before[at : at + 1], at)
    assert again(memory).contents() == {"azure": b"first" * 50}
    memory.close()


def test_it_goes_on_in_turn_after_a_cut_write(memory: StateMemory) -> None:
    memory.write("azure", b"one")
    second = again(memory)
    second.write("azure", b"two")
    third = again(memory)
    third.write("azure", b"three")
    assert again(memory).contents() == {"azure": b"three"}


def test_what_is_erased_is_nowhere_any_more(memory: StateMemory) -> None:
    secret = b"\x8b\x12 a key \xff"
    for _ in range(3):
        memory.write("azure", secret)
    memory.erase("azure")
    assert secret not in os.pread(memory.fd, os.fstat(memory.fd).st_size, 0)


def test_what_does_not_fit_is_not_kept_and_neither_is_what_was_before(memory: StateMemory) -> None:
    memory.write("azure", b"small")
    assert not memory.write("azure", bytes(HALF))
    assert again(memory).contents() == {}


def test_more_connections_than_there_is_room_for(memory: StateMemory) -> None:
    names = [f"c{number}" for number in range(state_memory.LEAST_PLACES)]
    assert all(memory.write(name, b"x") for name in names)
    assert memory.room == 0
    assert not memory.write("one more", b"x")
    memory.erase(names[0])
    assert memory.write("one more", b"x")
    assert again(memory).contents().keys() == {*names[1:], "one more"}


def test_only_who_ended_in_order_is_clean(memory: StateMemory) -> None:
    memory.end()
    assert again(memory).clean
    assert not again(memory).clean, "the one in between had no last word"


def test_state_of_another_release_is_refused_with_its_number(
    memory: StateMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_memory, "VERSION", state_memory.VERSION + 1)
    with pytest.raises(UnknownStateError, match=f"state of version {state_memory.VERSION - 1}"):
        again(memory)


def test_a_memory_that_is_not_sealed_is_not_ours() -> None:
    fd = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 20)
    with pytest.raises(UnknownStateError):
        StateMemory(fd)
    os.close(fd)


def test_nobody_can_resize_it(memory: StateMemory) -> None:
    with pytest.raises(OSError, match="not permitted") as refused:
        os.ftruncate(memory.fd, 0)
    assert refused.value.errno == errno.EPERM


def test_keys_of_before_do_not_stay_behind_what_is_shorter(memory: StateMemory) -> None:
    secret = b"\x8b\x12 a key \xff"
    for _ in range(2):
        memory.write("azure", b"two pairs of SAs " + secret)
    for _ in range(2):
        memory.write("azure", b"one pair")
    assert secret not in os.pread(memory.fd, os.fstat(memory.fd).st_size, 0)


def test_processes_that_did_not_settle_are_counted(memory: StateMemory) -> None:
    second = again(memory)
    assert (memory.starts, second.starts) == (0, 1)
    assert again(memory).starts == 2
    second.settled()
    assert again(memory).starts == 0
    second.end()
    assert again(memory).starts == 0
