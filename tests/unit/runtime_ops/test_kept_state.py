"""From what a connection is to memory that outlives the process, and back; and what nobody goes on from."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace

import pytest
from simulation import schedules
from simulation.world import World

from gateway.esp.dataplane import Direction
from gateway.node.keeping import Keep, KeptConnection
from gateway.runtime import kept_state
from gateway.runtime.fd_store import FdStore, Inherited
from gateway.runtime.kept_state import KeptState, decode, encode
from gateway.runtime.progress_memory import which
from gateway.runtime.state_memory import HALF, LEAST_PLACES, StateMemory
from gateway.runtime.tun import interface_name

STORE = FdStore({})


@pytest.fixture(scope="module")
def kept() -> KeptConnection:
    """Of a connection that two nodes of the simulator set up."""
    world = World(1, schedules.compose(1).plan)
    world.start().converge(schedules.PATIENCE)
    return world.shells["a"].kept["site"]


def inherited(state: KeptState) -> Inherited:
    """As the manager passes it on: copies."""
    return Inherited({"state": [os.dup(state._memory.fd)], "progress": [os.dup(state.progress.fd)]})


def test_what_is_kept_comes_back_as_it_was(kept: KeptConnection) -> None:
    assert decode(encode(kept)) == kept
    state = KeptState(Inherited(), STORE, 1)
    state.keep(Keep("site", kept))
    assert KeptState(inherited(state), STORE, 1).earlier.connections == {"site": kept}
    state.keep(Keep("site", None))
    assert KeptState(inherited(state), STORE, 1).earlier.connections == {}


def test_secrets_are_not_in_its_representation(kept: KeptConnection) -> None:
    secret = kept.sas[0].event.encryption_key_out
    assert secret.hex() not in repr(kept)
    assert repr(secret) not in repr(kept)
    assert repr(kept.ike.keys.sk_d) not in repr(kept)


def test_what_the_data_plane_wrote_itself_is_never_gone_below(kept: KeptConnection) -> None:
    """An IV is used once: of two numbers for one SA the higher one counts, also after an orderly end."""
    one = replace(kept.sas[0], granted=100, seen=70, exact=True)
    spis = one.event.spi_out, one.event.spi_in
    ends = [which(direction, interface_name("site")) for direction in (Direction.OUTBOUND, Direction.INBOUND)]
    for sent, seen, expected in ((90, 60, (100, 70)), (120, 80, (120, 80))):
        found = kept_state._exact("site", one, {(spis[0], ends[0]): sent, (spis[1], ends[1]): seen})
        assert (found.granted, found.seen) == expected
    limit = replace(one, granted=1 << 24, exact=False)
    found = kept_state._exact("site", limit, {(spis[0], ends[0]): 90, (spis[1], ends[1]): 60})
    assert (found.granted, found.seen, found.exact) == (90, 60, True)
    assert not kept_state._exact("site", limit, {}).exact, "then only the limit is certain"


def test_more_connections_than_at_the_start_have_room(kept: KeptConnection) -> None:
    state = KeptState(Inherited(), STORE, 1)
    names = [f"c{number}" for number in range(LEAST_PLACES + 1)]
    for name in names:
        state.keep(Keep(name, replace(kept, name=name)))
    assert KeptState(inherited(state), STORE, 1).earlier.connections.keys() == set(names)


def test_what_does_not_fit_is_said_once_and_keeps_nobody_else_out(
    kept: KeptConnection, caplog: pytest.LogCaptureFixture
) -> None:
    state = KeptState(Inherited(), STORE, 1)
    long = replace(kept, sas=kept.sas * (HALF // 400))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            state.keep(Keep("site", long))
    assert [record.event for record in caplog.records] == ["state-not-kept"]  # type: ignore[attr-defined]
    state.keep(Keep("site", kept))
    assert KeptState(inherited(state), STORE, 1).earlier.connections == {"site": kept}


def test_a_state_that_ended_three_processes_is_wiped_and_not_taken_up_again(
    kept: KeptConnection, caplog: pytest.LogCaptureFixture
) -> None:
    state = KeptState(Inherited(), STORE, 1)
    state.keep(Keep("site", kept))
    fd = os.dup(state._memory.fd)
    for _ in range(kept_state.STARTS - 1):
        assert KeptState(inherited(state), STORE, 1).earlier.connections
    with caplog.at_level(logging.ERROR):
        assert KeptState(inherited(state), STORE, 1).earlier.connections == {}
    assert "all begins anew" in caplog.text
    assert not any(os.pread(fd, os.fstat(fd).st_size, 0)), "no key is left in it"
    os.close(fd)


def test_what_cannot_be_read_begins_anew_and_the_others_go_on(kept: KeptConnection) -> None:
    state = KeptState(Inherited(), STORE, 1)
    state.keep(Keep("site", kept))
    state._memory.write("depot", b'[{"name": "depot"}]')
    assert KeptState(inherited(state), STORE, 1).earlier.connections == {"site": kept}


class Forgetful(FdStore):
    """A manager that does not hear what it is to let go of."""

    def __init__(self) -> None:
        super().__init__({})
        self.held: dict[str, list[int]] = {}

    def keep(self, name: str, fds: Sequence[int]) -> None:
        self.held.setdefault(name, []).extend(os.dup(fd) for fd in fds)

    def drop(self, name: str) -> None:
        """Lost."""


def test_the_memory_before_it_grew_is_no_memory_even_where_the_manager_still_has_it(kept: KeptConnection) -> None:
    store = Forgetful()
    state = KeptState(Inherited(), store, 1)
    names = [f"c{number}" for number in range(LEAST_PLACES + 1)]
    for name in names:
        state.keep(Keep(name, replace(kept, name=name)))
    later = replace(kept, name="c0", mtu=kept.mtu + 1)
    state.keep(Keep("c0", later))
    first, _ = store.held["state"]
    assert b"key" not in os.pread(first, os.fstat(first).st_size, 0), "none is left in it"
    found = KeptState(Inherited({name: list(fds) for name, fds in store.held.items()}), STORE, 1).earlier.connections
    assert found["c0"] == later
    assert found.keys() == set(names)


@pytest.mark.parametrize("settled", [False, True])
def test_a_memory_that_grew_counts_the_starts_as_the_one_before(kept: KeptConnection, settled: bool) -> None:
    state = KeptState(Inherited(), STORE, 1)
    if settled:
        state.settled()
    for number in range(LEAST_PLACES + 1):
        state.keep(Keep(f"c{number}", replace(kept, name=f"c{number}")))
    assert StateMemory(os.dup(state._memory.fd)).starts == int(not settled)
