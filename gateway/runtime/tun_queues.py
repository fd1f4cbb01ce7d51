"""Packets that the kernel dropped because a TUN's queue was full, before a worker could read them.

They are nobody's else's to count: the data plane never saw them. The device's counter begins anew with a new device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DEVICES = Path("/sys/class/net")


class QueueDrops:
    """By connection, since this object was made."""

    def __init__(self, devices: Path = DEVICES) -> None:
        self._devices = devices
        self._seen: dict[int, int] = {}
        self._total: dict[int, int] = {}

    def read(self, names: Mapping[int, str]) -> None:
        """Looks at the devices; `names` by connection. Some 10 us each, so not on the loop."""
        for connection, name in names.items():
            count = self._count(name)
            before = self._seen.get(connection, 0)
            self._seen[connection] = count
            self._total[connection] = self._total.get(connection, 0) + (count - before if count >= before else count)
        for gone in self._seen.keys() - names.keys():
            del self._seen[gone], self._total[gone]

    def nonzero(self) -> dict[int, int]:
        return {connection: count for connection, count in self._total.items() if count}

    def _count(self, name: str) -> int:
        try:
            return int((self._devices / name / "statistics" / "tx_dropped").read_text())
        except (OSError, ValueError):
            return 0  # deleted this moment
