"""What gatewayctl shows of routes: tables and lines from the daemon's answers. No terminal in here.

The headings are those of the cloud CLI (list-learned-routes, list-advertised-routes, show-effective-route-table) as far as
it has them. Weight is the cloud's own attribute: we have none, and show what it shows for a route of this kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from gateway.cli.views import Block, Json, Table, ending, or_dash, yes

Address = IPv4Address | IPv6Address
_LEARNED_WEIGHT, _ADVERTISED_WEIGHT = "32768", "0"


def bgp_routes(snapshot: Json, wide: bool) -> Table:
    """ ">" is the best path, "=" one used beside it, "+" the one that takes over; Reason says why it won or lost."""
    rows = snapshot.get("routes", ())
    headings = ["", "Network", "Origin", "SourcePeer", "AsPath", "NextHop", "Installed", "Reason"]
    # Where there are instances a prefix alone says too little
    apart = _apart(rows)
    headings += ["Instance"] if apart else []
    headings += ["OriginCode", "LocPrf", "Metric", "Communities", "Stale"] if wide else []
    peers = _addresses(snapshot)
    cells = []
    for route in rows:
        network, origin, peer, path, next_hop = _learned(route, peers)
        row = [_standing(route), network, origin, peer, path, next_hop, yes(route["installed"]), route["reason"]]
        row += [route.get("instance", "")] if apart else []
        row += _attributes(route) if wide else []
        cells.append(tuple(row))
    return Table(tuple(headings), tuple(cells))


def bgp_learned(snapshot: Json, wide: bool) -> Table:
    """As list-learned-routes has it; wide adds what `bgp_routes` shows besides."""
    headings = ["Network", "Origin", "SourcePeer", "AsPath", "Weight", "NextHop"]
    if wide:
        headings += ["Use", "Installed", "Reason", "Instance", "OriginCode", "LocPrf", "Metric", "Communities", "Stale"]
    peers = _addresses(snapshot)
    cells = []
    for route in snapshot.get("routes", ()):
        network, origin, peer, path, next_hop = _learned(route, peers)
        row = [network, origin, peer, path, _LEARNED_WEIGHT, next_hop]
        if wide:
            row += [_USES[_standing(route)], yes(route["installed"]), route["reason"], route.get("instance", "")]
            row += _attributes(route)
        cells.append(tuple(row))
    return Table(tuple(headings), tuple(cells))


def advertised(rows: Sequence[Json], wide: bool) -> Table:
    """As list-advertised-routes has it, with the neighbor where there are several, and what became of it."""
    several = wide or len({row["peer"] for row in rows}) > 1
    headings = [*(["Neighbor"] if several else []), "Network", "NextHop", "Origin", "AsPath", "Weight", "State"]
    headings += ["Metric", "LocPrf", "Communities", "Instance"] if wide else []
    cells = []
    for one in rows:
        row = [one["peer"]] if several else []
        row += [one["prefix"], one["next_hop"], one["origin"].capitalize(), _path(one["as_path"])]
        row += [_ADVERTISED_WEIGHT, _words(one["state"])]
        if wide:
            row += [or_dash(one["med"]), or_dash(one["local_preference"])]
            row += [" ".join(one["communities"]), one.get("instance", "")]
        cells.append(tuple(row))
    return Table(tuple(headings), tuple(cells))


_KINDS = {
    "bgp": "BGP",
    "static": "Static",
    "circuit": "Circuit",
    "circuit-bgp": "Circuit",
    "protected": "Protected",
    "learned": "Learned",
    "shadow": "Shadow",
    "throw": "Throw",
    "earlier": "Earlier",
}


def table(rows: Sequence[Json], wide: bool) -> Table:
    """As show-effective-route-table has it. A next hop in parentheses stands by, or is down."""
    headings = ["Source", "State", "AddressPrefix", "NextHopType", "NextHop"]
    apart = wide or _apart(rows)
    headings += ["Instance"] if apart else []
    headings += ["Metric"] if wide else []
    headings += ["Why"]
    cells = []
    for one in rows:
        if one["kind"] == "shadow" and not wide:
            continue
        row = [_KINDS.get(one["kind"], one["kind"]), _words(one["state"]), one["prefix"], _type(one), _hops(one)]
        row += [one.get("instance", "")] if apart else []
        row += [str(one["metric"])] if wide else []
        cells.append((*row, one.get("why", "")))
    return Table(tuple(headings), tuple(cells))


def lookup(found: Json) -> Iterator[Block]:
    """A few lines: the verdict first, then what it follows from."""
    whence = f" from {found['source']}" if found["source"] else ""
    inside = f" in instance {found['instance']}" if found.get("instance") else ""
    yield f"{found['address']}{whence}{inside}: {found['text']}"
    route = found.get("route")
    yield _line("route", _entry(route) if route else "none in our table")
    for one in found.get("over", ()):
        yield _line("not used", _entry(one))
    for way in route["ways"] if route else ():
        if way["connection"] and not way.get("circuit"):
            yield _line("SA", _sa(way))
    for path in found.get("paths", ()):
        yield _line(_lot(path), _explained(path))
    if found.get("guard"):
        yield _line("guard", _guarded(found))


def policy_test(tried: Json, bare: bool) -> list[Block]:
    """What would differ, counted and one by one; `bare`: no lines around the table."""
    directions = [one for one in ("in", "out") if one in tried]
    blocks: list[Block] = []
    rows = []
    for one in directions:
        blocks.append(_counted(one, tried))
        rows += [_verdict(one, route) for route in tried[one]["routes"]]
    blocks += [f"NOTE  {note}" for note in tried.get("notes", ())]
    headings = ("Direction", "Outcome", "Network", "Rule", "RuleNow", "Changes", "BestPath")
    if rows or bare:
        blocks += [*([] if bare else [""]), Table(headings, tuple(rows))]
    return blocks


def _counted(direction: str, tried: Json) -> str:
    counts, policies = tried[direction]["counts"], tried["policies"][direction]
    now, then = (policies[one] or "no policy" for one in ("now", "then"))
    compared = f"{then}, now {now}" if then != now else then
    what = {"in": "import", "out": "export"}[direction]
    kinds = ("accepted", "rejected", "changed", "same")
    counted = ", ".join(f"{counts[kind]} {_OUTCOMES[direction][kind]}" for kind in kinds)
    return f"{tried['peer']} ({tried['address']}) {what} ({compared}): {counted}"


_OUTCOMES = {
    "in": {"accepted": "newly accepted", "rejected": "newly rejected", "changed": "changed", "same": "as now"},
    "out": {"accepted": "newly told", "rejected": "no longer told", "changed": "changed", "same": "as now"},
}


def _verdict(direction: str, route: Json) -> tuple[str, ...]:
    now, then = (route[one] or "none" for one in ("best_now", "best"))
    best = f"{now} -> {then}" if now != then else ""
    return (
        direction,
        route["outcome"],
        route["prefix"],
        route["reason"],
        route["reason_now"],
        "; ".join(route["changes"]),
        best,
    )


def _line(what: str, text: str) -> str:
    return f"  {what:<10}{text}"


def _entry(one: Json) -> str:
    kind = _KINDS.get(one["kind"], one["kind"])
    ways = f"  to {_hops(one)}" if one["ways"] else ""
    why = f": {one['why']}" if one.get("why") else ""
    return f"{one['prefix']}  {kind}  {one['state']}{ways}{why}"


def _sa(way: Json) -> str:
    if not way["spi_out"]:
        return f"{way['connection']}  no CHILD_SA for it   peer {ending(way['peer'])}"
    spi = f"SPI out {way['spi_out']:08x}"
    return f"{way['connection']}/{way['child']}  {way['child_state']}  {spi}  to {ending(way['peer'])}   {way['selectors']}"


def _lot(path: Json) -> str:
    if not path.get("accepted", True):
        return "rejected"
    return _LOTS.get(_standing(path), "lost")


_LOTS = {">": "best path", "=": "beside", "+": "backup"}
_USES = {">": "best", "=": "beside", "+": "backup", "": ""}


def _explained(path: Json) -> str:
    as_path = " ".join(map(str, path["as_path"])) or "empty"
    return f"{path['prefix']} from {path['peer']}, next hop {path['next_hop']}, AS path {as_path}: {path['reason']}"


def _guarded(found: Json) -> str:
    if found["guard_kind"] == "learned":
        return f"{found['guard']} was learned in a tunnel: never in clear until `gatewayctl guard forget`"
    by = ", ".join(found.get("guard_connections", ()))
    but = "only by the private circuit" if found["guard_kind"] == "yielding" else "never"
    return f"{found['guard']} is protected{f' by {by}' if by else ''}: {but} in clear"


def _type(one: Json) -> str:
    if one["kind"] == "throw":
        return "MainTable"
    if not one["ways"]:
        return "None"
    if one["ways"][0].get("circuit"):
        return "Circuit"
    return "Tunnel" if one["ways"][0]["connection"] else "InClear"


def _hops(one: Json) -> str:
    named = [(way["connection"] or way["next_hop"], way["used"]) for way in one["ways"]]
    return ",".join(name if used else f"({name})" for name, used in named) or "-"


def _words(state: str) -> str:
    """ "held-back" as a column has it."""
    return "".join(word.capitalize() for word in state.split("-"))


def _learned(route: Json, peers: dict[str, str]) -> tuple[str, str, str, str, str]:
    """Network, Origin, SourcePeer, AsPath, NextHop."""
    origin = "EBgp" if route["as_path"] else "IBgp"
    peer, name = str(route["peer"]), str(route["prefix"])
    return name, origin, peers.get(peer, peer), _path(route["as_path"]), str(route["next_hop"])


def _attributes(route: Json) -> list[str]:
    """OriginCode, LocPrf, Metric, Communities, Stale."""
    known = [route["origin"], or_dash(route["local_preference"]), or_dash(route["med"])]
    return [*known, " ".join(route["communities"]), yes(route.get("stale", False))]


def _addresses(snapshot: Json) -> dict[str, str]:
    return {peer["name"]: peer["address"] for peer in snapshot.get("peers", ())}


def _apart(rows: Sequence[Json]) -> bool:
    return any(row.get("instance") for row in rows)


def _path(as_path: Sequence[int]) -> str:
    return "-".join(map(str, as_path))


def _standing(route: Json) -> str:
    if route["best"]:
        return ">"
    return "=" if route.get("multipath") else "+" if route.get("backup") else ""
