"""What the demo prints: numbered steps in plain words, each with ok or FAILED and its time; colour on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_CODES = {"green": "32", "red": "31", "bold": "1", "dim": "2"}
_WIDTH = 58


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step's end."""

    title: str
    ok: bool
    seconds: float
    detail: str


class Screen:
    """Prints steps as they happen and remembers how they ended."""

    def __init__(self) -> None:
        self._color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.outcomes: list[Outcome] = []

    def step(self, title: str, action: Callable[[], str]) -> bool:
        """Run one step; its sentence is printed below it. A failed assertion or command is told, not raised."""
        print(f"{len(self.outcomes) + 1:2}  {title:{_WIDTH}}", end="", flush=True)
        started = time.monotonic()
        try:
            detail, ok = action(), True
        except (AssertionError, OSError, ValueError, LookupError) as error:
            detail, ok = f"{type(error).__name__}: {error}", False
        seconds = time.monotonic() - started
        self.outcomes.append(Outcome(title, ok, seconds, detail))
        verdict = self.paint("ok", "green") if ok else self.paint("FAILED", "red")
        print(f" {verdict}  {seconds:6.2f} s")
        self.lines(detail.splitlines())
        return ok

    def lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            print("      " + self.paint(line, "dim"))

    def heading(self, text: str) -> None:
        print(self.paint(text, "bold"))

    def paint(self, text: str, color: str) -> str:
        return f"\x1b[{_CODES[color]}m{text}\x1b[0m" if self._color else text
