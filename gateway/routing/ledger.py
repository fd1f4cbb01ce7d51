"""The FIB's ledger: entries wanted against entries known to be in the kernel, and what differs, in the order of repair.

It decides neither what is wanted (fib.py) nor which operations may come when (plan.py). Keys of an earlier process's
entries that nobody wants yet may be *stale*: they stay, and do not count as different, until they are wanted or marked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.routing.dirty import Dirty
from gateway.routing.mirror import Mirror
from gateway.routing.model import EEXIST, Entry, Group, Key, Op, OpError, Route, RouteKind
from gateway.routing.plan import Exposure, Stage, plan, rank


class Ledger:
    """`metric`: of routes, whatever has another is the guard's. `leaks`: an unwanted entry that lets a protected prefix out;
    `in_clear`: any entry that leads anywhere but into a tunnel or nowhere."""

    def __init__(self, metric: int, leaks: Callable[[Route], bool], in_clear: Callable[[Route], bool]) -> None:
        self.mirror = Mirror()
        self.guarding: dict[Key, Route] = {}
        """The entries of the guard, and those of what is kept."""
        self.stale: set[Key] = set()
        self.dirty = Dirty()
        self._metric = metric
        self._leaks = leaks
        self._in_clear = in_clear
        self._desired: dict[Key, Entry] = {}
        self._guard_dirty: dict[Key, None] = {}  # of `dirty`: entries of the guard
        self._failed: dict[Key, OpError] = {}

    # --- what is wanted -----------------------------------------------------------------------------------------

    def want(self, key: Key, entry: Entry | None) -> None:
        """From now on; None: nothing."""
        before = self._desired.get(key)
        if entry is None:
            self._desired.pop(key, None)
        elif before != entry:
            self._desired[key] = entry
        # A prefix is slow to hash: what is usually empty is not asked
        if before != entry and self._failed:
            self._failed.pop(key, None)
        if entry is not None and self.stale:
            self.stale.discard(key)
        self._compare(key, entry)

    def wanted(self, key: Key) -> Entry | None:
        return self._desired.get(key)

    def mark(self, key: Key) -> None:
        """Dirty if the kernel differs from what is wanted."""
        self._compare(key, self._desired.get(key))

    def took(self, entry: Entry) -> None:
        """The kernel holds this now."""
        key = entry.key
        self.mirror.put(entry)
        if self._desired.get(key) is entry:
            self.dirty.discard(key)
            if self._guard_dirty:
                self._guard_dirty.pop(key, None)
        else:
            self.mark(key)
        if self._failed and isinstance(key, int):
            self._forgive_users(key)

    def _forgive_users(self, identifier: int) -> None:
        """What failed for want of this nexthop object, which somebody had taken away, need not wait any longer."""
        for key in list(self._failed):
            wanted = self._desired.get(key)
            uses = wanted.members if isinstance(wanted, Group) else [wanted.group] if isinstance(wanted, Route) else ()
            if identifier in uses:
                del self._failed[key]

    def judge_leaks_again(self) -> None:
        """What leaks is another question now."""
        for key in [key for key in self.dirty if key not in self._desired]:
            self.mark(key)

    def give_up_stale(self, keys: Iterable[Key]) -> None:
        """These may not stay any longer."""
        for key in list(keys):
            self.stale.discard(key)
            self.mark(key)

    def _compare(self, key: Key, wanted: Entry | None) -> None:
        present = self.mirror.entry(key)
        differs = present != wanted and not (self.stale and key in self.stale)
        if differs:
            self.dirty.put(key, rank(wanted, present, self._leaks))
        elif self.dirty:
            self.dirty.discard(key)
        if not isinstance(key, int) and key[1] != self._metric:
            if differs and key in self.guarding:
                self._guard_dirty[key] = None
            elif self._guard_dirty:
                self._guard_dirty.pop(key, None)

    # --- what is there ------------------------------------------------------------------------------------------

    def installed(self, key: Key) -> bool:
        """Whether it is wanted, and in the kernel as wanted."""
        wanted = self._desired.get(key)
        return wanted is not None and self.mirror.entry(key) == wanted

    @property
    def guard_missing(self) -> list[Route]:
        return [self.guarding[key] for key in self._guard_dirty]

    @property
    def guard_differs(self) -> int:
        """How many entries of the guard."""
        return len(self._guard_dirty)

    # --- operations ---------------------------------------------------------------------------------------------

    def plan(self, limit: int) -> tuple[Op, ...]:
        """The next operations, those left out that failed and wait."""
        keys = (key for key in self.dirty if key not in self._failed) if self._failed else self.dirty
        return plan(keys, self._desired, self.mirror, self._exposure(), limit)

    def fail(self, key: Key, error: OpError) -> bool:
        """Whether the kernel must be read again: something is there that we did not know of, ours after all or not."""
        self._failed[key] = error
        return error.number == EEXIST

    def failure(self, key: Key) -> str:
        """The kernel's words, "" for none."""
        return self._failed[key].text if key in self._failed else ""

    @property
    def failing(self) -> bool:
        return bool(self._failed)

    def retry(self) -> None:
        """Failures are forgotten."""
        failed, self._failed = self._failed, {}
        for key in failed:
            self.mark(key)

    def forgive(self) -> None:
        """After a dump: what is there has not failed, nor what nobody wants."""
        for key in [key for key in self._failed if key in self.mirror or key not in self._desired]:
            del self._failed[key]

    def _exposure(self) -> Exposure:
        missing = tuple(route for route in self.guard_missing if route.kind is RouteKind.BLACKHOLE)
        entries = (self.mirror.entry(key) for key in self.dirty.of_stage(Stage.LEAK_DELETE))
        leaking = [entry for entry in entries if isinstance(entry, Route)]
        families = frozenset(route.prefix.version for route in (*missing, *leaking))
        return Exposure(missing, self._leaks, self._in_clear, families)
