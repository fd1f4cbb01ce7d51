"""The decision process of RFC 4271 9.1.2: which of several paths to a prefix is used, and why.

Each step keeps the paths that are best in one respect; the step that leaves one is the reason.
Step zero is ours: a path whose session is gone loses against any path whose session is up (as the long-lived stale
routes of RFC 9494 4.3 do). There is no IGP cost here, so step e never decides.

Paths that are equal but for the last two steps, which only break ties, may be used at the same time. As Azure does, of
AS paths only the length is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.bgp.path import DEFAULT_LOCAL_PREFERENCE, ORIGINS, Path
from gateway.bgp.rib import Best, Candidate

Step = Callable[[Sequence[Candidate]], list[Candidate]]
ONLY = "only path"


def decide(candidates: Sequence[Candidate]) -> tuple[Candidate, str, dict[str, str]]:
    """The best candidate, why it won, and by neighbor name why each other one lost."""
    remaining = list(candidates)
    reason = ONLY
    losers: dict[str, str] = {}
    for winning, losing, step in STEPS:
        if len(remaining) == 1:
            break
        kept = step(remaining)
        if len(kept) < len(remaining):
            reason = winning
            losers.update({one.path.neighbor: losing for one in remaining if one not in kept})
            remaining = kept
    best = remaining[0]
    return best, reason, {name: f"{why} than {best.path.neighbor}" for name, why in losers.items()}


def select(candidates: Sequence[Candidate], limit: int) -> Best | None:
    """The best path, at most `limit` - 1 equal ones to use beside it, and the one to use when all of these fail."""
    if not candidates:
        return None
    if len(candidates) == 1:
        return Best(candidates[0].path, ONLY)
    chosen, reason, _losers = decide(candidates)
    equal = list(candidates)
    for _winning, _losing, step in STEPS[:-TIE_BREAKERS]:
        equal = step(equal)
    used = [chosen.path]
    for candidate in sorted((one for one in equal if one is not chosen), key=_tie):
        if len(used) < limit:
            _use(used, candidate.path)
    others = tuple(used[1:])
    rest = [one for one in candidates if not one.lost and one.path not in used]
    while rest:
        second = decide(rest)[0]
        if _use(used, second.path):
            return Best(chosen.path, reason, others, second.path)
        rest.remove(second)
    return Best(chosen.path, reason, others)


def _use(used: list[Path], path: Path) -> bool:
    """Unless it leads where one of these leads already, or in clear where they lead into tunnels."""
    if bool(path.connection) != bool(used[0].connection):
        return False
    if any(path.way == one.way for one in used):
        return False
    used.append(path)
    return True


def _tie(candidate: Candidate) -> tuple[int, int]:
    return (candidate.path.router_id, _address(candidate))


def _lowest(key: Callable[[Candidate], int]) -> Step:
    def step(candidates: Sequence[Candidate]) -> list[Candidate]:
        keys = [key(candidate) for candidate in candidates]
        lowest = min(keys)
        return [candidate for candidate, own in zip(candidates, keys, strict=True) if own == lowest]

    return step


def _lowest_med(candidates: Sequence[Candidate]) -> list[Candidate]:
    # RFC 4271 9.1.2.2 c: comparable only between paths from the same neighboring AS; absent is 0
    lowest: dict[int, int] = {}
    for path, _lost in candidates:
        med = path.attributes.med or 0
        lowest[path.neighbor_as] = min(med, lowest.get(path.neighbor_as, med))
    return [one for one in candidates if (one.path.attributes.med or 0) == lowest[one.path.neighbor_as]]


def _local_preference(candidate: Candidate) -> int:
    preference = candidate.path.attributes.local_preference
    return -(DEFAULT_LOCAL_PREFERENCE if preference is None else preference)


def _address(candidate: Candidate) -> int:
    address = candidate.path.peer_address
    return (address.version << 128) + int(address)


STEPS: tuple[tuple[str, str, Step], ...] = (
    ("its session is up", "its session is down, less preferred", _lowest(lambda one: one.lost)),
    # RFC 4271 9.1.1, 9.1.2: the degree of preference
    ("higher local preference", "lower local preference", _lowest(_local_preference)),
    # RFC 4271 9.1.2.2 a to g
    ("shorter AS path", "longer AS path", _lowest(lambda one: one.path.attributes.as_path_length)),
    ("lower origin", "higher origin", _lowest(lambda one: ORIGINS.index(one.path.attributes.origin))),
    ("lower MED", "higher MED", _lowest_med),
    ("external over internal", "internal, less preferred", _lowest(lambda one: not one.path.external)),
    ("lower BGP identifier", "higher BGP identifier", _lowest(lambda one: one.path.router_id)),
    ("lower peer address", "higher peer address", _lowest(_address)),
)
TIE_BREAKERS = 2
"""The last so many steps choose among equals."""
