r"""Runs the node: feeds it, carries out what it says, keeps its one timer.

socket, netlink, relay, operator -> feed -> node -> poll -> perform
                                                 \-> Compute -> thread pool -> computed
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from gateway.contract import Compute
from gateway.node.gateway import Gateway

log = logging.getLogger(__name__)
TURN = 4
"""Results of computations taken in one turn of the loop; each may end in several datagrams and SAs."""

Input = Callable[[Gateway, float], None]


class Driver:
    """One node on one event loop. Everything here runs in the loop's thread, except Compute jobs."""

    def __init__(self, node: Gateway, perform: Callable[[object], None], compute_threads: int = 2) -> None:
        self.node = node
        self._perform = perform
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(compute_threads, thread_name_prefix="compute")
        self._inputs: deque[Input] = deque()
        self._results: deque[tuple[int, object]] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, entry: Input) -> None:
        """Gives the node one input and does all that follows. Inputs arising meanwhile wait their turn."""
        self._inputs.append(entry)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inputs:
                self._step(self._inputs.popleft())
        finally:
            self._busy = False
            self._arm()

    def command(self, command: object) -> None:
        self.feed(lambda node, now: node.command(command, now))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _step(self, entry: Input) -> None:
        entry(self.node, time.monotonic())
        for effect in self.node.poll():
            if isinstance(effect, Compute):
                self._compute(effect)
            else:
                self._perform(effect)

    def _compute(self, effect: Compute) -> None:
        future = self._pool.submit(effect.job)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._computed, effect.ticket, done))

    def _computed(self, ticket: int, done: Future[object]) -> None:
        if done.cancelled():
            return
        if not self._results:
            self._loop.call_soon(self._take_results)
        self._results.append((ticket, done.exception() or done.result()))

    def _take_results(self) -> None:
        """The threads finish more of them while these are taken: what else the loop has to do comes in between."""
        try:
            for _ in range(min(TURN, len(self._results))):
                self._take(*self._results.popleft())
        finally:
            if self._results:
                self._loop.call_soon(self._take_results)

    def _take(self, ticket: int, result: object) -> None:
        self.feed(lambda node, now: node.computed(ticket, result, now))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.node.next_deadline()
        if deadline is not None:
            # The loop's own clock may have a coarser start, so the delay is computed from ours
            self._timer = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._wake)

    def _wake(self) -> None:
        self.feed(lambda node, now: node.handle_deadline(now))
