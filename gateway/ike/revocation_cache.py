"""What was fetched to find out about revocation, kept as long as it holds; bounded. Octets only: they are verified again each time."""

from __future__ import annotations

from dataclasses import dataclass, field

ENTRIES_MAX, OCTETS_MAX = 512, 32 << 20
FAILURE_WAIT = 60.0
"""Seconds until somebody who did not answer is asked again."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked where: a CRL by its URL, an OCSP responder by its URL and the request."""

    url: str
    body: bytes = b""


@dataclass(slots=True)
class RevocationCache:
    """Answers by question. `wall`: UNIX seconds; `now`: of the core's clock."""

    _answers: dict[Question, tuple[bytes, float]] = field(default_factory=dict)
    _failures: dict[Question, float] = field(default_factory=dict)
    _octets: int = 0

    def answer(self, question: Question, wall: float) -> bytes | None:
        octets, until = self._answers.get(question, (None, 0.0))
        if octets is not None and until < wall:
            self._forget(question)
            return None
        return octets

    def keep(self, question: Question, octets: bytes, until: float) -> None:
        """Only what was verified; the oldest make room."""
        self._forget(question)
        self._failures.pop(question, None)
        if len(octets) > OCTETS_MAX // 4:
            return
        self._answers[question] = (octets, until)
        self._octets += len(octets)
        while len(self._answers) > ENTRIES_MAX or self._octets > OCTETS_MAX:
            self._forget(next(iter(self._answers)))

    def failed(self, question: Question, now: float) -> None:
        self._failures.pop(question, None)
        self._failures[question] = now + FAILURE_WAIT
        while len(self._failures) > ENTRIES_MAX:
            del self._failures[next(iter(self._failures))]

    def worth_asking(self, question: Question, now: float) -> bool:
        return self._failures.get(question, now) <= now

    def _forget(self, question: Question) -> None:
        octets, _ = self._answers.pop(question, (b"", 0.0))
        self._octets -= len(octets)
