"""The cloud's route tables as a core: which calls make them lead to this gateway while it is the active one.

    Activate(epoch) / Deactivate / Look / Configure --> Fabric --> Call(ticket, table, operation)
    computed(ticket, outcome, now)                  -->        --> Switched, Drifted, Troubled, HigherEpoch

Tables are independent of each other, and their calls go in parallel. In one table there is one call at a time (ARM refuses a
second) or a few (AWS). While we are not active every table is read now and then, so that a takeover knows what it writes into, and
nothing is written. While we are, what others changed is found by the same reading, counted and repaired.

The fence: each gateway writes its epoch as a tag of its own into every table, after its routes. A claim above ours ends all
writing at once and is told as HigherEpoch. A route that leads to the other gateway is given `CONTEST` seconds for the tag that
explains it before it is repaired, so that two that both believe to be active do not write in turns: the last epoch wins.

Not the election and not the witness: this never decides who is active. Not the cloud: `runtime/fabric_azure.py`, `fabric_aws.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.contract import RandomSource
from gateway.ha.fabric_routes import outdone
from gateway.ha.fabric_table import RouteTable, Standing
from gateway.ha.fabric_values import (
    Activate,
    Call,
    Claim,
    Configure,
    Deactivate,
    Event,
    FabricSettings,
    FabricView,
    Failed,
    HigherEpoch,
    Look,
    Operation,
    Outcome,
    Why,
)

TICKET_OCTETS = 6
Command = Activate | Deactivate | Look | Configure


class Fabric:
    """All route tables of one gateway, by the contract of `gateway/contract.py`."""

    def __init__(self, settings: FabricSettings, random: RandomSource, now: float) -> None:
        self.settings = settings
        self._random = random
        self._standing = Standing(False, 0, now)
        self._outdone_by: Claim | None = None
        self._tables = {table.name: RouteTable(settings, table, random, now) for table in settings.tables}
        self._tickets: dict[int, tuple[RouteTable, Operation]] = {}
        # None is that of a call which a core before this one made, and which is still under way
        self._ticket = int.from_bytes(random.octets(TICKET_OCTETS), "big")
        self._effects: deque[Call | Event] = deque()
        self._advance(now)

    def command(self, command: Command, now: float) -> None:
        """Intent of the election or the operator."""
        match command:
            case Activate(epoch):
                self._stand(Standing(True, epoch, now), now)
            case Deactivate():
                self._stand(Standing(False, self._standing.epoch, now), now)
            case Look():
                for table in self._tables.values():
                    table.look(now)
            case Configure(settings):
                self._configure(settings, now)
        self._advance(now)

    def computed(self, ticket: int, result: object, now: float) -> None:
        """How a Call ended: an Outcome; anything else is a defect of the shell, and as good as no answer."""
        if ticket not in self._tickets:
            return  # of a core that was here before
        table, operation = self._tickets.pop(ticket)
        outcome = result if isinstance(result, Outcome) else Failed(Why.AMBIGUOUS, "the call ended without an answer")
        table.answered(operation, outcome, now, self._writing)
        self._advance(now)

    def poll(self) -> Iterator[Call | Event]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        times = [at for table in self._tables.values() if (at := table.deadline()) is not None]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> None:
        self._advance(now)

    @property
    def highest_claim(self) -> Claim | None:
        """The highest epoch that any table carries, whoever wrote it: a new one must be above."""
        claims = (claim for table in self._tables.values() for claim in table.claims)
        return max(claims, key=lambda claim: claim.epoch, default=None)

    def view(self) -> FabricView:
        """The picture for people."""
        return FabricView(
            active=self._standing.active,
            epoch=self._standing.epoch,
            outdone_by=self._outdone_by,
            dry_run=self.settings.dry_run,
            tables=tuple(table.view(self._writing) for table in self._tables.values()),
        )

    # --- intent -----------------------------------------------------------------------------------------------

    def _stand(self, standing: Standing, now: float) -> None:
        current = self._standing
        if (standing.active, standing.epoch) == (current.active, current.epoch):
            return
        self._standing, self._outdone_by = standing, None
        for table in self._tables.values():
            if standing.active:
                table.activated(now, standing)

    def _configure(self, settings: FabricSettings, now: float) -> None:
        kept: dict[str, RouteTable] = {}
        for table in settings.tables:
            known = self._tables.get(table.name)
            if known is not None and known.table.reference == table.reference:
                known.configure(settings, table)
                kept[table.name] = known
            else:
                kept[table.name] = RouteTable(settings, table, self._random, now)
        # Answers for a table that is gone still come; nothing listens to it any more.
        self.settings, self._tables = settings, kept

    # --- going on ---------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        self._compare_epochs()
        for table in self._tables.values():
            self._effects.extend(table.poll())
            while (operation := table.next_operation(now, self._writing)) is not None:
                self._ticket += 1
                self._tickets[self._ticket] = (table, operation)
                self._effects.append(Call(self._ticket, table.table, operation))

    @property
    def _writing(self) -> Standing:
        """Who was outdone is not active, whatever it was told."""
        if self._outdone_by is None:
            return self._standing
        return Standing(False, self._standing.epoch, self._standing.since)

    def _compare_epochs(self) -> None:
        """Before anything is written: what the tables say of who is the active one."""
        if not self._standing.active or self._outdone_by is not None:
            return
        for table in self._tables.values():
            claim = outdone(self.settings, self._standing.epoch, table.claims)
            if claim is not None:
                self._outdone_by = claim
                self._effects.append(HigherEpoch(table.table.name, claim))
                return
