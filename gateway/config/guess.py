"""The nearest known word to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

_CUTOFF = 0.6


def nearest(word: str, known: Iterable[str], cutoff: float = _CUTOFF) -> str | None:
    """The known word most like `word`, or None when none is alike; a shared first letter counts."""
    if len(word) > 64:
        return None
    ranked = sorted(((_likeness(word, candidate), candidate) for candidate in known), reverse=True)
    return ranked[0][1] if ranked and ranked[0][0][0] >= cutoff else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message: "; did you mean 'rekey_time'?", or nothing."""
    guess = nearest(word, known)
    return "" if guess is None else f"; did you mean '{guess}'?"


def _likeness(word: str, candidate: str) -> tuple[float, bool]:
    ratio = SequenceMatcher(None, word.lower(), candidate.lower()).ratio()
    return round(ratio, 6), word[:1].lower() == candidate[:1].lower()
