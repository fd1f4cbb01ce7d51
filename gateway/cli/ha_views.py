"""What `gatewayctl ha` shows of the pair. No terminal in here."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.cli.address_views import cloud_line
from gateway.cli.views import Block, Json, Table
from gateway.observe.units import age


def ha(snapshot: Json) -> list[Block]:
    """Both gateways side by side, the lease, the paths, and why this one would or would not take over."""
    status = snapshot.get("ha")
    if not status:
        return ["this gateway is on its own; see [ha] in gateway.toml"]
    now = snapshot["now"]
    return [
        f"pair  this gateway is {status['role'].upper()}: {status['last_change'] or 'just started'}",
        "",
        _gateways(snapshot, status),
        "",
        *_lines(now, status, snapshot.get("addresses")),
        "",
        _paths(now, status),
    ]


def _gateways(snapshot: Json, status: Json) -> Table:
    ours = (
        f"{snapshot['name']} (this)",
        status["role"],
        status["level"],
        str(status["epoch"]),
        str(status["priority"]),
        _health(status["health"], status["reasons"]),
        f"gatewayd {snapshot['version']}",
        "-",
    )
    theirs = (
        status["peer_name"] or "(unknown)",
        (status["peer_role"] or "-") if status["peer_up"] else f"{status['peer_role'] or '-'}, not heard",
        status["peer_level"] or "-",
        str(status["peer_epoch"]),
        str(status["peer_priority"]),
        _health(status["peer_health"], status["peer_reasons"]) if status["peer_role"] else "-",
        status["peer_software"] or "-",
        status["peer_config"] or "-",
    )
    headings = ("Gateway", "Role", "Announces", "Epoch", "Priority", "Health", "Software", "Config")
    return Table(headings, (ours, theirs))


def _lines(now: float, status: Json, cloud: Json | None) -> Iterator[str]:
    if status["lease"] == "none":
        yield "witness  none"
    else:
        left = status["lease_remaining"]
        held = {
            "ours": f"the lease is ours for {left:.2f} s more" if left is not None else "the lease is ours",
            "other": f"the lease is held by {status['lease_holder'] or 'the other'}",
            "free": "nobody has the lease",
            "unknown": "what it says is not known",
        }[status["lease"]]
        problem = f"; {status['witness_problem']}" if status["witness_problem"] else ""
        yield f"witness  {status['witness']}: {held}{problem}"
    if status.get("replica"):
        yield _replica(now, status["replica"])
        if line := cloud_line(cloud):
            yield line
    if status["role"] != "active":
        yield f"takes over now?  {status['verdict']}"
    if status["machine_leaves"]:
        yield "this machine leaves  the cloud announced it: a gateway that stays goes first"
    if status["sent_away"]:
        yield f"sent to the other gateway  {', '.join(status['sent_away'])}"
    changes = sum(status["transitions"].values())
    if status["changed_at"] is not None:
        yield f"last change  {_ago(now, status['changed_at'])}; {changes} since the start"


def _replica(now: float, replica: Json) -> str:
    connections = f"{replica['connections']} connection{'s' if replica['connections'] != 1 else ''}"
    addresses = ", ".join(replica["addresses"])
    if replica["here"]:
        state = (
            f"copied to the other gateway, {replica['behind']} records behind"
            if replica["connected"]
            else "copied to nobody"
        )
        return f"shared  {addresses}: here; {connections} {state}"
    if not replica["usable"]:
        return f"shared  {addresses}: at the other gateway; no copy of its SAs that could be used"
    return f"shared  {addresses}: at the other gateway; copy of {connections}, heard {_ago(now, replica['heard_at'])}"


def _paths(now: float, status: Json) -> Table:
    rows = [
        (
            path["local"],
            path["remote"],
            "up" if path["up"] else "down",
            _ago(now, path["heard_at"]),
            f"{path['round_trip'] * 1000:.2f} ms" if path["round_trip"] is not None else "-",
            f"{path['loss']:.0%}",
        )
        for path in status["paths"]
    ]
    return Table(("Local", "Remote", "State", "Heard", "RoundTrip", "Loss"), tuple(rows))


def _health(number: int, reasons: list[str]) -> str:
    return f"{number} ({', '.join(reasons)})" if reasons else str(number)


def _ago(now: float, at: float | None) -> str:
    return "never" if at is None else f"{age(now - at)} ago"
