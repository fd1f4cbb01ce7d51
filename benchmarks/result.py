"""What a case says: ours and the peer's figure of every round, the ratios, the goal and whether it is met."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the median over the rounds: of the ratio ours / peer, of the difference, or of our figure alone."""

    sign: str  # ">=" or "<="
    value: float
    of: str = "ratio"  # ratio | difference | ours

    def met(self, result: Result) -> bool:
        found = {
            "ratio": result.ratio[1],
            "difference": median(ours - peer for ours, peer in result.pairs),
            "ours": result.ours,
        }[self.of]
        return found >= self.value if self.sign == ">=" else found <= self.value

    def __str__(self) -> str:
        words = {"ratio": f"{self.value:g}x", "difference": f"{self.value:+g}", "ours": f"{self.value:g} (ours)"}
        return f"{self.sign} {words[self.of]}"


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the report. Without `pairs` there is no number, and `reason` says why."""

    name: str
    unit: str
    goal: Goal | None
    pairs: tuple[tuple[float, float], ...] = ()  # (ours, peer) of each round
    status: str = "measured"  # measured | not available | not built | failed
    reason: str = ""
    details: list[dict[str, Any]] = field(
        default_factory=list
    )  # all quantities of each round, sides in the order measured

    @property
    def ours(self) -> float:
        return median(ours for ours, _ in self.pairs)

    @property
    def peer(self) -> float:
        return median(peer for _, peer in self.pairs)

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Smallest, median and largest of the rounds' own ratios; not the ratio of the medians."""
        ratios = [ours / peer for ours, peer in self.pairs]
        return min(ratios), median(ratios), max(ratios)

    @property
    def met(self) -> bool | None:
        return self.goal.met(self) if self.pairs and self.goal else None

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"name": self.name, "ours": None, "peer": None, "unit": self.unit, "ratio": None}
        if self.pairs:
            least, middle, most = self.ratio
            row |= {"ours": _short(self.ours), "peer": _short(self.peer)}
            row["ratio"] = {"median": _short(middle), "min": _short(least), "max": _short(most)}
        rounds: list[dict[str, Any]] = [
            {"ours": _short(ours), "peer": _short(peer), "ratio": _short(ours / peer)} for ours, peer in self.pairs
        ]
        for entry, detail in zip(rounds, self.details, strict=False):
            entry["measured"] = detail
        row |= {"goal": str(self.goal) if self.goal else None, "met": self.met, "rounds": rounds}
        return row | {"status": self.status, "reason": self.reason}


def _short(value: float) -> float:
    return float(f"{value:.5g}")
