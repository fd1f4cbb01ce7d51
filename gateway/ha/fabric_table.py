"""One route table: what it was last seen to hold, what is to be called next, and when.

Not a clock and not a cloud: `next_operation` says what to call, `answered` takes how it went. What was written counts as seen, so
that a switch needs no reading; a read afterwards, off the failover path, shows whether it is so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.contract import RandomSource
from gateway.ha.fabric_patience import Patience
from gateway.ha.fabric_routes import (
    Plan,
    claims,
    foreign_routes,
    leads_to_peer,
    mark_key,
    plan,
    refusal,
    views,
    wanted_routes,
)
from gateway.ha.fabric_values import (
    APPLIANCE,
    Claim,
    Contents,
    Done,
    Drifted,
    Effective,
    Event,
    FabricSettings,
    Failed,
    Mark,
    Operation,
    Outcome,
    Ownership,
    Prefix,
    Put,
    Read,
    Remove,
    SeenRoute,
    Switched,
    Table,
    TableView,
    Troubled,
    Verify,
    Why,
)

FRESH = 5.0
"""Without names a route may have become somebody else's: before it is replaced it must have been seen so recently."""
STALE = 10.0
"""Writing goes on so long without a look: who was stopped in the middle of a switch must see first who is active by now."""
CONTEST = 10.0
"""A route that leads to the other gateway though we are active is given so long for the tag that explains it."""
VERIFY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What the whole fabric is told: whether to write, and with which epoch. `since`: when we became active."""

    active: bool
    epoch: int
    since: float


class RouteTable:
    """The state of one table. `poll()` what happened; `in_flight` how many calls are under way."""

    def __init__(self, settings: FabricSettings, table: Table, random: RandomSource, now: float) -> None:
        self.table = table
        self._settings = settings
        self._wanted = wanted_routes(settings, table)
        self._mark = mark_key(settings)
        self._plan: Plan | None = None
        self._random = random
        self._patience = Patience(random, now)
        self._events: list[Event] = []
        self._contents: Contents | None = None
        self._routes: dict[str, SeenRoute] = {}
        self._tags: dict[str, str] = {}
        self._read_at: float | None = None
        self._retired: set[Prefix] = set()
        self._running: list[Operation] = []
        self._read_due = now
        self._must_read = True
        self._read_began = now
        self._doubted = False  # routes are believed to lead to us from a time when we were not the active one
        self._contest: float | None = None
        self._settled_for: Standing | None = None
        self._verify_at: float | None = None
        self._trouble = self._call_error = ""
        self._last_call = ""
        self._last_call_at: float | None = None
        self._switched_for: Standing | None = None
        self._switch_seconds: float | None = None
        self._now = now
        self._verified = ""
        self.drift = self.calls = self.failures = 0

    # --- intent -----------------------------------------------------------------------------------------------

    def configure(self, settings: FabricSettings, table: Table) -> None:
        """Prefixes that are gone stay ours to remove, as far as this process knows of them."""
        self._retired = (self._retired | set(self.table.prefixes)) - set(table.prefixes)
        self._settings, self.table = settings, table
        self._wanted, self._mark, self._plan = wanted_routes(settings, table), mark_key(settings), None
        self._must_read = True
        self._patience.again()
        self._settled_for = None

    def look(self, now: float) -> None:
        self._read_due = min(self._read_due, now)

    def activated(self, now: float, standing: Standing) -> None:
        """A new epoch: whatever kept us waiting is tried at once."""
        self._patience.at_once(now)
        self._contest = None
        # The other gateway may have been active since the last look. What leads elsewhere needs no look to be written.
        self._doubted = any(self._routes.get(route.key) == route for route in self._wanted)
        self._judge(now, standing)

    # --- what to do -------------------------------------------------------------------------------------------

    def next_operation(self, now: float, standing: Standing) -> Operation | None:
        """The next call that may start now; None: none, or too many are under way."""
        self._now = now
        if self._verify_at is not None and now >= self._verify_at and not self._is_running(Verify):
            self._verify_at = None
            return self._start(Verify(self.table.effective_of), now)
        working = sum(not isinstance(operation, Verify) for operation in self._running)
        if now < self._patience.retry_at or working >= self._settings.calls_at_once or self._is_running(Read):
            return None
        write = None if self._must_read else self._next_write(now, standing)
        self._must_read |= write is not None and self._is_risky(write, now, standing)
        if write is not None and not self._must_read:
            return self._start(write, now)
        if working == 0 and (self._must_read or self._doubted or now >= self._read_due):
            return self._start(Read(), now)
        return None

    def deadline(self) -> float | None:
        """When `next_operation` may say something, with nothing new being told."""
        times = [self._verify_at] if self._verify_at is not None and not self._is_running(Verify) else []
        if all(isinstance(operation, Verify) for operation in self._running):
            times.append(max(self._read_due, self._patience.retry_at))
            times += [at for at in self._patience.waits if at > self._now]
        return min(times, default=None)

    def planned(self, standing: Standing) -> Plan:
        """Every write there is to do."""
        if self._plan is None:
            self._plan = plan(self._settings, self._wanted, self._routes, self._retired)
        if standing.active and self._tags.get(self._mark) != str(standing.epoch):
            return Plan((*self._plan.writes, Mark(self._mark, standing.epoch)), self._plan.obstacles)
        return self._plan

    def poll(self) -> Iterator[Event]:
        while self._events:
            yield self._events.pop(0)

    def _next_write(self, now: float, standing: Standing) -> Put | Remove | Mark | None:
        if not standing.active or self._settings.dry_run or self._contents is None:
            return None
        if refusal(self._settings, self.table, self._contents):
            return None
        running = {_key(operation) for operation in self._running}
        for operation in self.planned(standing).writes:
            key = _key(operation)
            # The tag says that the routes are ours: it comes when they are.
            if isinstance(operation, Mark) and (
                self._doubted or any(isinstance(other, Put) for other in self._running)
            ):
                return None
            if key not in running and not self._patience.is_held(key, now) and not self._is_contested(key):
                return operation
        return None

    def _is_risky(self, write: Put | Remove | Mark, now: float, standing: Standing) -> bool:
        """Whether it may hit a route that became somebody else's since the last look, or somebody else became active."""
        if now - max(self._read_at or 0.0, standing.since) > STALE:
            return True
        if self._settings.ownership is Ownership.NAME or isinstance(write, Mark):
            return False
        return now - (self._read_at or 0.0) > FRESH and (isinstance(write, Remove) or write.replace)

    def _is_contested(self, key: str) -> bool:
        """Until a later look: the other gateway's tag may have been on its way."""
        if self._contest is None or (self._read_at or 0.0) >= self._contest + CONTEST:
            return False
        return leads_to_peer(self._settings, self._routes.get(key))

    # --- what came of it --------------------------------------------------------------------------------------

    def answered(self, operation: Operation, outcome: Outcome, now: float, standing: Standing) -> None:
        """How a call ended."""
        self._running.remove(operation)
        if isinstance(outcome, Failed):
            self._failed(operation, outcome, now)
        else:
            self._call_error = ""
            self._patience.succeeded(_key(operation))
            self._take(operation, outcome, now, standing)
        self._judge(now, standing)

    def _take(self, operation: Operation, outcome: Outcome, now: float, standing: Standing) -> None:
        self._plan = None
        match operation, outcome:
            case Read(), Contents():
                self._seen(outcome, now, standing)
            case Put(route), Done():
                self._routes[route.key] = route
            case Remove(route), Done():
                self._routes.pop(route.key, None)
            case Mark(key, epoch), Done():
                self._tags[key] = str(epoch)
            case Verify(), Effective(routes):
                self._verified = self._judge_effective(routes)

    def _seen(self, contents: Contents, now: float, standing: Standing) -> None:
        self._contents, self._read_at, self._must_read = contents, now, False
        self._doubted &= self._read_began < standing.since
        self._routes = {route.key: route for route in contents.routes}
        self._tags = dict(contents.tags)
        self._read_due = now + self._settings.check_interval * self._random.uniform(0.9, 1.1)
        if not standing.active or not self.planned(standing).writes:
            self._patience.settled()
        if standing.active and self._settled_for == standing and (changed := self.planned(standing).writes):
            if any(leads_to_peer(self._settings, self._routes.get(_key(operation))) for operation in changed):
                self._contest = now
            self._drifted(changed)
        if self._contest is not None and now < self._contest + CONTEST:
            self._read_due = min(self._read_due, self._contest + CONTEST)

    def _drifted(self, changed: Iterable[Put | Remove | Mark]) -> None:
        self._settled_for = None
        for operation in changed:
            self.drift += 1
            present = self._routes.get(_key(operation))
            told = f"{present} instead of" if present else "somebody removed"
            self._events.append(Drifted(self.table.name, f"{told} {described(operation)}"))

    def _failed(self, operation: Operation, failure: Failed, now: float) -> None:
        self.failures += 1
        self._call_error = f"{described(operation)}: {failure.sentence}"
        if isinstance(operation, Verify):
            self._verified = f"not known: {failure.sentence}"
            return
        self._must_read |= failure.why in (Why.AMBIGUOUS, Why.CONFLICT) and not isinstance(operation, Read)
        self._patience.failed(failure, _key(operation), now)
        if isinstance(operation, Read):
            self._read_due = min(self._read_due, self._patience.retry_at)

    def _judge(self, now: float, standing: Standing) -> None:
        """Whether all is as it shall be, and what is in the way."""
        left = self.planned(standing)
        trouble = "" if self._contents is None else refusal(self._settings, self.table, self._contents)
        held = next(iter(self._patience.refusals.values()), "")
        trouble = trouble or next(iter(left.obstacles), "") or held or self._patience.lasting
        if trouble != self._trouble:
            self._trouble = trouble
            self._events.append(Troubled(self.table.name, trouble))
        unknown = self._contents is None or self._must_read or self._doubted
        if not standing.active or unknown or self._settled_for == standing:
            return
        if not any(isinstance(operation, Put) for operation in left.writes) and self._switched_for != standing:
            self._switched_for, self._switch_seconds = standing, now - standing.since
            count = len(self.table.prefixes) - len(left.obstacles)
            self._events.append(Switched(self.table.name, standing.epoch, count, self._switch_seconds))
        if not left.writes:
            self._settled_for = standing
            self._contest = None
            self._read_due = min(self._read_due, now + VERIFY_AFTER)
            if self.table.effective_of:
                self._verified, self._verify_at = "asked for", now + VERIFY_AFTER

    def _judge_effective(self, routes: tuple[SeenRoute, ...]) -> str:
        used = {route.prefix: route for route in routes}
        wrong = [
            f"{route.prefix} goes to {(found.hop or found.kind) if (found := used.get(route.prefix)) else 'nothing of its own'}"
            for route in self._wanted
            if (found := used.get(route.prefix)) is None or (found.kind, found.hop) != (APPLIANCE, route.hop)
        ]
        return "; ".join(wrong) or "every route is in use"

    # --- shown ------------------------------------------------------------------------------------------------

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Who wrote here, as far as we have seen."""
        return claims(self._settings, self._tags.items())

    def view(self, standing: Standing) -> TableView:
        known = self._contents is not None
        errors = self._patience.refusals
        return TableView(
            name=self.table.name,
            reference=self.table.reference,
            routes=views(self._settings, self._wanted, self._routes if known else None, errors),
            foreign=foreign_routes(self._settings, self.table, self._routes.values()),
            planned=tuple(map(described, self.planned(standing).writes)) if known else (),
            claims=self.claims,
            read_at=self._read_at,
            last_call=self._last_call,
            last_call_at=self._last_call_at,
            last_error=self._trouble or self._call_error,
            trouble=self._trouble,
            remarks=self._contents.remarks if self._contents else (),
            drift=self.drift,
            calls=self.calls,
            failures=self.failures,
            settled=standing.active and self._settled_for == standing,
            switch_seconds=self._switch_seconds,
            verified=self._verified,
        )

    # --- bookkeeping ------------------------------------------------------------------------------------------

    def _start(self, operation: Operation, now: float) -> Operation:
        self._running.append(operation)
        if isinstance(operation, Read):
            self._read_began = now
        self._last_call, self._last_call_at = described(operation), now
        self.calls += 1
        return operation

    def _is_running(self, kind: type[Read | Verify]) -> bool:
        return any(isinstance(operation, kind) for operation in self._running)


def described(operation: Operation) -> str:
    """A call in words, as a dry run shows it."""
    match operation:
        case Read():
            return "read the table"
        case Put(route, replace):
            return f"{'replace by' if replace else 'create'} {route}"
        case Remove(route):
            return f"remove {route}"
        case Mark(key, epoch):
            return f"tag {key} = {epoch}"
        case Verify(interface):
            return f"read the effective routes of {interface.rpartition('/')[2]}"


def _key(operation: Operation) -> str:
    match operation:
        case Put(route) | Remove(route):
            return route.key
        case Mark(key):
            return key
        case _:
            return ""
