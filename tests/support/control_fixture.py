"""A control server over sample snapshots in a thread of its own, on uvloop, as the CLI meets it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from gateway.observe.snapshot import Snapshot
from gateway.runtime.control import ControlServer
from gateway.runtime.disclosures import Piece, Refused, Wish
from gateway.runtime.questions import Question

Run = Callable[..., tuple[int, str, str]]
"""gatewayctl with these words: its exit code, what it printed, what it complained of."""


class SampleOperations:
    """Answers as told, and remembers what it was asked."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.picture = snapshot
        self.asked: list[tuple[str, str, float]] = []
        self.answer: tuple[bool, str] = (True, "done")
        self.hang = False
        self.traces: dict[str, list[dict[str, object]]] = {}
        self.pieces: list[Piece] = []
        self.refusal = ""
        self.breaks_off = False
        self.wishes: list[Wish] = []
        self.questions: list[Question] = []
        self.document: dict[str, object] = {}
        self.problem: Exception | None = None
        self.over = threading.Event()
        """A disclosure ended."""

    async def snapshot(self, all_routes: bool = False) -> Snapshot:
        return self.picture

    def trace(self, connection: str) -> list[dict[str, object]] | None:
        return self.traces.get(connection)

    async def disclose(self, wish: Wish) -> AsyncGenerator[Piece | None, None]:
        """All pieces; without an `end` among them it goes on until the asker leaves."""
        self.wishes.append(wish)
        if self.refusal:
            raise Refused(self.refusal)
        try:
            for piece in self.pieces:
                yield piece
            while not self.breaks_off and not (self.pieces and "end" in self.pieces[-1]):
                yield None
                await asyncio.sleep(0.01)
        finally:
            self.over.set()

    async def operate(self, verb: str, target: str, wait: float) -> tuple[bool, str]:
        self.asked.append((verb, target, wait))
        if self.hang:
            raise TimeoutError
        return self.answer

    async def upgrade(self, program: str) -> tuple[bool, str]:
        self.asked.append(("upgrade", program, 0.0))
        return self.answer

    def guard(self) -> dict[str, object]:
        blue = {"protected": ["172.16.0.0/16"], "learned": []}
        return {"protected": ["172.16.0.0/16"], "learned": ["10.9.0.0/16"], "instances": {"blue": blue}}

    async def look(self, question: Question) -> bytes:
        self.questions.append(question)
        if self.problem is not None:
            raise self.problem
        return json.dumps({"schema": 1, "now": 0.0, "taken_at": "2026-11-21T12:00:00+00:00", **self.document}).encode()

    def forget(self, prefix: str, instance: str) -> tuple[bool, str]:
        self.asked.append(("forget", f"{instance}>{prefix}" if instance else prefix, 0.0))
        return self.answer

    def drain(self, connection: str, to: str) -> tuple[bool, str]:
        self.asked.append(("drain", f"{connection}>{to}", 0.0))
        return self.answer


@contextmanager
def served(operations: SampleOperations, path: Path) -> Iterator[SampleOperations]:
    started, finish = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        server = ControlServer(operations, path)
        await server.start()
        loops.append(asyncio.get_running_loop())
        started.set()
        await finish.wait()
        await server.stop()

    thread = threading.Thread(target=uvloop.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield operations
    finally:
        loops[0].call_soon_threadsafe(finish.set)
        thread.join(10)
