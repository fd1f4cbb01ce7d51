"""The last events, bounded, and limited in rate by (event, tunnel, kind).

Core-like: the clock is an argument. Not the log: `runtime/logs.py` writes, this remembers for the status
page and decides what is worth a line. A flood costs one counter, and is told afterwards as "suppressed N similar".
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway.observe.snapshot import JournalEntry
from gateway.observe.text import printable

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Window:
    """What happened to one (event, tunnel, kind) since `start`."""

    start: float
    level: str
    passed: int = 0
    suppressed: int = 0


class Journal:
    """Keeps the newest `capacity` entries; at most `burst` of a kind per `interval` seconds pass."""

    def __init__(self, capacity: int = 200, burst: int = 5, interval: float = 60.0, kinds: int = 1024) -> None:
        self._entries: deque[JournalEntry] = deque(maxlen=capacity)
        self._windows: dict[_Key, _Window] = {}
        self._burst = burst
        self._interval = interval
        self._kinds = kinds

    def record(
        self, event: str, text: str, now: float, tunnel: str = "", level: str = "info", kind: str = ""
    ) -> list[JournalEntry]:
        """The entries to write to the log now: the event, before it a summary of suppressed ones, or nothing.
        `kind`: what else tells events apart, so that one failure often said does not hide another one."""
        key = (event, tunnel, kind)
        written = self._close(key, now)
        window = self._windows.get(key)
        if window is None:
            self._make_room()
            window = self._windows[key] = _Window(now, level)
        window.level = level
        if window.passed >= self._burst:
            window.suppressed += 1
            return written
        window.passed += 1
        written.append(self._keep(JournalEntry(now, level, event, tunnel, printable(text))))
        return written

    def flush(self, now: float) -> list[JournalEntry]:
        """The summaries of windows that ended; call at `next_deadline`."""
        return [entry for key in list(self._windows) for entry in self._close(key, now)]

    def next_deadline(self) -> float | None:
        """When the next summary is due."""
        return min((w.start + self._interval for w in self._windows.values() if w.suppressed), default=None)

    def entries(self) -> tuple[JournalEntry, ...]:
        """Newest last."""
        return tuple(self._entries)

    def _close(self, key: _Key, now: float) -> list[JournalEntry]:
        window = self._windows.get(key)
        if window is None or now < window.start + self._interval:
            return []
        del self._windows[key]
        return self._summary(key, window, now)

    def _summary(self, key: _Key, window: _Window, now: float) -> list[JournalEntry]:
        if not window.suppressed:
            return []
        event, tunnel, _ = key
        return [self._keep(JournalEntry(now, window.level, event, tunnel, f"suppressed {window.suppressed} similar"))]

    def _make_room(self) -> None:
        """The window that started first goes; its summary, if any, is kept in the journal."""
        if len(self._windows) >= self._kinds:
            oldest = next(iter(self._windows))  # time does not go back, and a window that ended is made anew
            window = self._windows.pop(oldest)
            self._summary(oldest, window, window.start + self._interval)

    def _keep(self, entry: JournalEntry) -> JournalEntry:
        self._entries.append(entry)
        return entry
