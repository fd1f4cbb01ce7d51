"""What `gatewayctl fabric` and `ha` show of the shared addresses in the cloud. No terminal in here."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.cli.views import Block, Json, Table
from gateway.observe.units import age

_SAID = {
    "unknown": "nobody knows where",
    "ours": "here",
    "peer": "at the other gateway",
    "absent": "at no interface",
    "foreign": "at an interface of neither gateway",
    "fixed": "an interface's own first address",
}


def addresses(snapshot: Json, wide: bool) -> list[Block]:
    """A line about us, a row for each address, and a line for whatever is not as it should be; nothing where no cloud is told."""
    status = snapshot.get("addresses")
    if not status:
        return []
    role = "ACTIVE" if status["active"] else "STANDBY"
    dry = "  dry run: nothing is written" if status["dry_run"] else ""
    blocks: list[Block] = [f"shared addresses  {role}  epoch {status['epoch']}{dry}", "", _table(snapshot, wide)]
    for interface in status["interfaces"]:
        blocks += _lines(status, interface, wide)
    return blocks


def cloud_line(status: Json | None) -> str:
    """For the picture of the pair: where the cloud has them; "" where no cloud is told."""
    found = [one for interface in (status or {}).get("interfaces", ()) for one in interface["addresses"]]
    if not found:
        return ""
    return f"cloud  {'; '.join(_place(one) for one in found)}"


def _place(one: Json) -> str:
    return f"{one['address']}: {_SAID[one['place']]}{_short(one['interface'])}{_error(one)}"


def _error(one: Json) -> str:
    return f" ({one['error']})" if one["error"] else ""


def _short(interface: str) -> str:
    return f" ({interface.rpartition('/')[2]})" if interface else ""


def _table(snapshot: Json, wide: bool) -> Table:
    headings = ["Interface", "Address", "Cloud", "Public", "State", "Drift", "Read", "LastCall", "LastError"]
    headings += ["Ours", "Theirs", "Calls", "Failures", "Moved"] if wide else []
    now, status = snapshot["now"], snapshot["addresses"]
    rows = []
    for interface in status["interfaces"]:
        for one in interface["addresses"]:
            row = [interface["name"], one["address"], f"{_SAID[one['place']]}{_short(one['interface'])}"]
            row += [one["public"] or "-", _state(status, interface), str(interface["drift"])]
            row += [_ago(now, interface["read_at"])]
            row += [f"{interface['last_call'] or '-'}, {_ago(now, interface['last_call_at'])}"]
            row += [interface["last_error"] or "-"]
            if wide:
                seconds = interface["move_seconds"]
                row += [interface["ours"], interface["theirs"], str(interface["calls"]), str(interface["failures"])]
                row.append("-" if seconds is None else f"{seconds:.2f} s")
            rows.append(tuple(row))
    return Table(tuple(headings), tuple(rows))


def _state(status: Json, interface: Json) -> str:
    if interface["read_at"] is None:
        return "unread"
    if interface["trouble"]:
        return "troubled"
    if not status["active"]:
        return "watched"
    return "settled" if interface["settled"] else "moving"


def _lines(status: Json, interface: Json, wide: bool) -> Iterator[str]:
    name = interface["name"]
    yield from (f"PROBLEM  {name}: {said}" for said in (interface["trouble"], *interface["remarks"]) if said)
    if status["dry_run"] or wide:
        yield from (f"{name}  would {call}" for call in interface["planned"])


def _ago(now: float, at: float | None) -> str:
    return "-" if at is None else f"{age(now - at)} ago"
