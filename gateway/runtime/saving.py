"""What the node wants in the state directory: written one after the other, in threads, and to the end also when the daemon ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gateway.node.effects import SaveGuard
from gateway.runtime import epoch_file, saved_guard

PATIENCE = 2.0
"""Seconds for a disk that is busy when the daemon ends."""

Tell = Callable[[str, str, str], None]
"""Level, event, text."""


class Saving:
    """`directory`: as it is configured now."""

    def __init__(self, directory: Callable[[], Path], tell: Tell) -> None:
        self._directory, self._tell = directory, tell
        self._turn = asyncio.Lock()
        self._epoch = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def save_epoch(self, epoch: int) -> None:
        """The highest one stands, in whichever order they are written."""
        self._epoch = max(self._epoch, epoch)
        self._spawn(self._write_epoch())

    def save_guard(self, effect: SaveGuard) -> None:
        """The last one stands."""
        self._spawn(self._write_guard(effect))

    async def done(self) -> None:
        """All that was asked for is written, or the disk is too busy."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)

    async def _write_epoch(self) -> None:
        async with self._turn:
            epoch, directory = self._epoch, self._directory()
            try:
                await asyncio.to_thread(epoch_file.write, directory, epoch)
            except OSError as error:
                self._tell("error", "epoch-not-saved", f"the epoch {epoch} is not written to {directory}: {error}")

    async def _write_guard(self, effect: SaveGuard) -> None:
        async with self._turn:
            directory = self._directory()
            try:
                await asyncio.to_thread(saved_guard.write, directory, effect)
            except OSError as error:
                text = f"the clear-text guard is not written to {directory}: {error}; at the next boot it is the one written last"
                self._tell("error", "guard-not-saved", text)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="saving")  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
