"""What goes on for ever goes on past what nobody expected.

turns   one turn after the other: a turn that raises is said, with its traceback, and the next one comes all the same
Tasks   the daemon's: when one that was to go on for ever ends after all, the daemon is told and ends as failed, so
        that the service manager starts it again; without one of them it would forward for a while and then no more
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

PAUSE = 0.5
"""Seconds after a turn that failed, at least: one that fails at once would keep the loop from all else."""
SELDOM = 60.0
"""Seconds in which the same failure of the same turns is said once."""
log = logging.getLogger("gateway")


async def turns(
    turn: Callable[[], Awaitable[object]],
    missed: str,
    pause: Callable[[], float] = lambda: 0.0,
    after_failure: float = PAUSE,
) -> NoReturn:
    """`turn` again and again, with `pause()` seconds in between, until cancelled. `missed`: what does not happen when it raises.
    `after_failure`: the least pause in seconds then; 0 for one that waits for work by itself and has lost what it took."""
    failures = Failures(missed)
    while True:
        rest = 0.0
        try:
            await turn()
            rest = pause()
        except asyncio.CancelledError as error:
            # What it waited for was cancelled, and not this task: a failure like others
            if being_cancelled():
                raise
            failures.say(error)
            rest = after_failure
        except Exception as error:
            failures.say(error)
            rest = max(after_failure, pause())
        await asyncio.sleep(rest)


class Failures:
    """Says what did not happen, and why; the same reason only now and then, with how often it was in between."""

    def __init__(self, missed: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._missed, self._clock = missed, clock
        self._last, self._said_at, self._held_back = "", float("-inf"), 0

    def say(self, error: BaseException) -> None:
        reason, now = repr(error), self._clock()
        if reason == self._last and now - self._said_at < SELDOM:
            self._held_back += 1
            return
        again = f" ({self._held_back} more failures before)" if self._held_back else ""
        self._last, self._said_at, self._held_back = reason, now, 0
        text = "failed: %s: %s%s"
        log.error(text, self._missed, reason, again, exc_info=error, extra={"event": "task-failed"})


class Tasks:
    """Of one daemon. `lost`: called when one ended that was to go on for ever."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._running: set[asyncio.Task[Any]] = set()

    def once(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """To its end; a failure is said."""
        self._begin(work, name).add_done_callback(say_end)

    def always(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self.watch(self._begin(work, name))

    def again(self, turn: Callable[[], Awaitable[object]], name: str, missed: str, pause: Callable[[], float]) -> None:
        """As `turns`."""
        self.always(turns(turn, missed, pause), name)

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Somebody else's, to whom it falls to cancel it."""
        task.add_done_callback(self._look_at)

    async def end(self) -> None:
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _look_at(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            text = "gatewayd cannot go on without its task %s, which ended: it ends as failed"
            log.critical(text, task.get_name(), exc_info=task.exception(), extra={"event": "task-lost"})
            self._lost()


def say_end(task: asyncio.Task[Any]) -> None:
    """For `add_done_callback`."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s ended by %r", task.get_name(), error, exc_info=error, extra={"event": "task-failed"})


def being_cancelled() -> bool:
    """Whether somebody wants this task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
