"""The table for people and the JSON for machines (BENCH_REPORT=FILE)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import ahead
from benchmarks.background import SHARE_TO_DOUBT
from benchmarks.result import Result

_HEADING = ("case", "ours", "peer", "unit", "median", "min", "max", "goal", "")


def table(results: Sequence[Result]) -> str:
    """One line a row; a row without a number says why."""
    rows = [_HEADING, *(_cells(result) for result in results)]
    widths = [max(len(row[i]) for row in rows if len(row) > i and len(row) > 2) for i in range(len(_HEADING))]
    return "\n".join(_line(row, widths) for row in rows) + "\n"


def background(results: Sequence[Result]) -> str:
    """What others took of the cores before the rounds; a sentence of warning when it was much."""
    shares = [detail["machine"]["background"] for result in results for detail in result.details]
    if not shares:
        return ""
    text = f"others took {median(shares):.0%} of the cores before a round (median), {max(shares):.0%} at most"
    if median(shares) <= SHARE_TO_DOUBT:
        return f"{text}\n"
    return (
        f"{text}; what was measured went ahead of them\n" if ahead.wanted() else f"{text}: do not trust these figures\n"
    )


def write_json(results: Sequence[Result], path: str) -> None:
    Path(path).write_text(json.dumps([result.to_json() for result in results], indent=2) + "\n", encoding="utf-8")


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _cells(result: Result) -> tuple[str, ...]:
    if not result.pairs:
        return result.name, f"{result.status}: {result.reason.splitlines()[0] if result.reason else ''}"
    least, middle, most = result.ratio
    figures = (f"{value:.4g}" for value in (result.ours, result.peer))
    ratios = (f"{value:.3g}x" for value in (middle, least, most))
    verdict = {True: "met", False: "MISSED", None: ""}[result.met]
    return (result.name, *figures, result.unit, *ratios, str(result.goal) if result.goal else "", verdict)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if len(row) == 2:
        return f"{row[0]:{widths[0]}}  {row[1]}"
    aligned = (
        f"{cell:>{width}}" if 1 <= i <= 2 or 4 <= i <= 6 else f"{cell:{width}}"
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(aligned).rstrip()
