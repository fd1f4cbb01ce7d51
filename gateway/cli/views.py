"""What gatewayctl shows: each view turns the snapshot into blocks of lines and tables. No terminal in here.

The snapshot comes as JSON from a daemon that may be newer, so missing keys are tolerated and unknown ones ignored.
BGP tables have the headings of the cloud CLI (list-bgp-peer-status, list-learned-routes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.observe.units import age, octets, quantity

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_CARRYING = ("INSTALLED", "REKEYING")  # states of a CHILD_SA that passes traffic
_SENDING = ("read", "segment", "seal", "send")  # stages of a worker on the way out
Block = Table | str  # a string is one line


def status(snapshot: Json, wide: bool) -> list[Block]:
    """One screen."""
    now = snapshot["now"]
    ready = "READY" if snapshot["ready"] else "NOT READY"
    blocks: list[Block] = [
        f"{snapshot['name']}  {ready}  gatewayd {snapshot['version']}  {snapshot['engine']}  up {age(now - snapshot['started_at'])}",
        *(f"PROBLEM  {problem}" for problem in _problems(snapshot)),
        *(_circuit(tunnel) for tunnel in snapshot["tunnels"] if tunnel.get("circuit")),
        "",
        _tunnels(snapshot, wide),
    ]
    if snapshot.get("peers"):
        speaker = snapshot.get("exabgp", "")
        blocks += ["", *([f"ExaBGP {speaker}"] if speaker not in ("", "running") else []), bgp_peers(snapshot, wide)]
    if snapshot.get("liveness"):
        blocks += ["", bfd(snapshot, wide)]
    routes = snapshot.get("kernel_routes", {})
    if routes:
        blocks += ["", "kernel routes  " + "  ".join(f"{state} {count}" for state, count in routes.items())]
    if snapshot.get("ha"):
        blocks += ["", _pair(snapshot)]
    if snapshot.get("journal"):
        blocks += ["", _events(snapshot, 50 if wide else 8)]
    return blocks


def sas(snapshot: Json, tunnel: str, wide: bool) -> list[Block]:
    """Like swanctl --list-sas."""
    blocks: list[Block] = []
    for status_ in snapshot["tunnels"]:
        if tunnel in ("", status_["name"]):
            blocks += [*_ike_sa(snapshot, status_, wide), ""]
    return blocks[:-1]


def bgp_peers(snapshot: Json, wide: bool) -> Table:
    headings = ["Neighbor", "ASN", "State", "ConnectedDuration", "RoutesReceived", "MessagesSent", "MessagesReceived"]
    if wide:
        headings += [
            "Name",
            "LocalAddress",
            "Connection",
            "Instance",
            "Accepted",
            "Best",
            "Advertised",
            "Stale",
            "HeldBack",
            "LimitOut",
            "Flaps",
            "LastError",
            "Why",
        ]
    rows = []
    for peer in snapshot.get("peers", ()):
        prefixes = peer.get("prefixes", {})
        row = [
            peer["address"],
            str(peer["asn"]),
            peer["state"],
            _connected(snapshot["now"], peer.get("established_at")),
            str(prefixes.get("adj_in", 0)),
            str(peer.get("messages_sent", 0)),
            str(peer.get("messages_received", 0)),
        ]
        if wide:
            row += [peer["name"], peer.get("local_address", ""), peer.get("connection", ""), peer.get("instance", "")]
            row += [str(prefixes.get(rib, 0)) for rib in ("accepted", "best", "adj_out", "stale")]
            row += [str(prefixes.get("held_back", 0)), str(peer.get("limit_out") or "-")]
            row += [str(peer.get("flaps", 0)), peer.get("last_error", ""), peer.get("explanation", "")]
        rows.append(tuple(row))
    return Table(tuple(headings), tuple(rows))


def bfd(snapshot: Json, wide: bool) -> Table:
    """BFD sessions and probes. Down with the verdict "unknown": as if it were not there."""
    headings = ["Session", "Remote", "State", "Verdict", "Since", "Detection", "Flaps", "Reason"]
    if wide:
        headings += ["Kind", "Local", "Inside", "Interval", "RemoteState", "Diagnostic", "RemoteDiagnostic"]
        headings += ["Sent", "Received", "Refused", "Largest", "MTU"]
    rows = []
    for one in snapshot.get("liveness", ()):
        changed, counts = one.get("changed_at"), one.get("counts", {})
        row = [one["name"], one["remote"], one["state"], one["verdict"]]
        row += [age(snapshot["now"] - changed) if changed is not None else "-", _milliseconds(one.get("detection", 0))]
        row += [str(one.get("flaps", 0)), one.get("reason", "")]
        if wide:
            row += [one["kind"], one["local"], one.get("connection") or "-", _milliseconds(one.get("interval", 0))]
            row += [one.get("remote_state", ""), one.get("diagnostic", ""), one.get("remote_diagnostic", "")]
            refused = sum(one.get("refused", {}).values())
            row += [str(counts.get("sent", 0)), str(counts.get("received", 0)), str(refused)]
            row += [f"{one['largest']}" if one.get("largest") else "-", one.get("passage") or "-"]
        rows.append(tuple(row))
    return Table(tuple(headings), tuple(rows))


def guard(found: Json) -> Table:
    """Prefixes that cannot leave in clear."""
    instances = found.get("instances", {})
    rows = [
        (prefix, why, instance)
        for instance, held in {"": found, **instances}.items()
        for why in ("protected", "learned")
        for prefix in held.get(why, [])
    ]
    if not instances:
        return Table(("Prefix", "Why"), tuple(row[:2] for row in rows))
    return Table(("Prefix", "Why", "Instance"), tuple(rows))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds else "-"


def workers(snapshot: Json, wide: bool) -> Table:
    """Data plane threads. Cycles by stage are those of one packet of its direction, where they are counted."""
    rows = snapshot.get("workers", ())
    stages = [stage for stage in rows[0].get("cycles", ()) if any(w["cycles"][stage] for w in rows)] if rows else []
    headings = ["Worker", "Cpu", "CpuTime", "In", "Out", "BurstIn", "BurstOut", "Waiting", "Lost"]
    if wide:
        headings += ["Turns", "EmptyPolls", "TunReads", "TunWrites", "UdpReads", "UdpSends"]
        headings += [f"{stage.capitalize()}Cycles" for stage in stages]
    table = Table(tuple(headings), tuple(_worker(row, wide, stages) for row in rows))
    return _with_packet_sockets(table, rows) if wide else table


def _with_packet_sockets(table: Table, workers_: Sequence[Json]) -> Table:
    """Calls, and packets left to the raw socket, where protocol 50 is sent so (dataplane.packet_socket)."""
    sends = [worker.get("calls", {}).get("packet_sends", 0) for worker in workers_]
    left = [sum(worker.get("fallbacks", {}).values()) for worker in workers_]
    if not any(sends):
        return table
    cells = ((str(send), str(fallback)) for send, fallback in zip(sends, left, strict=True))
    rows = tuple((*row, *more) for row, more in zip(table.rows, cells, strict=True))
    return Table((*table.headings, "PacketSends", "Fallbacks"), rows)


def trace(lines: Sequence[Json]) -> list[Block]:
    """A ladder: what went and came, and what came of it."""
    if not lines:
        return ["nothing was sent or received yet"]
    return [_rung(line, before) for line, before in zip(lines, (None, *lines), strict=False)]


def _rung(line: Json, before: Json | None) -> str:
    moment = datetime.fromtimestamp(line["at"], UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    if not line["exchange"]:
        return f"{moment}       {line['text']}"
    if line.get("folded"):
        return _checks(line, moment)
    arrow = "-->" if line["outgoing"] else "<--"
    what = f"{line['exchange']} {'response' if line['response'] else 'request'} {line['message_id']}"
    more = [f"{line['octets']} octets"]
    if line["datagrams"] > 1:
        more.append(f"{line['datagrams']} fragments")
    if line["repeated"]:
        more.append(f"sent again {line['repeated']} times")
    asked = before if before is not None and not before.get("folded") else None
    if asked is not None and line["response"] and asked["exchange"] == line["exchange"] and not asked["response"]:
        more.append(f"+{(line['at'] - asked['at']) * 1000:.0f} ms")
    return f"{moment}  {arrow}  {what:27}  {line['text']}   ({', '.join(more)})"


def _checks(line: Json, moment: str) -> str:
    """Many empty messages in a row, from that moment on."""
    again = f", sent again {line['repeated']} times" if line["repeated"] else ""
    text = f"{line['folded']} empty ones, liveness checks and their answers"
    return f"{moment}  <->  {line['exchange']:27}  {text}   ({line['octets']} octets{again})"


def explain(snapshot: Json, tunnel: str) -> list[Block]:
    """One sentence per tunnel, and one per BGP session that is down."""
    lines: list[Block] = [f"PROBLEM  {problem}" for problem in _problems(snapshot)] if not tunnel else []
    lines += [_why(snapshot, status_) for status_ in snapshot["tunnels"] if tunnel in ("", status_["name"])]
    return lines + [
        f"BGP {peer['name']} is {peer['state']}: {peer['explanation'].rstrip('.')}."
        for peer in snapshot.get("peers", ())
        if peer.get("explanation") and tunnel in ("", peer.get("connection"))
    ]


def faults(snapshot: Json) -> tuple[list[str], list[str]]:
    """(critical, warning) in a few words each, for monitoring."""
    elsewhere = (snapshot.get("ha") or {}).get("sent_away", ())  # with the other gateway of the pair, as it should be
    critical = [] if snapshot["ready"] else ["not ready"]
    down = [t for t in snapshot["tunnels"] if not t["up"] and t["name"] not in elsewhere]
    critical += [f"tunnel {t['name']} {t['ike_state']}" for t in down]
    idle = [
        p for p in snapshot.get("peers", ()) if p["state"] != "Established" and p.get("connection") not in elsewhere
    ]
    critical += [f"BGP peer {p['address']} {p['state']}" for p in idle]
    critical += [f"{one['name']} down" for one in snapshot.get("liveness", ()) if one["verdict"] == "down"]
    warning = ["other gateway of the pair down"] if snapshot.get("ha") and not snapshot["ha"]["peer_up"] else []
    failed = snapshot.get("kernel_routes", {}).get("failed", 0)
    warning += [f"{failed} kernel routes failed"] if failed else []
    return critical, warning + _problems(snapshot)


def _problems(snapshot: Json) -> list[str]:
    return [*snapshot.get("problems", ()), *snapshot.get("certificate_problems", ())]


def _circuit(tunnel: Json) -> str:
    """Said plainly: what leaves in clear, and what is only there in case."""
    prefixes = ", ".join(tunnel.get("protected", ()))
    if tunnel["circuit"] == "up":
        return f"IN CLEAR  {tunnel['name']}: {prefixes} follow the private circuit; the tunnel stands by (protection = backup)"
    return f"BACKUP  {tunnel['name']}: {prefixes} go into the tunnel; the private circuit does not answer"


def _tunnels(snapshot: Json, wide: bool) -> Table:
    headings = ["Tunnel", "State", "Since", "Remote", "Children", "In", "Out", "LastIn", "Drops"]
    if wide:
        headings += ["Local", "LocalId", "RemoteId", "Suite", "Interface", "Mtu"]
    headings.append("Why")
    return Table(tuple(headings), tuple(_tunnel(snapshot["now"], tunnel, wide) for tunnel in snapshot["tunnels"]))


def _tunnel(now: float, tunnel: Json, wide: bool) -> tuple[str, ...]:
    children = tunnel.get("children", ())
    names = {child["name"] for child in children}
    installed = {child["name"] for child in children if child["state"] in _CARRYING}
    last_in = max((child["last_in"] for child in children if child.get("last_in") is not None), default=None)
    row = [
        tunnel["name"],
        tunnel["ike_state"],
        _age(now, tunnel.get("established_at")),
        tunnel["remote"] or "-",
        f"{len(installed)}/{len(names)}",
        octets(tunnel.get("octets_in", 0)),
        octets(tunnel.get("octets_out", 0)),
        _age(now, last_in),
        str(sum(count for reason, count in tunnel.get("drops", {}).items() if reason not in ("keepalive", "dummy"))),
    ]
    if wide:
        row += [tunnel.get(key) or "-" for key in ("local", "local_id", "remote_id", "suite", "interface")]
        row.append(str(tunnel.get("mtu", 0)))
    why = "" if tunnel["up"] else tunnel.get("last_failure", "")
    return (*row, (tunnel.get("explanation") or why) if wide and not tunnel["up"] else why)


def _worker(worker: Json, wide: bool, stages: Sequence[str]) -> tuple[str, ...]:
    packets = {direction: worker.get(f"packets_{direction}", 0) for direction in ("in", "out")}
    row = [
        str(worker["worker"]),
        "any" if worker.get("cpu") is None else str(worker["cpu"]),
        f"{worker['cpu_seconds']:.2f}s",
        *(quantity(packets[direction]) for direction in ("in", "out")),
        *(_mean(packets[direction], sum(worker.get(f"bursts_{direction}", ()))) for direction in ("in", "out")),
        octets(worker.get("queue_octets", 0)),
        str(worker.get("queue_drops", 0)),
    ]
    if wide:
        row += [str(worker["ticks"]), str(worker.get("empty_polls", 0))]
        row += [
            str(worker.get("calls", {}).get(call, 0)) for call in ("tun_reads", "tun_writes", "udp_reads", "udp_sends")
        ]
        row += [_mean(worker["cycles"][stage], packets["out" if stage in _SENDING else "in"], 0) for stage in stages]
    return tuple(row)


def _mean(total: int, count: int, digits: int = 1) -> str:
    return f"{total / count:.{digits}f}" if count else "-"


def _ike_sa(snapshot: Json, tunnel: Json, wide: bool) -> Iterable[str]:
    now = snapshot["now"]
    ends = f"{ending(tunnel['local'])} {_quoted(tunnel['local_id'])} <-> {ending(tunnel['remote'])} {_quoted(tunnel['remote_id'])}"
    nat = f"   NAT: {tunnel['nat']}" if tunnel.get("nat") else ""
    yield f"{tunnel['name']:<9} {tunnel['ike_state']}  IKEv2  {tunnel.get('role') or '-'}   {ends}{nat}"
    if tunnel.get("established_at") is None:
        retry = f", next try in {age(tunnel['retry_at'] - now)}" if tunnel.get("retry_at") is not None else ""
        yield f"  {tunnel.get('last_failure') or 'not tried yet'} after {tunnel.get('attempts', 0)} attempts{retry}"
    else:
        rekey = f", rekey in {age(tunnel['rekey_at'] - now)}" if tunnel.get("rekey_at") is not None else ""
        heard = (
            f", heard {_age(now, tunnel.get('last_heard_at'))} ago" if tunnel.get("last_heard_at") is not None else ""
        )
        yield f"  {tunnel['suite']}   up {_age(now, tunnel['established_at'])}{rekey}{heard}"
        if wide:
            ours, theirs = ("*", "") if tunnel.get("role") == "initiator" else ("", "*")
            yield f"  SPIs {tunnel['initiator_spi']:016x}_i{ours} {tunnel['responder_spi']:016x}_r{theirs}   {tunnel['interface']} mtu {tunnel['mtu']}"
    for child in tunnel.get("children", ()):
        yield from _child_sa(now, child)


def _child_sa(now: float, child: Json) -> Iterable[str]:
    selectors = f"{','.join(child['local_ts'])} <-> {','.join(child['remote_ts'])}"
    if not child.get("spi_in"):
        yield f"  {child['name']:<9} {child['state']:<12} {selectors}"
        return
    rekey = f"   rekey in {age(child['rekey_at'] - now)}" if child.get("rekey_at") is not None else ""
    yield f"  {child['name']:<9} {child['state']:<12} TUNNEL  ESP:{child['suite']}   {selectors}{rekey}"
    received = f"replay {child['replay_drops']}   auth-fail {child['integrity_failures']}"
    sent = f"seq {100 * child['sequence_used_ratio']:.2g} % used"
    for direction, trailer in (("in", received), ("out", sent)):
        count, packets = octets(child[f"octets_{direction}"]), quantity(child[f"packets_{direction}"])
        last = _age(now, child.get(f"last_{direction}"))
        ago = f"{last} ago" if last != "-" else "never"
        yield f"    {direction:<4}{child[f'spi_{direction}']:08x}   {count:>9}   {packets:>8} pkts   {ago:>8}   {trailer}"


def _why(snapshot: Json, tunnel: Json) -> str:
    name, now = tunnel["name"], snapshot["now"]
    if tunnel["up"]:
        doubt = f", but {tunnel['explanation'].rstrip('.')}" if tunnel.get("explanation") else ""
        return f"{name} is up for {_age(now, tunnel.get('established_at'))}{doubt}."
    reason = tunnel.get("explanation") or tunnel.get("last_failure") or _between(tunnel)
    attempts = f" Attempts so far: {tunnel['attempts']}." if tunnel.get("attempts") else ""
    retry = f" Next in {age(tunnel['retry_at'] - now)}." if tunnel.get("retry_at") is not None else ""
    return f"{name} is {tunnel['ike_state']}: {reason.rstrip('.')}.{attempts}{retry}"


def _between(tunnel: Json) -> str:
    """No failure is known: it is on its way, or a child is missing."""
    missing = [child["name"] for child in tunnel.get("children", ()) if child["state"] not in _CARRYING]
    if tunnel["ike_state"] == "ESTABLISHED" and missing:
        return f"the IKE_SA is established, but not the CHILD_SA {', '.join(dict.fromkeys(missing))}"
    return "no failure is known yet"


def _pair(snapshot: Json) -> str:
    ha, now = snapshot["ha"], snapshot["now"]
    trip = f", round trip {ha['round_trip'] * 1000:.2f} ms" if ha.get("round_trip") is not None else ""
    heard = _age(now, ha.get("last_heartbeat_at"))
    said = f"last heartbeat {heard} ago" if heard != "-" else "never heard"
    rejected = sum(ha.get("rejected", {}).values())
    refused = f", {rejected} datagrams rejected" if rejected else ""
    role = f"{ha['role'].upper()}  " if ha.get("role") else ""
    peer = f"{'UP' if ha['peer_up'] else 'DOWN'}{' ' + ha['peer_role'] if ha.get('peer_role') else ''}"
    return f"pair  {role}{ha['peer_name'] or '(unknown)'} {ha['peer_address']}  {peer}  {said}{trip}{refused}"


def _events(snapshot: Json, count: int) -> Table:
    entries = snapshot["journal"][-count:]
    rows = (
        (f"{age(snapshot['now'] - e['at'])} ago", e["level"], e["tunnel"] or "-", e["event"], e["text"])
        for e in entries
    )
    return Table(("When", "Level", "Tunnel", "Event", "Text"), tuple(rows))


def _connected(now: float, since: float | None) -> str:
    """hh:mm:ss, or d.hh:mm:ss."""
    if since is None:
        return "-"
    hours, rest = divmod(max(0, int(now - since)), 3600)
    clock = f"{hours % 24:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{hours // 24}.{clock}" if hours >= 24 else clock


def _age(now: float, since: float | None) -> str:
    return age(now - since) if since is not None else "-"


def ending(address: str) -> str:
    """203.0.113.10:4500 as swanctl writes it: 203.0.113.10[4500]."""
    host, _, port = address.rpartition(":")
    return f"{host.strip('[]')}[{port}]" if host else address or "%any"


def _quoted(identity: str) -> str:
    return f"'{identity}'" if identity else "''"


def or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def yes(value: bool) -> str:
    return "yes" if value else "no"


def aligned(table: Table, header: bool) -> Sequence[str]:
    """Columns padded to their widest value; nothing is cut."""
    lines = ([table.headings] if header else []) + list(table.rows)
    widths = [max((len(line[column]) for line in lines), default=0) for column in range(len(table.headings))]
    return ["    ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
