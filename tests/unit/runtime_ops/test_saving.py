"""What goes into the state directory: in order, the highest epoch, and to the end also when the daemon ends."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.node.effects import SaveGuard, TableGuard
from gateway.routing.guard import guard
from gateway.runtime import epoch_file, saved_guard
from gateway.runtime.saving import Saving

LEARNED = (ip_network("10.9.0.0/16"), ip_network("2001:db8::/32"))


def save(count: int) -> SaveGuard:
    learned = LEARNED[:count]
    return SaveGuard((TableGuard(guard(learned).routes, learned),))


def test_all_that_was_asked_for_is_written_when_it_is_done(tmp_path: Path) -> None:
    async def run() -> None:
        saving = Saving(lambda: tmp_path, lambda level, event, text: pytest.fail(text))
        await saving.done()
        for count in (0, 1, 2):
            saving.save_guard(save(count))
        for epoch in (3, 9, 7):
            saving.save_epoch(epoch)
        await saving.done()
        assert saved_guard.read(tmp_path).learned == {"": LEARNED}
        assert epoch_file.read(tmp_path) == 9

    asyncio.run(run())


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    async def run() -> list[tuple[str, str]]:
        told: list[tuple[str, str]] = []
        (tmp_path / "file").write_text("")
        saving = Saving(lambda: tmp_path / "file", lambda level, event, text: told.append((level, event)))
        saving.save_guard(save(1))
        saving.save_epoch(4)
        await saving.done()
        return told

    assert asyncio.run(run()) == [("error", "guard-not-saved"), ("error", "epoch-not-saved")]
