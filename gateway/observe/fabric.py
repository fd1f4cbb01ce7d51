"""The cloud's route tables as the snapshot has them: plain values of the core's picture, samples for the metrics, sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.ha.fabric_values import FabricView, RouteState, TableView

STATES = tuple(state.value for state in RouteState)


@dataclass(frozen=True, slots=True)
class FabricRouteStatus:
    """A route that is wanted, and what the table has in its place."""

    prefix: str
    state: str  # ours, peer, absent, changed, foreign, unknown (nothing was read yet)
    hop: str  # where it leads
    error: str  # why it could not be written


@dataclass(frozen=True, slots=True)
class FabricTableStatus:
    """One route table."""

    name: str
    reference: str  # the cloud's name of it
    routes: tuple[FabricRouteStatus, ...]
    foreign: tuple[str, ...]  # routes that are not ours
    planned: tuple[str, ...]  # calls that would make it lead to us
    claims: dict[str, int]  # gateway -> epoch, as the tags say
    read_at: float | None
    last_call: str
    last_call_at: float | None
    last_error: str  # of the last call, also of one that is being repeated
    trouble: str  # one sentence: what lasts, and what to do
    remarks: tuple[str, ...]  # sentences about what was seen on the way: the source/destination check
    drift: int  # routes that others changed, since the start
    calls: int
    failures: int
    settled: bool  # we are active, and nothing is left to do
    switch_seconds: float | None  # of the last switch to us
    verified: str  # what the effective routes say


@dataclass(frozen=True, slots=True)
class FabricStatus:
    """All of them."""

    active: bool
    epoch: int
    outdone_by: str  # the gateway whose tag has a higher epoch; then nothing is written
    dry_run: bool
    tables: tuple[FabricTableStatus, ...]


def fabric_status(view: FabricView) -> FabricStatus:
    """The core's picture without its types."""
    return FabricStatus(
        active=view.active,
        epoch=view.epoch,
        outdone_by=f"{view.outdone_by.node} ({view.outdone_by.epoch})" if view.outdone_by else "",
        dry_run=view.dry_run,
        tables=tuple(_table(table) for table in view.tables),
    )


def troubles(status: FabricStatus) -> Iterator[str]:
    """Sentences for people who look at the gateway, not at the cloud."""
    if status.outdone_by:
        yield f"a route table carries the higher epoch of {status.outdone_by}: this gateway writes no routes"
    for table in status.tables:
        if table.trouble:
            yield f"route table {table.name}: {table.trouble}"
        yield from (f"route table {table.name}: {remark}" for remark in table.remarks)


def route_samples(status: FabricStatus | None) -> Iterator[tuple[tuple[str, ...], float]]:
    """(table, state) -> wanted routes."""
    for table in status.tables if status is not None else ():
        count = Counter(route.state for route in table.routes)
        for state in STATES:
            yield (table.name, state), count[state]


def call_samples(status: FabricStatus | None) -> Iterator[tuple[tuple[str, ...], float]]:
    """(table, result) -> calls."""
    for table in status.tables if status is not None else ():
        yield (table.name, "begun"), table.calls
        yield (table.name, "failed"), table.failures


def _table(view: TableView) -> FabricTableStatus:
    return FabricTableStatus(
        name=view.name,
        reference=view.reference,
        routes=tuple(FabricRouteStatus(one.prefix, one.state.value, one.hop, one.error) for one in view.routes),
        foreign=view.foreign,
        planned=view.planned,
        claims={claim.node: claim.epoch for claim in view.claims},
        read_at=view.read_at,
        last_call=view.last_call,
        last_call_at=view.last_call_at,
        last_error=view.last_error,
        trouble=view.trouble,
        remarks=view.remarks,
        drift=view.drift,
        calls=view.calls,
        failures=view.failures,
        settled=view.settled,
        switch_seconds=view.switch_seconds,
        verified=view.verified,
    )
