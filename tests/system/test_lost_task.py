"""A part without which nothing goes on ends in a way that nobody thought of: the daemon ends as failed, in order, and is started again:
under a manager that keeps its descriptors the tunnels notice nothing."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from support.kept import devices, ike_spis, managed, said
from support.operated import make_site
from support.pair import Pair, make_pair
from support.process import wait_until
from support.scene import Scene

pytestmark = pytest.mark.system

BREAKS = """
import os
from gateway.runtime import turns

honest = turns.turns

async def breaking(turn, missed, *rest, **named):
    async def until_told():
        if "kernel's routes" in missed and os.path.exists({signal!r}):
            os.unlink({signal!r})
            raise GeneratorExit("not even an Exception")
        await turn()
    await honest(until_told, missed, *rest, **named)

turns.turns = breaking
"""


@pytest.fixture
def pair(scene: Scene) -> Pair:
    return make_pair(scene)


@pytest.fixture
def lose_task(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """In a daemon that is started later: once, at the next news of the underlay."""
    signal = scene.gateway.directory / "break"
    library = scene.gateway.directory / "broken"
    library.mkdir()
    (library / "sitecustomize.py").write_text(BREAKS.format(signal=str(signal)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(library), *filter(None, [os.environ.get("PYTHONPATH")]))))

    def lose() -> None:
        signal.touch()
        for verb in ("add", "del"):  # each is news of the underlay, which is a job
            scene.gateway.run("ip", "address", verb, "192.0.2.77/32", "dev", "lan")

    return lose


def test_the_daemon_ends_as_failed_with_a_word_and_leaves_the_guard(
    scene: Scene, lose_task: Callable[[], None]
) -> None:
    site = make_site(scene)
    site.start()
    process = site.daemon.process
    assert process is not None
    lose_task()
    wait_until(lambda: not process.running, 20, "gatewayd ends", logs=[process])
    assert process.returncode == 1
    (lost,) = [record for record in site.log() if record.get("event") == "task-lost"]
    assert "kernel-routes" in lost["message"]
    assert "not even an Exception" in lost["traceback"]
    assert "blackhole" in site.kernel()
    site.daemon.start()
    site.wait_up()


def test_under_a_manager_the_next_one_goes_on_with_the_tunnel(pair: Pair, lose_task: Callable[[], None]) -> None:
    manager = managed(pair)
    before, index, process = ike_spis(pair), devices(pair), manager.pid
    lose_task()
    wait_until(lambda: manager.pid != process, 20, "another process", logs=[pair.gateway.process])
    wait_until(lambda: pair.gateway.status() is not None, 15, "it answers", logs=[pair.gateway.process])
    assert "ended 1" in manager.events()
    assert said(pair, "ike-resumed") == ["goes on after a restart, with 1 CHILD_SAs"]
    assert (ike_spis(pair), devices(pair)) == (before, index)
    pair.rekeyed_by_both_without_loss()
    pair.no_clear_text()
