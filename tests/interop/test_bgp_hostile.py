"""Hostile and odd BGP neighbors: every octet of theirs is the test's. RFC 7606 (and 4271 6.3) or what ExaBGP does instead.

    raw 10.99.0.2, fd99:0::2 (AS 65010) -- gateway (AS 65001) -- BIRD 10.99.1.2 (AS 65020), which is told everything

One gateway for all cases. A case announces something of sense for two prefixes, then something else for the first. The
second one is announced anew behind it: when that is seen, what is before it was dealt with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from support.bgp_lab import ClearLab, kernel, routes, status
from support.bgp_peers import BirdPeer, Session
from support.bgp_raw import (
    KEEPALIVE,
    OPTIONAL,
    SET,
    TRANSITIVE,
    UPDATE,
    WELL_KNOWN,
    RawSpeaker,
    as_path,
    attribute,
    communities,
    message,
    next_hop,
    origin,
    reach,
)
from support.netns import Lab
from support.process import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

FIRST, SECOND = "192.0.2.0/24", "198.51.100.0/24"
FIRST6, SECOND6 = "2001:db8:1::/48", "2001:db8:2::/48"
NEIGHBORS = """
[bgp]
local_as = 65001
router_id = "10.99.0.1"
stale_time = 2
[bgp.neighbor.raw]
address = "10.99.0.2"
local_address = "10.99.0.1"
remote_as = 65010
[bgp.neighbor.raw6]
address = "fd99:0::2"
local_address = "fd99:0::1"
remote_as = 65010
[bgp.neighbor.observer]
address = "10.99.1.2"
local_address = "10.99.1.1"
remote_as = 65020
transit = true
[bgp.neighbor.observer6]
address = "fd99:1::2"
local_address = "fd99:1::1"
remote_as = 65020
transit = true
"""


@dataclass(slots=True)
class Bench:
    lab: ClearLab
    raw: RawSpeaker
    raw6: RawSpeaker
    observer: BirdPeer

    def path(self, prefix: str, neighbor: str = "raw") -> dict[str, object]:
        return routes(self.lab.gateway, prefix).get(neighbor, {})

    def kernel(self, prefix: str) -> frozenset[str]:
        return kernel(self.lab.machines["gateway"]).get(prefix, frozenset())

    def sensible(self) -> None:
        """A session, and something of sense for both prefixes, used everywhere."""
        if not self.raw.up:
            self.raw.establish()
        self.raw.announce(FIRST, SECOND)
        self.wait(lambda: self.kernel(FIRST) == self.kernel(SECOND) == {"10.99.0.2"}, "both in the kernel")
        self.wait(lambda: self.observer.prefixes("v4") >= {FIRST, SECOND}, "both at the observer")

    def wait(self, condition: object, what: str, seconds: float = 8.0) -> None:
        wait_until(condition, seconds, what, interval=0.05, logs=[self.lab.gateway.process])  # type: ignore[type-var,arg-type]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Lab() as lab:
        made = ClearLab(lab, NEIGHBORS)
        raw = RawSpeaker(made.machines["peer0"], "10.99.0.2", 65010)
        raw6 = RawSpeaker(made.machines["peer0"], "fd99:0::2", 65010)
        sessions = [Session("v4", "10.99.1.2", "10.99.1.1", 65001), Session("v6", "fd99:1::2", "fd99:1::1", 65001)]
        observer = BirdPeer(made.machines["peer1"], 65020, "10.99.1.2", sessions)
        made.gateway.start()
        observer.start()
        raw.establish()
        raw6.establish()
        observer.wait_established()
        # what comes before the link to ExaBGP is up costs a ROUTE-REFRESH, which this speaker does not answer
        wait_until(lambda: _established(made) == 4, 10, "four sessions", logs=[made.gateway.process])
        yield Bench(made, raw, raw6, observer)
        raw.close()
        raw6.close()


def _established(lab: ClearLab) -> int:
    return sum(peer["state"] == "Established" for peer in status(lab.gateway).get("peers", ()))


ORIGIN, PATH, HOP = origin(), as_path(65010), next_hop("10.99.0.2")
USUAL = ORIGIN + PATH + HOP

# RFC 7606 3 d, 7.1 to 7.8, RFC 7607, RFC 4271 6.3: the UPDATE withdraws what it announces, the session goes on
WITHDRAWN = {
    "ORIGIN is missing": PATH + HOP,
    "ORIGIN of 3": origin(3) + PATH + HOP,
    "ORIGIN of no octet": attribute(WELL_KNOWN, 1, b"") + PATH + HOP,
    "ORIGIN is optional": attribute(OPTIONAL | TRANSITIVE, 1, b"\0") + PATH + HOP,
    "AS_PATH is missing": ORIGIN + HOP,
    "AS_PATH is empty": ORIGIN + attribute(WELL_KNOWN, 2, b"") + HOP,
    "AS_PATH with a segment of an unknown type": ORIGIN + attribute(WELL_KNOWN, 2, b"\x07\x01\0\0\xfd\xf2") + HOP,
    "AS_PATH with a segment that is cut": ORIGIN + attribute(WELL_KNOWN, 2, b"\x02\x05\0\0\xfd\xf2") + HOP,
    "AS_PATH with a segment of nothing": ORIGIN + attribute(WELL_KNOWN, 2, b"\x02\x00") + HOP,
    "AS_PATH with AS 0": ORIGIN + as_path(65010, 0, 65020) + HOP,
    "NEXT_HOP is missing": ORIGIN + PATH,
    "NEXT_HOP of three octets": ORIGIN + PATH + attribute(WELL_KNOWN, 3, b"\x0a\x63\0"),
    "MULTI_EXIT_DISC of three octets": USUAL + attribute(OPTIONAL, 4, b"\0\0\1"),
    "MULTI_EXIT_DISC is transitive": USUAL + attribute(OPTIONAL | TRANSITIVE, 4, b"\0\0\0\1"),
    "COMMUNITY of five octets": USUAL + attribute(OPTIONAL | TRANSITIVE, 8, b"\0\0\1\2\3"),
    "COMMUNITY of no octet": USUAL + attribute(OPTIONAL | TRANSITIVE, 8, b""),
    "EXTENDED COMMUNITY of seven octets": USUAL + attribute(OPTIONAL | TRANSITIVE, 16, b"\0" * 7),
    "LARGE_COMMUNITY of eleven octets": USUAL + attribute(OPTIONAL | TRANSITIVE, 32, b"\0" * 11),
    "an attribute longer than what is left": USUAL + b"\xc0\x08\x0c\0\0",
    "an attribute of one octet": USUAL + b"\xc0",
}
# refused by policy: known, shown with the reason, not used
REFUSED = {
    "the next hop is ours": (ORIGIN + PATH + next_hop("10.99.0.1"), "own-next-hop"),
    "the next hop is ours on another link": (ORIGIN + PATH + next_hop("10.99.1.1"), "own-next-hop"),
    "the next hop is 0.0.0.0": (ORIGIN + PATH + next_hop("0.0.0.0"), "own-next-hop"),
    "the next hop is loopback": (ORIGIN + PATH + next_hop("127.0.0.1"), "bad-next-hop"),
    "the next hop is multicast": (ORIGIN + PATH + next_hop("224.0.0.5"), "bad-next-hop"),
    "the next hop is broadcast": (ORIGIN + PATH + next_hop("255.255.255.255"), "bad-next-hop"),
    "our AS comes back": (ORIGIN + as_path(65010, 65001, 65010) + HOP, "own-as-in-path"),
}
# RFC 7606 2 attribute discard, RFC 4271 9: used, without the attribute
KEPT = {
    "ATOMIC_AGGREGATE with an octet": USUAL + attribute(WELL_KNOWN, 6, b"\0"),
    "AGGREGATOR of five octets": USUAL + attribute(OPTIONAL | TRANSITIVE, 7, b"\0\0\1\2\3"),
    "LOCAL_PREF from another AS": USUAL + attribute(WELL_KNOWN, 5, b"\0\0\3\0"),
    "unknown, transitive": USUAL + attribute(OPTIONAL | TRANSITIVE, 199, b"\1\2\3"),
    "unknown, transitive, of 3000 octets": USUAL + attribute(OPTIONAL | TRANSITIVE, 199, b"\7" * 3000),
    "unknown, not transitive": USUAL + attribute(OPTIONAL, 199, b"\1\2\3"),
    "unknown, and said to be well known": USUAL + attribute(WELL_KNOWN, 198, b"\1"),
    "TUNNEL_ENCAPSULATION without sense": USUAL + attribute(OPTIONAL | TRANSITIVE, 23, b"\1\2\3"),  # CVE-2023-38802
    "ENTROPY_LABEL": USUAL + attribute(OPTIONAL | TRANSITIVE, 28, b"\xff" * 9),
    "attribute 255": USUAL + attribute(OPTIONAL | TRANSITIVE, 255, b""),
    "ORIGIN twice": USUAL + origin(1),
    "a path of 255 ASes": ORIGIN + as_path(*[65010] * 255) + HOP,
    "a path of 900 ASes": ORIGIN + as_path(*[65010] * 900) + HOP,
    "a set of ASes in the path": ORIGIN + attribute(WELL_KNOWN, 2, PATH[3:] + as_path(1, 2, kind=SET)[3:]) + HOP,
    "12076 twice": ORIGIN + as_path(65010, 12076, 65515, 12076) + HOP,
}
# Interop: ExaBGP 5.0.15 ends the session where RFC 7606 7.9, 7.10 and 4760 7 would let it go on
RESET = {
    "ORIGINATOR_ID of one octet": (USUAL + attribute(OPTIONAL, 9, b"\0"), (3, 5)),
    "CLUSTER_LIST of one octet": (USUAL + attribute(OPTIONAL, 10, b"\0"), (3, 5)),
    "PMSI_TUNNEL of one octet": (USUAL + attribute(OPTIONAL | TRANSITIVE, 22, b"\0"), (3, 5)),
    "a family that was not agreed": (USUAL + reach(["2001:db8:9::/48"], "fd99::2"), (3, 9)),
    "MP_REACH_NLRI with wrong flags": (USUAL + reach(["2001:db8:9::/48"], "fd99::2", flags=WELL_KNOWN), (3, 9)),
}


def after(bench: Bench, cases: Mapping[str, bytes]) -> dict[str, str]:
    """Each case has a prefix of its own, announced with sense and then so; SECOND, announced last, says that all was read.
    The prefixes by the names of the cases."""
    prefixes = {name: f"20.0.{number}.0/24" for number, name in enumerate(cases)}
    bench.sensible()
    flaps = _flaps(bench)
    bench.raw.announce(*prefixes.values())
    bench.wait(lambda: _ways(bench, prefixes.values()) == {"10.99.0.2"}, "every one in the kernel")
    bench.wait(lambda: bench.observer.prefixes("v4") >= set(prefixes.values()), "and at the observer")
    for name, attributes in cases.items():
        bench.raw.update(attributes, [prefixes[name]])
    mark = int(status(bench.lab.gateway)["now"] * 1000) & 0xFFFFFF
    bench.raw.announce(SECOND, more=attribute(OPTIONAL, 4, mark.to_bytes(4, "big")))
    bench.wait(lambda: bench.path(SECOND).get("med") == mark, "what came behind them")
    assert bench.raw.up and _flaps(bench) == flaps
    return prefixes


def _ways(bench: Bench, prefixes: Iterable[str]) -> set[str]:
    table = kernel(bench.lab.machines["gateway"])
    return {way for prefix in prefixes for way in table.get(prefix, {"none"})}


def _flaps(bench: Bench) -> int:
    return next(int(peer["flaps"]) for peer in status(bench.lab.gateway)["peers"] if peer["name"] == "raw")


def nowhere(bench: Bench, prefixes: Mapping[str, str]) -> None:
    """In no table of the kernel, and at no other neighbor."""
    gone = set(prefixes.values())

    def left() -> dict[str, list[str]]:
        found = {
            "kernel": gone & kernel(bench.lab.machines["gateway"]).keys(),
            "observer": gone & bench.observer.prefixes("v4"),
        }
        return {where: [name for name, one in prefixes.items() if one in some] for where, some in found.items() if some}

    try:
        bench.wait(lambda: not left(), "withdrawn everywhere")
    except AssertionError:
        assert left() == {}
    assert bench.kernel(SECOND) == {"10.99.0.2"}


def test_treat_as_withdraw(bench: Bench) -> None:
    prefixes = after(bench, WITHDRAWN)
    known = {one["prefix"]: one for one in status(bench.lab.gateway)["routes"] if one["peer"] == "raw"}
    kept = {name: known[prefix]["reason"] for name, prefix in prefixes.items() if prefix in known}
    # Interop: ExaBGP 5.0.15 does not tell an empty path from none, and inside an AS empty is right
    assert kept == dict.fromkeys(("AS_PATH is missing", "AS_PATH is empty"), "rejected: empty-as-path")
    nowhere(bench, prefixes)


def test_refused_with_a_reason(bench: Bench) -> None:
    prefixes = after(bench, {name: attributes for name, (attributes, _) in REFUSED.items()})
    reasons = {name: bench.path(prefix)["reason"] for name, prefix in prefixes.items()}
    assert reasons == {name: f"rejected: {reason}" for name, (_, reason) in REFUSED.items()}
    nowhere(bench, prefixes)


def test_used_without_the_attribute(bench: Bench) -> None:
    prefixes = after(bench, KEPT)
    table = {one["prefix"]: one for one in status(bench.lab.gateway)["routes"] if one["peer"] == "raw"}
    seen = {
        name: [table[prefix][key] for key in ("best", "origin", "med", "local_preference")]
        for name, prefix in prefixes.items()
    }
    assert seen == {name: [True, "igp", None, None] for name in KEPT}
    assert _ways(bench, prefixes.values()) == {"10.99.0.2"}
    # RFC 9774 3: a set of ASes is told to nobody; what has been through Microsoft's AS only to whom transit is given
    silent = prefixes["a set of ASes in the path"]
    bench.wait(
        lambda: bench.observer.prefixes("v4") & set(prefixes.values()) == set(prefixes.values()) - {silent}, "told"
    )

    def paths() -> bool:
        told = bench.observer.told("v4")
        # of a path that is long birdc shows only the beginning
        return all(
            told[one].path[:70] == (65001, *table[one]["as_path"])[:70] for one in prefixes.values() if one != silent
        )

    bench.wait(paths, "with the paths")


@pytest.mark.parametrize(("attributes", "code"), RESET.values(), ids=[name.replace(" ", "-") for name in RESET])
def test_the_session_is_reset_and_what_is_not_said_again_goes(
    bench: Bench, attributes: bytes, code: tuple[int, int]
) -> None:
    bench.sensible()
    bench.raw.update(attributes, [FIRST])
    assert bench.raw.wait_end() == code
    bench.wait(lambda: bench.path(SECOND).get("stale"), "stale")
    assert bench.kernel(SECOND) == {"10.99.0.2"}, "what was of sense before stays for stale_time"
    bench.raw.establish()
    bench.raw.announce(SECOND)
    bench.raw.end_of_rib()
    bench.wait(lambda: not bench.path(FIRST) and bench.path(SECOND).get("stale") is False, "swept at the End-of-RIB")
    bench.wait(lambda: not bench.kernel(FIRST), "not in the kernel")


def test_a_pair_of_next_hops_is_one_path_by_the_global_one(bench: Bench) -> None:
    base = origin() + as_path(65010)
    bench.raw6.update(base + reach([FIRST6, SECOND6], "fd99:0::2", "fe80::2"))
    bench.wait(lambda: bench.path(SECOND6, "raw6"), "learned")
    listed = [one for one in status(bench.lab.gateway)["routes"] if one["prefix"] in (FIRST6, SECOND6)]
    assert [(one["prefix"], one["next_hop"]) for one in listed] == [(FIRST6, "fd99::2"), (SECOND6, "fd99::2")]
    bench.wait(lambda: bench.kernel(FIRST6) == {"fd99::2"}, "in the kernel")
    bench.wait(lambda: FIRST6 in bench.observer.prefixes("v6"), "at the observer")
    # one alone that is ours, and one alone that is link-local
    bench.raw6.update(base + reach([FIRST6], "fd99:0::1"))
    bench.raw6.update(base + reach([SECOND6], "fe80::2"))
    bench.wait(lambda: bench.path(FIRST6, "raw6").get("reason") == "rejected: own-next-hop", "refused")
    bench.wait(lambda: not bench.kernel(FIRST6), "not in the kernel")


def test_a_next_hop_inside_the_prefix_leads_nowhere(bench: Bench) -> None:
    """RFC 4271 9.1.2.1: a route does not resolve its own next hop. The main table is asked, never ours."""
    bench.sensible()
    bench.raw.update(ORIGIN + PATH + next_hop("192.0.2.9"), [FIRST])
    bench.wait(lambda: bench.path(FIRST).get("next_hop") == "192.0.2.9", "learned")
    bench.wait(lambda: not bench.kernel(FIRST), "not in the kernel")
    assert not bench.path(FIRST)["installed"]


@pytest.mark.slow
def test_an_attribute_that_was_left_out_does_not_cost_the_route_when_the_relay_dies(bench: Bench) -> None:
    """Interop: ExaBGP 5.0.15 keeps no record of such an UPDATE, so its peer is asked (RFC 2918)."""
    bench.sensible()
    bench.raw.update(KEPT["AGGREGATOR of five octets"], [FIRST])
    bench.raw.announce(SECOND, more=communities(0xFDF20007))
    bench.wait(lambda: bench.path(SECOND).get("communities") == ["65010:7"], "what came behind it")
    wait_until(lambda: _age(bench) > 6, 10, "a session that is no news any more", interval=0.2)
    before = [kind for kind, _ in bench.raw.heard].count(5)
    (relay,) = bench.lab.relay()
    bench.lab.machines["gateway"].end(relay)
    bench.wait(lambda: [kind for kind, _ in bench.raw.heard].count(5) > before, "ROUTE-REFRESH", 15)
    assert bench.path(FIRST)["best"], "not swept meanwhile"
    bench.raw.update(KEPT["AGGREGATOR of five octets"], [FIRST])
    bench.raw.announce(SECOND)
    bench.wait(lambda: bench.path(FIRST)["stale"] is False, "confirmed")
    assert bench.kernel(FIRST) == {"10.99.0.2"}


def _age(bench: Bench) -> float:
    picture = status(bench.lab.gateway)
    return float(picture["now"]) - next(p["established_at"] for p in picture["peers"] if p["name"] == "raw")


@pytest.mark.parametrize(
    ("octets", "code"),
    # Interop: of a broken header ExaBGP 5.0.15 tells its own API in a way that fails, and ends without a NOTIFICATION
    [
        (b"\xfe" * 16 + b"\0\x13\x04", (0, 0)),
        (b"\xff" * 16 + b"\0\x12\x04", (0, 0)),
        (b"\xff" * 16 + b"\xff\xff\x02", (0, 0)),
        (message(9), (1, 3)),
        (message(KEEPALIVE, b"\0"), (0, 0)),
        (message(UPDATE, b"\0\xff\0\0"), (3, 1)),
        (message(UPDATE, b"\0\0\0\0\x21\x0a\0\0\0\0"), (3, 10)),
    ],
    ids=["marker", "too-short", "too-long", "type", "keepalive-with-a-body", "withdrawn-too-long", "prefix-of-33-bits"],
)
def test_what_is_no_message_ends_the_session_and_nothing_else(
    bench: Bench, octets: bytes, code: tuple[int, int]
) -> None:
    bench.sensible()
    speakers = bench.lab.exabgp()
    bench.raw.send(octets)
    assert bench.raw.wait_end() == code
    assert bench.lab.exabgp() == speakers
    assert bench.raw6.up and bench.observer.established("v4")
