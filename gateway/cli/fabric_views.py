"""What `gatewayctl fabric` shows of the cloud: its route tables, and the shared addresses in it. No terminal in here."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.cli.address_views import addresses
from gateway.cli.views import Block, Json, Table
from gateway.observe.units import age

_MOST = 8
"""Lines of a kind for each table; `-o wide` and `-o json` have all."""
_SAID = {
    "peer": "leads to the other gateway",
    "absent": "is not there",
    "changed": "was changed by somebody",
    "foreign": "belongs to somebody else",
}


def fabric(snapshot: Json, wide: bool) -> list[Block]:
    """What is configured of the two."""
    tables, shared = _route_tables(snapshot, wide), addresses(snapshot, wide)
    if not tables and not shared:
        return [
            "neither a route table nor an address of the cloud is configured; see [fabric] and [ha.fabric] in gateway.toml"
        ]
    return [*tables, *([""] if tables and shared else []), *shared]


def _route_tables(snapshot: Json, wide: bool) -> list[Block]:
    """A line about us, a row for each table, and a line for whatever is not as it should be."""
    status = snapshot.get("fabric")
    if not status:
        return []
    role = "ACTIVE" if status["active"] else "STANDBY"
    blocks: list[Block] = [
        f"fabric  {role}  epoch {status['epoch']}{'  dry run: nothing is written' if status['dry_run'] else ''}"
    ]
    if status["outdone_by"]:
        blocks.append(f"PROBLEM  a table carries the higher epoch of {status['outdone_by']}; nothing is written")
    blocks += ["", _tables(snapshot["now"], status, wide)]
    for table in status["tables"]:
        lines = list(_lines(status, table, wide))
        blocks += ["", *lines] if lines else []
    return blocks


def _tables(now: float, status: Json, wide: bool) -> Table:
    headings = ["Table", "Routes", "State", "Foreign", "Drift", "Read", "LastCall", "LastError"]
    headings += ["Id", "Calls", "Failures", "Switched", "Verified", "Claims"] if wide else []
    rows = []
    for table in status["tables"]:
        ours = sum(route["state"] == "ours" for route in table["routes"])
        row = [
            table["name"],
            f"{ours}/{len(table['routes'])}",
            _state(status, table),
            str(len(table["foreign"])),
            str(table["drift"]),
            _ago(now, table["read_at"]),
            f"{table['last_call'] or '-'}, {_ago(now, table['last_call_at'])}",
            table["last_error"] or "-",
        ]
        if wide:
            seconds = table["switch_seconds"]
            row += [table["reference"], str(table["calls"]), str(table["failures"])]
            row += ["-" if seconds is None else f"{seconds:.2f} s", table["verified"] or "-"]
            row.append(", ".join(f"{node} {epoch}" for node, epoch in table["claims"].items()) or "-")
        rows.append(tuple(row))
    return Table(tuple(headings), tuple(rows))


def _state(status: Json, table: Json) -> str:
    if table["read_at"] is None:
        return "unread"
    if not status["active"]:
        return "watched"
    if table["trouble"]:
        return "troubled"
    return "settled" if table["settled"] else "switching"


def _lines(status: Json, table: Json, wide: bool) -> Iterator[str]:
    name = table["name"]
    yield from (f"PROBLEM  {name}: {sentence}" for sentence in (table["trouble"], *table["remarks"]) if sentence)
    wrong = [
        f"{name}  {route['prefix']} {_SAID[route['state']]}{f' ({hop})' if (hop := route['hop']) else ''}{f': {error}' if (error := route['error']) else ''}"
        for route in table["routes"]
        if route["state"] in _SAID and (status["active"] or wide)
    ]
    yield from _some(wrong, wide)
    if status["dry_run"] or wide:
        yield from _some([f"{name}  would {call}" for call in table["planned"]], wide)
    if wide:
        yield from (f"{name}  foreign: {route}" for route in table["foreign"])


def _some(lines: list[str], wide: bool) -> list[str]:
    if wide or len(lines) <= _MOST:
        return lines
    return [*lines[:_MOST], f"and {len(lines) - _MOST} more; -o wide shows all"]


def _ago(now: float, at: float | None) -> str:
    return "-" if at is None else f"{age(now - at)} ago"
