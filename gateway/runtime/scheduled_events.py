"""What the cloud announces of this machine: the pair hands over before.

    IMDS --> ours? --> MachineLeaves(True)  --> the active gateway hands over to one that stays
             relieved? --> it need not wait any longer, where it waits for that
             gone?     --> MachineLeaves(False)

An answer that cannot be had or read changes nothing. What is asked, and how: `announced_azure.py`, `announced_aws.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from gateway.runtime.cloud_http import CloudError
from gateway.runtime.turns import turns

INTERVAL = 5.0
LONGEST_WORD = 256
"""Characters of what is shown to people."""


@dataclass(frozen=True, slots=True)
class Announced:
    """One event that concerns this machine."""

    id: str
    kind: str
    begun: bool
    not_before: str


class Announcements(Protocol):
    """One cloud's."""

    async def announced(self) -> list[Announced]:
        """Those of this machine. Raises CloudError or ValueError."""

    async def approve(self, chosen: Collection[str]) -> bool:
        """These, by their ids, need not wait for the end of their notice; False: nobody waits for a word. Raises likewise."""


class ScheduledEvents:
    """`leaves` is told, perhaps more than once; `relieved` says whether nobody relies on this machine any more."""

    def __init__(
        self,
        announcements: Announcements,
        leaves: Callable[[bool], None],
        relieved: Callable[[], bool],
        tell: Callable[[str, str, str], None],
        interval: float = INTERVAL,
    ) -> None:
        self._announcements = announcements
        self._leaves, self._relieved, self._tell = leaves, relieved, tell
        self._interval = interval
        self._known: dict[str, Announced] = {}
        self._approved: set[str] = set()
        self._problem = ""

    async def run(self) -> None:
        """Until cancelled."""
        await turns(self.look, "what is announced of this machine is not known", lambda: self._interval)

    async def look(self) -> None:
        """Asks once, and does what follows."""
        try:
            found = {one.id: one for one in await self._announcements.announced()}
            self._compare(found)
            await self._approve(one for one in found.values() if not one.begun)
        except (CloudError, ValueError, RecursionError) as error:
            self._complain(str(error))
        else:
            self._problem = ""

    def _compare(self, found: dict[str, Announced]) -> None:
        for one in found.values():
            if one.id not in self._known:
                when = "has begun" if one.begun else f"is announced, not before {one.not_before or 'now'}"
                self._tell(
                    "warning", "machine-leaves", f"{one.kind} of this machine {when}: the other gateway shall be active"
                )
        before, self._known = bool(self._known), found
        self._approved &= found.keys()
        if found or before:
            self._leaves(bool(found))  # also again: the pair may have begun anew
        if before and not found:
            self._tell("info", "machine-stays", "what was announced for this machine is over")

    async def _approve(self, waiting: Iterable[Announced]) -> None:
        """It need not wait for the end of its notice."""
        chosen = [one.id for one in waiting if one.id not in self._approved]
        if not chosen or not self._relieved():
            return
        if await self._announcements.approve(chosen):
            self._tell("info", "machine-may-leave", "the other gateway is active: the announced event may begin")
        self._approved.update(chosen)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._tell(
                "warning", "scheduled-events-failed", f"announced events of this machine are not known: {problem}"
            )
