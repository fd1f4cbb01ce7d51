"""How far each SA is, in memory that outlives the process: found again by SPI and device, freed, never gone back."""

from __future__ import annotations

import os
import struct

import pytest
from support.esp_material import GCM_SUITES, sa_parameters

from gateway.esp.dataplane import Direction
from gateway.runtime.progress_memory import LEAST, PLACE, ProgressMemory, which

GCM = GCM_SUITES[0]
OUT, IN = Direction.OUTBOUND, Direction.INBOUND


def write(memory: ProgressMemory, place: int, number: int) -> None:
    """As a worker of the data plane does."""
    os.pwrite(memory.fd, struct.pack("<Q", number), place * PLACE)


def again(memory: ProgressMemory) -> ProgressMemory:
    return ProgressMemory(os.dup(memory.fd))


def test_the_next_process_finds_how_far_each_direction_is() -> None:
    memory = ProgressMemory.create(1)
    write(memory, memory.take(sa_parameters(OUT, 0x1000, GCM), "gw-site"), 4711)
    write(memory, memory.take(sa_parameters(IN, 0x1000, GCM), "gw-site"), 12)
    found = again(memory).found
    assert found == {(0x1000, which(OUT, "gw-site")): 4711, (0x1000, which(IN, "gw-site")): 12}


def test_of_two_places_for_one_sa_the_one_that_is_further_counts() -> None:
    """Left by a process that was killed while it resumed: going back would repeat an IV."""
    first = ProgressMemory.create(1)
    first.take(sa_parameters(OUT, 0x2000, GCM), "gw-site")
    before = first.take(sa_parameters(OUT, 0x1000, GCM), "gw-site")
    write(first, before, 50)
    second = again(first)
    after = second.take(sa_parameters(OUT, 0x1000, GCM), "gw-site")
    write(second, after, 70)
    assert after != before
    # The other way round, too
    os.pwrite(second.fd, os.pread(second.fd, PLACE, after * PLACE), 9 * PLACE)
    write(second, 9, 90)
    assert again(second).found[0x1000, which(OUT, "gw-site")] == 90
    write(second, 9, 60)
    assert again(second).found[0x1000, which(OUT, "gw-site")] == 70


def test_a_removed_sa_is_found_by_nobody_and_its_place_is_used_again() -> None:
    memory = ProgressMemory.create(1)
    sa = sa_parameters(OUT, 0x1000, GCM)
    places = {memory.take(sa_parameters(OUT, 0x1000 + number, GCM), "gw-site") for number in range(LEAST - 1)}
    assert 0 not in places
    assert memory.take(sa, "gw-site") == 0, "there is none left: nobody knows how far this one is"
    memory.free_connection(sa.connection)
    assert again(memory).found == {}
    assert memory.take(sa, "gw-site") in places


def test_what_is_not_sealed_or_of_another_release_is_refused() -> None:
    memory = ProgressMemory.create(1)
    os.pwrite(memory.fd, b"gwprog99", 0)
    with pytest.raises(ValueError, match="another release"):
        again(memory)
    fd = os.memfd_create("forged", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, PLACE * 4)
    with pytest.raises(ValueError, match="not ours"):
        ProgressMemory(fd)
    os.close(fd)
