"""gatewayd with clocks that a test moves while it runs (`clock_shim.c`)."""

from __future__ import annotations

import struct
from pathlib import Path

from support.process import run

_SOURCE = Path(__file__).with_suffix(".c")


class Clocks:
    """Those of one process and its children, which `wrapper` starts."""

    def __init__(self, directory: Path) -> None:
        self._offsets = directory / "clocks"
        self._offsets.write_bytes(struct.pack("=qq", 0, 0))
        shim = directory / "clock_shim.so"
        flags = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC")
        run(("gcc", *flags, "-o", str(shim), str(_SOURCE)))
        self.wrapper = ("env", f"LD_PRELOAD={shim}", f"CLOCK_SHIM={self._offsets}")

    def jump(self, *, wall: int = 0, boot: int = 0) -> None:
        """Seconds from what the kernel says, from now on."""
        with self._offsets.open("r+b") as file:
            file.write(struct.pack("=qq", wall, boot))
