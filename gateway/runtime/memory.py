"""Garbage collection, and threads beside the loop, that do not hold the loop up.

With a thousand connections a full collection looks at a million objects that all live: 0.2 s in which no IKE message is
answered. Nearly all of them live as long as the configuration, and the cores make no reference cycles, so what survived
a long collection is set aside (gc.freeze) and later ones look only at what came after it; so is what is made while very much
is made. Set aside is not kept: what nobody refers to any more goes at once, as ever.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

LONG = 0.01
"""Seconds from which on a full collection is too long to be made over the same objects again."""
STORM, STORM_COLLECTIONS = 4.0, 4
"""Seconds in which so many collections of the middle generation mean that very much is being made that stays: some thirty
thousand objects, which the next full collection would take 10 ms for."""
_MIDDLE, _FULL = 1, 2
_SWITCH = 0.0005
"""Seconds for which a computing thread (a scrape as text, a reload) may keep the interpreter when the loop has work."""


def settle() -> None:
    """Once, when the configuration is loaded."""
    sys.setswitchinterval(_SWITCH)
    gc.collect()
    gc.freeze()
    if _watch not in gc.callbacks:
        gc.callbacks.append(_watch)


@contextmanager
def undisturbed() -> Iterator[None]:
    """While very much is made that stays: it is not looked at in between, nor afterwards."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


@contextmanager
def uncollected() -> Iterator[None]:
    """While very much is made that goes at once: to look at it in between takes long and finds nothing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_started = 0.0
_middle: deque[float] = deque(maxlen=STORM_COLLECTIONS)


def _watch(phase: str, details: dict[str, int]) -> None:
    global _started
    generation, now = details["generation"], time.monotonic()
    if phase == "start":
        _started = now
    elif generation == _FULL and now - _started > LONG:
        gc.freeze()
    elif generation == _MIDDLE:
        _middle.append(now)
        if len(_middle) == STORM_COLLECTIONS and now - _middle[0] < STORM:
            # A thousand peers at once: set aside in pieces, so that there is no long collection at all
            gc.freeze()
            _middle.clear()
