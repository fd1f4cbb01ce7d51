"""The three RIBs of RFC 4271 3.2: adj-RIB-in per neighbor, loc-RIB, adj-RIB-out per neighbor.

Plain bookkeeping; what is accepted, best or announced is decided in `policy.py` and `decision.py`.
The adj-RIB-out knows what ExaBGP has been told and paces commands, because ExaBGP does not keep their order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from gateway.bgp.path import Announcement, Path
from gateway.bgp.settings import Prefix

REJECTED_KEPT = 1000  # rejected paths remembered for explanation, per neighbor


Judge = Callable[[Path], tuple[Path, str]]
"""The path as it is used, and the reason why it is not."""


class Entry(NamedTuple):
    """One path of an adj-RIB-in."""

    path: Path  # as received
    used: Path  # as the import policy left it
    rejected: str = ""  # the policy's reason, "" when accepted
    stale: bool = False  # not confirmed since the session, the process or the refresh began


class AdjRibIn:
    """What one neighbor taught us. `stale`: not confirmed since; `lost`, some of these: since its session went down."""

    def __init__(self) -> None:
        self.entries: dict[Prefix, Entry] = {}
        self.accepted = 0
        self.stale: set[Prefix] = set()
        self.lost: set[Prefix] = set()
        self._unjudged: set[Prefix] = set()  # their verdict is of another policy
        self._judge: Judge | None = None  # by the one of now
        self.unreachable = False  # BFD says that nothing gets to the neighbor: any other path is better

    def put(self, path: Path, used: Path, rejected: str) -> bool:
        """Store a fresh path; False when a rejected one is not worth its memory."""
        if path.prefix in self.entries:
            self.remove(path.prefix)
        if rejected and len(self.entries) - self.accepted >= REJECTED_KEPT:
            return False
        self.entries[path.prefix] = Entry(path, used, rejected)
        self.accepted += not rejected
        return True

    def confirm(self, prefix: Prefix) -> None:
        self.stale.discard(prefix)
        self.lost.discard(prefix)

    def remove(self, prefix: Prefix) -> bool:
        entry = self.entries.pop(prefix, None)
        if entry is None:
            return False
        if self.stale or self._unjudged:
            self.confirm(prefix)
            self._unjudged.discard(prefix)
        self.accepted -= not entry.rejected
        return True

    def judge_again(self, judge: Judge) -> None:
        """New verdicts after a change of policy, each when it is asked for: whoever decides anew asks for all."""
        self._judge = judge
        self._unjudged = set(self.entries)

    def mark_stale(self, *, lost: bool) -> None:
        """RFC 4724 4.2: keep the paths, marked, until they are confirmed or swept."""
        self.stale = set(self.entries)
        if lost:
            self.lost = set(self.entries)

    def sweep(self) -> list[Prefix]:
        """RFC 4724 4.2: remove what was not confirmed. Every prefix whose standing changed."""
        swept = list(self.stale)
        for prefix in swept:
            self.remove(prefix)
        return swept

    def candidate(self, prefix: Prefix) -> Candidate | None:
        entry = self.entries.get(prefix)
        if entry is not None and self._unjudged and prefix in self._unjudged:
            entry = self._judged(prefix, entry)
        if entry is None or entry.rejected:
            return None
        return Candidate(entry.used, self.unreachable or (bool(self.lost) and prefix in self.lost))

    def _judged(self, prefix: Prefix, before: Entry) -> Entry:
        assert self._judge is not None
        self._unjudged.discard(prefix)
        entry = self.entries[prefix] = Entry(before.path, *self._judge(before.path))
        self.accepted += (not entry.rejected) - (not before.rejected)
        return entry

    def listing(self) -> Iterator[Entry]:
        for prefix, entry in self.entries.items():
            yield entry._replace(stale=prefix in self.stale)


class Candidate(NamedTuple):
    """A path the decision process may choose. `lost`: its session is gone, so any other is better."""

    path: Path
    lost: bool = False


class Best(NamedTuple):
    path: Path
    reason: str
    others: tuple[Path, ...] = ()  # as good, used beside it
    backup: Path | None = None  # used when all of these fail


class LocRib:
    """The best path of every prefix."""

    def __init__(self) -> None:
        self.best: dict[Prefix, Best] = {}

    def replace(self, prefix: Prefix, best: Best | None) -> tuple[bool, bool]:
        """Store. Whether the best path is another one; whether anything that is used is."""
        old = self.best.get(prefix)
        if best is None:
            self.best.pop(prefix, None)
            return old is not None, old is not None
        self.best[prefix] = best
        if old is None or old.path != best.path:
            return True, True
        return False, (old.others, old.backup) != (best.others, best.backup)


class Unknown:
    """ExaBGP has announced something for this prefix; what exactly is not known."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()


class AdjRibOut:
    """What one neighbor shall be told (`wanted`) and what ExaBGP has been told for it (`sent`).

    Interop: ExaBGP 5.0.15 groups queued changes by attributes, so that of `announce P`, `withdraw P` given
    shortly after one another the *withdraw may be sent first*. Therefore a second command for a prefix
    waits until `spacing` seconds after the answer to the first; only the latest wish is then sent.
    """

    def __init__(self, spacing: float) -> None:
        self.spacing = spacing
        self.keeping = False  # what ExaBGP was found to announce is let be, wanted or not, until more is known
        self.budget = 0  # prefixes at most; 0: as many as there are
        self.wanted: dict[Prefix, Announcement] = {}
        self.held: dict[Prefix, Announcement] = {}  # what the budget leaves no room for, oldest first
        self._essential: set[Prefix] = set()  # of those that give way to nobody
        self.sent: dict[Prefix, Announcement | Unknown] = {}
        self._found: set[Prefix] = set()  # of those: read in ExaBGP's table, not said by us
        self._unsorted: dict[Prefix, None] = {}  # not known whether it is one of the next two
        self._due: dict[Prefix, None] = {}  # differs and may be sent, oldest first
        self._blocked: set[Prefix] = set()  # differs, but a command for it is too recent
        self._recent: dict[Prefix, float] = {}  # until when; infinite while unanswered
        self._expiry: deque[tuple[float, Prefix]] = deque()

    def __contains__(self, prefix: object) -> bool:
        """Whether it is wanted, also where there is no room."""
        return prefix in self.wanted or prefix in self.held

    def want(self, prefix: Prefix, announcement: Announcement | None, *, essential: bool = False) -> None:
        """Who comes first stays, so that at the limit nothing flaps; but what is essential displaces what is not."""
        if self.held:
            self.held.pop(prefix, None)
        if announcement is None:
            self._essential.discard(prefix)
            if self.wanted.pop(prefix, None) is not None:
                self._sort(prefix)
                self._fill()
            return
        if self.budget and prefix not in self.wanted and len(self.wanted) >= self.budget:
            gives_way = next((one for one in reversed(self.wanted) if one not in self._essential), None)
            if not essential or gives_way is None:
                self.held[prefix] = announcement
                return
            self.held[gives_way] = self.wanted.pop(gives_way)
            self._sort(gives_way)
        if essential:
            self._essential.add(prefix)
        self.wanted[prefix] = announcement
        self._sort(prefix)

    def limit(self, budget: int) -> None:
        """Another budget."""
        self.budget = budget
        while budget and len(self.wanted) > budget:
            gives_way = next((one for one in reversed(self.wanted) if one not in self._essential), None)
            if gives_way is None:
                gives_way = next(reversed(self.wanted))
            self.held[gives_way] = self.wanted.pop(gives_way)
            self._sort(gives_way)
        self._fill()

    def _fill(self) -> None:
        while self.held and (not self.budget or len(self.wanted) < self.budget):
            prefix = next(iter(self.held))
            self.wanted[prefix] = self.held.pop(prefix)
            self._sort(prefix)

    def forget_sent(self) -> None:
        """A new ExaBGP, or one of unknown state: everything is to be said again."""
        self.sent.clear()
        self._found.clear()
        self._recent.clear()
        self._expiry.clear()
        self._resort()

    def doubt_sent(self) -> None:
        """What was sent may have been lost with the neighbor's old definition."""
        self.sent = dict.fromkeys(self.sent, UNKNOWN)
        self._resort()

    def keep(self, keeping: bool) -> None:
        """Let found announcements be, or no longer."""
        if keeping is not self.keeping:
            self.keeping = keeping
            self._resort()

    def found(self, prefix: Prefix, announcement: Announcement | None = None) -> None:
        """ExaBGP's own table has this prefix; as what, if that is certain."""
        if prefix not in self.sent:
            self.sent[prefix] = announcement or UNKNOWN
            self._found.add(prefix)
        self._sort(prefix)

    def next(self) -> tuple[Prefix, Announcement | None] | None:
        """Take the next difference: an announcement, or None for a withdrawal. It counts as sent."""
        while self._unsorted and not self._due:
            prefix = next(iter(self._unsorted))
            del self._unsorted[prefix]
            self._sort(prefix)
        if not self._due:
            return None
        prefix = next(iter(self._due))
        del self._due[prefix]
        self._found.discard(prefix)
        announcement = self.wanted.get(prefix)
        if announcement is None:
            self.sent.pop(prefix, None)
        else:
            self.sent[prefix] = announcement
        self._recent[prefix] = math.inf
        return prefix, announcement

    def answered(self, prefix: Prefix, now: float) -> None:
        if self._recent.get(prefix) == math.inf:
            self._recent[prefix] = now + self.spacing
            self._expiry.append((now + self.spacing, prefix))

    def release(self, now: float) -> None:
        """Prefixes whose last command is old enough may be sent again."""
        while self._expiry and self._expiry[0][0] <= now:
            until, prefix = self._expiry.popleft()
            if self._recent.get(prefix) == until:
                del self._recent[prefix]
                if prefix in self._blocked:
                    self._sort(prefix)

    def next_release(self) -> float | None:
        return self._expiry[0][0] if self._blocked and self._expiry else None

    @property
    def settled(self) -> bool:
        """Nothing left to say and everything said was answered."""
        return not self._due and not self._unsorted and not self._blocked and math.inf not in self._recent.values()

    def _resort(self) -> None:
        """Of thousands each when its turn comes."""
        self._due.clear()
        self._blocked.clear()
        self._unsorted = dict.fromkeys(chain(self.wanted, self.sent))

    def _sort(self, prefix: Prefix) -> None:
        self._blocked.discard(prefix)
        if self.wanted.get(prefix) == self.sent.get(prefix) or (self.keeping and prefix in self._found):
            self._due.pop(prefix, None)
        elif prefix in self._recent:
            self._due.pop(prefix, None)
            self._blocked.add(prefix)
        else:
            self._due.setdefault(prefix)
