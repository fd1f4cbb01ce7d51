"""Where workers run, how they wait, what they count: between two data planes, with the kernel's word for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.dataplane_pair import CONNECTION, Gateway, linked_pair
from support.netns import Lab
from support.process import wait_until
from support.traffic import Iperf, ping

from gateway import _native

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY_THERE, KEY_BACK = bytes(range(20)), bytes(range(100, 120))
THERE, BACK = 0x1001, 0x2002
CPUS = sorted(os.sched_getaffinity(0))

Pair = Callable[..., tuple[Gateway, Gateway]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    opened: list[Gateway] = []

    def make(**settings: Any) -> tuple[Gateway, Gateway]:
        machines = linked_pair(lab)
        left, right = (Gateway(machines[i], f"192.0.2.{i + 1}", i + 1, **settings) for i in (0, 1))
        opened.extend((left, right))
        right.sa("in", THERE, left, KEY_THERE)
        left.sa("in", BACK, right, KEY_BACK)
        left.sa("out", THERE, right, KEY_THERE)
        right.sa("out", BACK, left, KEY_BACK)
        left.plane.replace_policies(CONNECTION, [THERE])
        right.plane.replace_policies(CONNECTION, [BACK])
        return left, right

    with Lab() as lab:
        yield make
        for gateway in opened:
            gateway.close()


def worker_affinities() -> list[tuple[str, set[int]]]:
    """(thread name, CPUs) of every worker of this process, as the kernel has it."""
    tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    named = [(Path(f"/proc/self/task/{task}/comm").read_text().strip(), os.sched_getaffinity(task)) for task in tasks]
    return sorted((name, cpus) for name, cpus in named if name.startswith("gw-worker-"))


def total(gateway: Gateway, name: str) -> int:
    return sum(row[name] for row in gateway.plane.worker_statistics())  # type: ignore[literal-required]


def test_workers_run_where_they_are_told_and_else_anywhere() -> None:
    order = CPUS[::-1][:2]
    for cpus in (order, []):
        plane = _native.DataPlane(len(order), cpus=cpus)
        try:
            expected = [{cpu} for cpu in cpus] or [set(CPUS)] * len(order)
            assert [found for _, found in worker_affinities()] == expected
        finally:
            plane.stop()
    assert os.sched_getaffinity(0) == set(CPUS)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"cpus": [1023]}, OSError, "may not run on its CPU"),
        ({"cpus": [1 << 31]}, OSError, "may not run on its CPU"),
        ({"cpus": [0, 1]}, ValueError, "one CPU for each worker"),
        ({"cpus": [0] * 65}, ValueError, "too many CPUs"),
        ({"cpus": [-1]}, ValueError, "-1 is out of range"),
        ({"cpus": ["0"]}, TypeError, "int"),
        ({"busy_poll_us": 10001}, ValueError, "at most 10000 us"),
        ({"busy_poll_us": -1}, ValueError, "-1 is out of range"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_left_running(
    settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(error, match=words):
        _native.DataPlane(1, **settings)
    assert worker_affinities() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    "settings",
    [{}, {"busy_poll_us": 1000}, {"cpus": CPUS[:1], "count_cycles": True}, {"workers": 2, "busy_poll_us": 200}],
    ids=["as shipped", "busy", "pinned, cycles counted", "two busy workers"],
)
def test_what_the_workers_count_is_exactly_what_the_sas_count(pair: Pair, settings: dict[str, Any]) -> None:
    left, right = pair(**settings)
    server = Iperf(right.machine, right.inner4)
    assert server.measure(left.machine, 1).gbit_per_s > 0.1
    server.stop()
    assert ping(left.machine, right.inner6, count=20).lost == 0
    for sender, receiver, spi in ((left, right, THERE), (right, left, BACK)):
        wait_until(
            lambda s=sender, r=receiver, spi=spi: (  # type: ignore[misc]
                s.statistics("out", spi)["packets"] == r.statistics("in", spi)["packets"]
            ),
            3,
            "nothing is under way",
        )
        sent = sender.statistics("out", spi)["packets"]
        assert total(sender, "packets_out") == sent == total(receiver, "packets_in") > 100
    for gateway in (left, right):
        assert gateway.drops() == {}
        for row in gateway.plane.worker_statistics():
            for direction in ("in", "out"):
                packets, sizes = row[f"packets_{direction}"], row[f"bursts_{direction}"]  # type: ignore[literal-required]
                most = sum(count << place for place, count in enumerate(sizes))
                assert (most + sum(sizes)) // 2 <= packets <= most
            assert {cycles > 0 for cycles in row["cycles"].values()} == {settings.get("count_cycles", False)}


def test_a_busy_worker_finds_what_comes_without_sleeping_and_an_idle_one_sleeps(pair: Pair) -> None:
    left, right = pair(busy_poll_us=10000)

    def polled() -> bool:
        """On a core that others want it gives up at once: then not for a second."""
        assert ping(left.machine, right.inner4, count=50, interval=0.002).lost == 0
        return min(total(left, "empty_polls"), total(right, "empty_polls")) > 200

    wait_until(polled, 15, "it looks again and again")
    wait_until(lambda: all(row["idle"] for row in left.plane.worker_statistics()), 2, "it waits")

    def asleep() -> bool:
        before = left.plane.worker_statistics()[0]
        wait_until(lambda: left.plane.worker_statistics()[0]["ticks"] > before["ticks"], 2, "half a second is over")
        after = left.plane.worker_statistics()[0]
        return after["empty_polls"] == before["empty_polls"] and after["cpu_ns"] - before["cpu_ns"] < 2_000_000

    wait_until(asleep, 5, "it sleeps")


def test_sas_come_and_go_while_workers_look_for_work(pair: Pair) -> None:
    left, right = pair(workers=2, busy_poll_us=10000)
    server = Iperf(right.machine, right.inner4)
    client = server.background(left.machine, 2, 50)
    for generation in range(1, 101):
        right.sa("in", THERE + generation, left, KEY_THERE)
        left.sa("out", THERE + generation, right, KEY_THERE)
        left.plane.replace_policies(CONNECTION, [THERE + generation])
        left.plane.remove_sa("out", CONNECTION, THERE + generation - 1)
    client.wait(10)
    server.stop()
    assert left.drops() == {}
