"""`Keep` to memory that outlives the process, and what a process before this one kept back from there."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gateway.esp.dataplane import Direction
from gateway.node.keeping import Earlier, Keep, KeptConnection, KeptSa
from gateway.runtime import progress_memory, state_memory
from gateway.runtime.fd_store import FdStore, Inherited
from gateway.runtime.progress_memory import Key, ProgressMemory, which
from gateway.runtime.state_memory import StateMemory, UnknownStateError
from gateway.runtime.tun import interface_name

STATE, PROGRESS = "state", "progress"
STARTS = 3
"""Processes that may end early with the same state before nobody goes on from it."""
FORMAT = f"{state_memory.VERSION}/{progress_memory.MAGIC.decode()}"
"""What this release writes for the next process."""
READS = (FORMAT,)
"""What it goes on from."""
WIPED_AT_ONCE = 1 << 16
_CODEC = TypeAdapter(
    tuple[KeptConnection],
    config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True),
)
log = logging.getLogger(__name__)


class KeptState:
    """One for the process. `earlier`: what there was at its start; `progress`: for the data plane."""

    def __init__(self, inherited: Inherited, store: FdStore, connections: int) -> None:
        self._store = store
        self._unkept: set[str] = set()
        self._settled = False
        found, progress = _found(inherited.take(STATE)), _found_progress(inherited.take(PROGRESS))
        self.earlier = Earlier()
        if found is not None:
            self.earlier = _earlier(found, progress.found if progress is not None else {})
        if found is None:
            store.drop(STATE)
            found = StateMemory.create(connections)
            store.keep(STATE, [found.fd])
        if progress is None:
            store.drop(PROGRESS)
            progress = ProgressMemory.create(connections)
            store.keep(PROGRESS, [progress.fd])
        self._memory, self.progress = found, progress

    def keep(self, effect: Keep) -> None:
        """Before anything that depends on it."""
        if effect.kept is None:
            self._memory.erase(effect.name)
            return
        content = encode(effect.kept)
        if self._memory.write(effect.name, content):
            self._unkept.discard(effect.name)
        elif self._memory.fits(effect.name, content):
            self._grow()
            self._memory.write(effect.name, content)
        elif effect.name not in self._unkept:
            self._unkept.add(effect.name)
            text = "%s begins anew at a restart: with %d octets its state does not fit"
            log.warning(text, effect.name, len(content), extra={"event": "state-not-kept"})

    def settled(self) -> None:
        """What was found did not end this process."""
        self._settled = True
        self._memory.settled()

    def end(self) -> None:
        """What was kept last is exact."""
        self._memory.end()

    @property
    def held(self) -> dict[str, list[int]]:
        """Descriptors, for a process that takes over."""
        return {STATE: [self._memory.fd], PROGRESS: [self.progress.fd]}

    def forget(self) -> None:
        """This process ends, and none follows."""
        for name in (STATE, PROGRESS):
            self._store.drop(name)

    def _grow(self) -> None:
        """A reload brought more connections than there is room for. Whichever of the two the next process finds, it finds all that
        was kept, until the old one is wiped: should the manager not hear that it is to let go of it, it is none any more."""
        before, contents = self._memory, self._memory.contents()
        self._memory = StateMemory.create(2 * len(contents))
        for name, content in contents.items():
            self._memory.write(name, content)
        if self._settled:
            self._memory.settled()
        self._store.drop(STATE)
        self._store.keep(STATE, [self._memory.fd])
        before.wipe()


def encode(kept: KeptConnection) -> bytes:
    return _CODEC.dump_json((kept,))


def decode(content: bytes) -> KeptConnection:
    """ValueError for what is none."""
    return _CODEC.validate_json(content)[0]


def _found(fds: list[int]) -> StateMemory | None:
    found = None
    for fd in fds:
        try:
            memory = StateMemory(fd) if found is None else None
        except UnknownStateError as error:
            log.warning("nothing of the process before goes on: %s", error, extra={"event": "state-unknown"})
            memory = None
        if memory is not None and memory.starts < STARTS:
            found = memory
            continue
        if memory is not None:
            text = "%d processes that went on from it have ended at once; all begins anew"
            log.error(text, memory.starts, extra={"event": "state-refused"})
        _wipe(fd)
    return found


def _wipe(fd: int) -> None:
    """Nobody goes on from it, and there are keys in it."""
    with suppress(OSError):
        size = os.fstat(fd).st_size
        for at in range(0, size, WIPED_AT_ONCE):
            if any(octets := os.pread(fd, WIPED_AT_ONCE, at)):
                os.pwrite(fd, bytes(len(octets)), at)
    os.close(fd)


def _found_progress(fds: list[int]) -> ProgressMemory | None:
    found = None
    for fd in fds:
        try:
            found = found or ProgressMemory(fd)
        except ValueError as error:
            log.warning("how far the SAs are is not known: %s", error, extra={"event": "state-unknown"})
        if found is None or found.fd != fd:
            os.close(fd)
    return found


def _exact(name: str, one: KeptSa, progress: Mapping[Key, int]) -> KeptSa:
    """With the data plane's own last word, where there is one."""
    interface, event = interface_name(name), one.event
    sent = progress.get((event.spi_out, which(Direction.OUTBOUND, interface)))
    seen = progress.get((event.spi_in, which(Direction.INBOUND, interface)))
    if seen is None:
        return one
    if one.exact:
        # Two witnesses of one end; an SA never goes back
        return replace(one, granted=max(one.granted, sent or 0), seen=max(one.seen, seen))
    # Without a place of its own it sends no more, or never had one: then only the limit is certain
    return replace(one, granted=one.granted if sent is None else sent, seen=seen, exact=True)


def _earlier(memory: StateMemory, progress: Mapping[Key, int]) -> Earlier:
    found: dict[str, KeptConnection] = {}
    for name, content in memory.contents().items():
        try:
            kept = decode(content)
            found[name] = replace(kept, sas=tuple(_exact(name, one, progress) for one in kept.sas))
        except ValidationError as error:
            log.warning(
                "%s begins anew: what was kept of it cannot be read (%s)", name, error.errors()[0]["type"],
                extra={"event": "state-unknown"},
            )  # fmt: skip
            memory.erase(name)
    return Earlier(found, memory.clean)
