r"""Runs the node: feeds it, carries out what it says, keeps its one timer.

socket, netlink, relay, operator -> feed -> node -> poll -> perform
                                                 \-> Compute -> a later turn, or thread pool -> computed
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
from gateway.runtime.clock import boottime

log = logging.getLogger(__name__)
TURN = 4
"""Results of computations taken in one turn of the loop; each may end in several datagrams and SAs."""
SHORT = 0.001
"""Seconds below which a computation is not worth a thread: `cryptography` keeps the interpreter to itself while it computes, so
that a thread gains nothing and costs two changes of threads, which short ones take longer for than for their work."""
FORGET = 0.9
"""How much one computation says of the next one of its kind: a long one is remembered over some dozens of short ones."""

Input = Callable[[Gateway, float], None]


class Driver:
    """One node on one event loop. Everything here runs in the loop's thread, except Compute jobs."""

    def __init__(
        self,
        node: Gateway,
        perform: Callable[[object], None],
        compute_threads: int = 2,
        hear: Callable[[], None] = lambda: None,
    ) -> None:
        """`hear` feeds what arrived in time and waits: a loop that was busy hears it before it looks at the clock."""
        self.node = node
        self._perform = perform
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(compute_threads, thread_name_prefix="compute")
        self._inputs: deque[Input] = deque()
        self._results: deque[tuple[int, Callable[[], object]]] = deque()
        self._lasting: dict[object, float] = {}  # seconds, by the code of the job
        self._told: set[str] = set()  # what jobs raised that was no Exception
        self._busy = self._resting = False
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0

    def feed(self, entry: Input) -> None:
        """Gives the node one input and does all that follows. Inputs arising meanwhile wait their turn."""
        if self._resting:
            return
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

    def rest(self) -> None:
        """Nothing is fed any more: what the node knows now is what the next process goes on from."""
        self._resting = True

    @property
    def resting(self) -> bool:
        """Whether what it is fed is lost."""
        return self._resting

    def last(self, entry: Input) -> None:
        """After `rest`: it hears this, and what it says of it nobody carries out."""
        entry(self.node, boottime())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _step(self, entry: Input) -> None:
        entry(self.node, boottime())
        for effect in self.node.poll():
            if isinstance(effect, Compute):
                self._compute(effect)
            else:
                self._perform(effect)

    def _compute(self, effect: Compute) -> None:
        kind, job = getattr(effect.job, "__code__", None), effect.job
        if self._lasting.get(kind, SHORT) < SHORT:
            self._add_result(effect.ticket, lambda: self._timed(kind, job))
            return
        future = self._pool.submit(self._timed, kind, job)
        future.add_done_callback(lambda done: self._loop.call_soon_threadsafe(self._computed, effect.ticket, done))

    def _timed(self, kind: object, job: Callable[[], object]) -> object:
        begun = time.thread_time()
        try:
            return job()
        finally:
            took = time.thread_time() - begun
            self._lasting[kind] = max(took, FORGET * self._lasting.get(kind, took) + (1 - FORGET) * took)

    def _computed(self, ticket: int, done: Future[object]) -> None:
        if not done.cancelled():
            error = done.exception()
            self._add_result(ticket, done.result if error is None else lambda: self._as_exception(error))

    def _add_result(self, ticket: int, result: Callable[[], object]) -> None:
        if not self._results:
            self._loop.call_soon(self._take_results)
        self._results.append((ticket, result))

    def _take_results(self) -> None:
        """The threads finish more of them while these are taken: what else the loop has to do comes in between."""
        try:
            for _ in range(min(TURN, len(self._results))):
                self._take(*self._results.popleft())
        finally:
            if self._results:
                self._loop.call_soon(self._take_results)

    def _take(self, ticket: int, result: Callable[[], object]) -> None:
        value: object
        try:
            value = result()
        except (KeyboardInterrupt, SystemExit):  # not a job's: they end the loop
            raise
        except BaseException as error:  # the core says what it means, also of one that it did not expect
            value = self._as_exception(error)
        self.feed(lambda node, now: node.computed(ticket, value, now))

    def _as_exception(self, error: BaseException) -> Exception:
        """What a job raised, as the core takes it. Some errors are no Exception (a panic of `cryptography`, whose PanicException
        is meant to pass every handler), and a ticket without an answer would leave an IKE_SA waiting for ever."""
        if isinstance(error, Exception):
            return error
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            log.error("a computation ended by %s, which no job may raise: %s", kind, error, exc_info=error)
        return RuntimeError(f"{kind}: {error}")

    def _arm(self) -> None:
        deadline = self.node.next_deadline()
        if self._timer is not None:
            # One that comes too early wakes nobody else and arms the next: cheaper than another timer after every datagram
            if deadline is None or self._armed_for <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._armed_for = deadline
            # The loop's own clock may have a coarser start, so the delay is computed from ours
            self._timer = self._loop.call_later(max(0.0, deadline - boottime()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._hear()
        self.feed(lambda node, now: node.handle_deadline(now))
