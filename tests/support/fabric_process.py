"""One gateway's route tables in a process of its own: told on stdin when to be active, says on stdout what happened.

python -m support.fabric_process gateway.toml CHECK_INTERVAL        activate EPOCH | deactivate | look
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

from gateway.config.load import load
from gateway.ha.fabric import Command, Fabric
from gateway.ha.fabric_values import Activate, Call, Deactivate, Look, Outcome
from gateway.node.fabric_settings import fabric_settings
from gateway.runtime.fabric_calls import FabricCalls
from gateway.runtime.randomness import SystemRandom


class Gateway:
    def __init__(self, path: Path, check_interval: float) -> None:
        config = load(path).config
        assert config is not None
        settings = fabric_settings(config)
        assert settings is not None
        self._calls = FabricCalls(None, self._answered)
        self._calls.configure(config.fabric)
        # Shorter than a file may say, so that a test need not wait.
        self._core = Fabric(replace(settings, check_interval=check_interval), SystemRandom(), time.monotonic())
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, command: Command) -> None:
        self._core.command(command, time.monotonic())
        self.drain()

    def drain(self) -> None:
        for effect in self._core.poll():
            if isinstance(effect, Call):
                self._calls.call(effect)
            else:
                print(effect, flush=True)
        if self._timer is not None:
            self._timer.cancel()
        at = self._core.next_deadline()
        if at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, at - time.monotonic()), self._due)

    def _due(self) -> None:
        self._core.handle_deadline(time.monotonic())
        self.drain()

    def _answered(self, ticket: int, outcome: Outcome) -> None:
        self._core.computed(ticket, outcome, time.monotonic())
        self.drain()


async def main(path: Path, check_interval: float) -> None:
    gateway = Gateway(path, check_interval)
    gateway.drain()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().split():
        match line:
            case ["activate", epoch]:
                gateway.tell(Activate(int(epoch)))
            case ["deactivate"]:
                gateway.tell(Deactivate())
            case ["look"]:
                gateway.tell(Look())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
