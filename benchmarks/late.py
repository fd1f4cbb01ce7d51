"""The loop probe in a process that does nothing else: what this machine alone makes a timer late. `late.py OUTPUT`; SIGUSR2 as there."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop
from support.loop_probe import Probe


async def main(output: Path) -> None:
    """Until killed."""
    probe = Probe(output)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, probe.write)
    await probe.watch()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
