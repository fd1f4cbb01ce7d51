"""The last grant of each cluster on the witness's disk, in a file of its own, replaced as a whole or not at all.

    state directory:  cluster-7.json    the record, the longest ttl at the time, and a checksum over both
                      lock              held by the process that grants

What is lost here could be granted twice. So a write is over when the directory's entry is on disk as well, and a file
that is there and cannot be believed is an error, never "nothing granted yet".
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ha.sealed import BOOT_OCTETS
from gateway.ha.witness_node import Record
from gateway.runtime.durable import replaced
from gateway.runtime.faults import explained

LOCK = "lock"
_HIGHEST = (1 << 64) - 1  # as an epoch travels


class StateError(Exception):
    """The state directory cannot be used; str() is the whole sentence."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What is on disk of one cluster. `longest_ttl`: of the process that wrote it, in seconds; its leases last no longer."""

    record: Record
    longest_ttl: float


class Records:
    """The state directory of one witness."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock: int | None = None

    def open(self) -> None:
        """Makes the directory and locks it. `Unavailable`: it cannot be had; StateError: it is another process's."""
        with explained(f"state directory {self.directory}", {}):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise StateError(f"another witness uses {self.directory}: two would grant one lease twice") from None

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, cluster: int) -> Path:
        """Where the record of a cluster is."""
        return self.directory / f"cluster-{cluster}.json"

    def read(self, cluster: int) -> Stored | None:
        """None: nothing was ever granted. StateError: what was is not known."""
        path = self.path(cluster)
        try:
            return _parsed(json.loads(path.read_bytes()), cluster)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else "damaged"
            raise StateError(
                f"{path} cannot be read ({why}), so the last epoch is not known and none may be granted. Put back what was"
                " last in it; or remove it while both gateways of the pair run, which ask for epochs above all they saw"
            ) from error

    def write(self, cluster: int, stored: Stored) -> None:
        """On disk when it returns; OSError: perhaps not. Blocks."""
        path = self.path(cluster)
        beside = path.with_name(path.name + ".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(_document(cluster, stored), file, indent=1)
            file.flush()
            os.fsync(descriptor)
        replaced(beside, path)


def _document(cluster: int, stored: Stored) -> dict[str, Any]:
    fields = {
        "cluster": cluster,
        "epoch": stored.record.epoch,
        "boot": stored.record.boot.hex(),
        "name": stored.record.name,
        "longest_ttl": stored.longest_ttl,
    }
    return fields | {"crc32": _checksum(fields)}


def _parsed(document: Any, cluster: int) -> Stored:
    """ValueError, KeyError, TypeError: not what `_document` makes."""
    record = Record(document["epoch"], bytes.fromhex(document["boot"]), document["name"])
    stored = Stored(record, document["longest_ttl"])
    if document != _document(cluster, stored):
        raise ValueError("not what was written")
    if not 0 <= record.epoch <= _HIGHEST or len(record.boot) != BOOT_OCTETS:
        raise ValueError("not a record")
    return stored


def _checksum(fields: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(fields, sort_keys=True).encode()):08x}"
