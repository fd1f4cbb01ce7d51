"""`Keep` to memory that outlives the process, and what a process before this one kept back from there."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gateway.node.keeping import Earlier, Keep, KeptConnection
from gateway.runtime.fd_store import FdStore, Inherited
from gateway.runtime.state_memory import StateMemory, UnknownStateError

NAME = "state"
_CODEC = TypeAdapter(
    tuple[KeptConnection],
    config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", hide_input_in_errors=True),
)
Tell = Callable[[str, str, str], None]
"""Level, event, text."""
log = logging.getLogger(__name__)


class KeptState:
    """One for the process. `earlier`: what there was at its start."""

    def __init__(self, inherited: Inherited, store: FdStore, connections: int) -> None:
        self._store = store
        self._full = False
        found = _found(inherited.take(NAME))
        self.earlier = _earlier(found) if found is not None else Earlier()
        if found is None:
            store.drop(NAME)
            found = self._new(connections)
        self._memory = found

    def keep(self, effect: Keep) -> None:
        """Before anything that depends on it."""
        if effect.kept is None:
            self._memory.erase(effect.name)
            return
        content = encode(effect.kept)
        if self._memory.write(effect.name, content) or self._full:
            return
        if self._memory.room == 0:
            self._grow()
            self._full = not self._memory.write(effect.name, content)

    def end(self) -> None:
        """What was kept last is exact."""
        self._memory.end()

    def forget(self) -> None:
        """This process ends, and none follows."""
        self._store.drop(NAME)

    def close(self) -> None:
        self._memory.close()

    def _new(self, connections: int) -> StateMemory:
        memory = StateMemory.create(connections)
        self._store.keep(NAME, [memory.fd])
        return memory

    def _grow(self) -> None:
        """A reload brought more connections than there is room for."""
        before = self._memory
        self._store.drop(NAME)
        self._memory = self._new(2 * len(before.contents()))
        for name, content in before.contents().items():
            self._memory.write(name, content)
        before.close()


def encode(kept: KeptConnection) -> bytes:
    return _CODEC.dump_json((kept,))


def decode(content: bytes) -> KeptConnection:
    """ValueError for what is none."""
    return _CODEC.validate_json(content)[0]


def _found(fds: list[int]) -> StateMemory | None:
    for fd in fds[:1]:
        try:
            return StateMemory(fd)
        except UnknownStateError as error:
            log.warning("nothing of the process before goes on: %s", error, extra={"event": "state-unknown"})
    return None


def _earlier(memory: StateMemory) -> Earlier:
    found: dict[str, KeptConnection] = {}
    for name, content in memory.contents().items():
        try:
            found[name] = decode(content)
        except ValidationError as error:
            log.warning(
                "%s begins anew: what was kept of it cannot be read (%s)", name, error.errors()[0]["type"],
                extra={"event": "state-unknown"},
            )  # fmt: skip
            memory.erase(name)
    return Earlier(found, memory.clean)
