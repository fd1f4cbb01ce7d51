"""The read-only status page: one HTML document drawn from the snapshot, no script. Every value is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from gateway.observe.snapshot import Snapshot, TunnelStatus
from gateway.observe.text import printable
from gateway.observe.units import age, octets

_STYLE = """
body{font:15px system-ui,sans-serif;margin:2em;max-width:80em;color:#222;background:#fff}
table{border-collapse:collapse;margin:.5em 0 1.5em}th,td{text-align:left;padding:.3em .9em;border-bottom:1px solid #ddd}
th{font-weight:600;color:#555}.good{color:#17692f}.bad{color:#b3261e}.why{color:#b3261e;font-size:.92em}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181a1b}td,th{border-color:#333}th{color:#aaa}.good{color:#6fcf87}.bad,.why{color:#ff8a80}}
"""


def render_page(snapshot: Snapshot) -> str:
    """The document; it reloads itself every five seconds."""
    up = sum(tunnel.up for tunnel in snapshot.tunnels)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="5">',
        f"<title>{_text(snapshot.name)}: {up}/{len(snapshot.tunnels)} tunnels up</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_text(snapshot.name)}</h1>",
        f"<p>gatewayd {_text(snapshot.version)}, {_text(snapshot.engine)}, running for {age(snapshot.now - snapshot.started_at)}, ",
        f"{_word('ready', snapshot.ready) if snapshot.ready else _word('not ready', False)}, {_text(snapshot.taken_at)}</p>",
        *(f'<p class="why">{_text(problem)}</p>' for problem in snapshot.problems),
        _section("Tunnels", ("Tunnel", "State", "Since", "Local", "Remote", "In", "Out", "Why"), _tunnels(snapshot)),
        _section("BGP peers", ("Neighbor", "ASN", "State", "Since", "Received", "Best", "Sent"), _peers(snapshot)),
        _section("Routes", ("Network", "", "Next hop", "AS path", "Peer", "Why"), _routes(snapshot)),
        _section("Pair", ("Gateway", "Address", "State", "Last heartbeat", "Round trip"), _pair(snapshot)),
        _section("Events", ("Ago", "Level", "Tunnel", "Event", ""), _events(snapshot)),
        "</body></html>",
    ]
    return "".join(parts)


def _text(value: object) -> str:
    return escape(printable(str(value)), quote=True)


def _word(word: str, good: bool) -> str:
    return f'<span class="{"good" if good else "bad"}">{_text(word)}</span>'


def _section(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already; an empty table is left out."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    return f"<h2>{_text(title)}</h2><table><tr>{head}</tr>{body}</table>" if body else ""


def _tunnels(snapshot: Snapshot) -> Iterable[Sequence[str]]:
    for tunnel in snapshot.tunnels:
        since = age(snapshot.now - tunnel.established_at) if tunnel.established_at is not None else "-"
        yield (
            _text(tunnel.name),
            _word(tunnel.ike_state, tunnel.up),
            since,
            _text(tunnel.local),
            _text(tunnel.remote),
            octets(tunnel.octets_in),
            octets(tunnel.octets_out),
            f'<span class="why">{_text(_why(tunnel))}</span>',
        )


def _why(tunnel: TunnelStatus) -> str:
    return "" if tunnel.up else tunnel.explanation or tunnel.last_failure


def _peers(snapshot: Snapshot) -> Iterable[Sequence[str]]:
    for peer in snapshot.peers:
        since = age(snapshot.now - peer.established_at) if peer.established_at is not None else "-"
        counts = (str(peer.prefixes.get(rib, 0)) for rib in ("adj_in", "best", "adj_out"))
        yield _text(peer.address), str(peer.asn), _word(peer.state, peer.state == "Established"), since, *counts


def _routes(snapshot: Snapshot) -> Iterable[Sequence[str]]:
    for route in snapshot.routes[:200]:
        path = "-".join(str(asn) for asn in route.as_path)
        best = "&gt;" if route.best else ""
        yield _text(route.prefix), best, _text(route.next_hop), _text(path), _text(route.peer), _text(route.reason)


def _pair(snapshot: Snapshot) -> Iterable[Sequence[str]]:
    if snapshot.ha is not None:
        ha = snapshot.ha
        heard = f"{age(snapshot.now - ha.last_heartbeat_at)} ago" if ha.last_heartbeat_at is not None else "never"
        trip = f"{ha.round_trip * 1000:.2f} ms" if ha.round_trip is not None else "-"
        yield (
            _text(ha.peer_name or "-"),
            _text(ha.peer_address),
            _word("up" if ha.peer_up else "down", ha.peer_up),
            heard,
            trip,
        )


def _events(snapshot: Snapshot) -> Iterable[Sequence[str]]:
    for entry in reversed(snapshot.journal[-30:]):
        ago = age(snapshot.now - entry.at)
        yield ago, _word(entry.level, entry.level == "info"), _text(entry.tunnel), _text(entry.event), _text(entry.text)
