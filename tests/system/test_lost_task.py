"""A part without which nothing goes on ends in a way that nobody thought of: the daemon ends as failed, in order, and is started again."""

from __future__ import annotations

import os

import pytest
from support.operated import make_site
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
            raise GeneratorExit("not even an Exception")
        await turn()
    await honest(until_told, missed, *rest, **named)

turns.turns = breaking
"""


def test_the_daemon_ends_as_failed_with_a_word_and_leaves_the_guard(scene: Scene) -> None:
    site = make_site(scene)
    signal = scene.gateway.directory / "break"
    library = scene.gateway.directory / "broken"
    library.mkdir()
    (library / "sitecustomize.py").write_text(BREAKS.format(signal=str(signal)))
    path = os.pathsep.join((str(library), *filter(None, [os.environ.get("PYTHONPATH")])))
    site.daemon.wrapper = ("env", f"PYTHONPATH={path}")
    site.start()
    process = site.daemon.process
    assert process is not None
    signal.touch()
    for verb in ("add", "del"):  # each is news of the underlay, which is a job
        scene.gateway.run("ip", "address", verb, "192.0.2.77/32", "dev", "lan")
    wait_until(lambda: not process.running, 20, "gatewayd ends", logs=[process])
    assert process.returncode == 1
    (lost,) = [record for record in site.log() if record.get("event") == "task-lost"]
    assert "kernel-routes" in lost["message"]
    assert "not even an Exception" in lost["traceback"]
    assert "blackhole" in site.kernel()
    site.daemon.wrapper = ()
    site.daemon.start()
    site.wait_up()
