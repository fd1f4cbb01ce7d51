"""Faults of BGP, and after each: our loc-RIB, the kernel's table and the table of a real neighbor are as they have to be.

    source 10.99.0.2 (BIRD, FRR or GoBGP, AS 65010) -- gateway (AS 65001) -- observer 10.99.1.2 (BIRD, AS 65020)

The observer is told everything (`transit`), so that its table shows what ours says.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest
from support.bgp_lab import ClearLab, agree, routes, signalled, status, used
from support.bgp_peers import KINDS, BirdPeer, Peer, Route, Session
from support.bgp_raw import UPDATE, RawSpeaker, as_path, message, next_hop, origin, prefixes, update
from support.netns import Lab
from support.process import holds_for, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

HOLD = 6
OWN = "10.200.0.0/16"
SECTIONS = """
[bgp]
local_as = 65001
router_id = "10.99.0.1"
advertise = ["10.200.0.0/16"]
stale_time = {stale}
[bgp.neighbor.source]
address = "10.99.0.2"
local_address = "10.99.0.1"
remote_as = 65010
hold_time = 6
{source}
[bgp.neighbor.observer]
address = "10.99.1.2"
local_address = "10.99.1.1"
remote_as = 65020
hold_time = 6
transit = true
{observer}
"""
FEW = tuple(Route(f"20.0.{number}.0/24") for number in range(8))


@dataclass(slots=True)
class Bench:
    lab: ClearLab
    source: Peer
    observer: BirdPeer

    def agree(self, wanted: Iterable[Route], *, seconds: float = 25.0) -> None:
        expected = {route.prefix: {"source": "10.99.0.2"} for route in wanted}
        told = [(self.observer, "v4", {OWN, *expected})]
        agree(self.lab, expected, told, seconds=seconds, logs=[self.source.process])

    def peer(self, name: str = "source") -> Mapping[str, object]:
        return next((one for one in status(self.lab.gateway).get("peers", ()) if one["name"] == name), {})

    def wait_down(self) -> None:
        def down() -> bool:
            return self.peer().get("state") not in (None, "Established")

        wait_until(down, 3 * HOLD, "the session is down", logs=[self.lab.gateway.process])

    def stale(self) -> set[str]:
        rows = status(self.lab.gateway).get("routes", ())
        return {one["prefix"] for one in rows if one["stale"] and one["best"]}


def made(
    lab: Lab, kind: str = "bird", own: Iterable[Route] = FEW, *, source: str = "", observer: str = "", restart: int = 0,
    stale: float = 60,
) -> Bench:  # fmt: skip
    """Started, and everything as it should be."""
    clear = ClearLab(lab, SECTIONS.format(source=source, observer=observer, stale=stale))
    first = [Session("v4", "10.99.0.2", "10.99.0.1", 65001, hold=HOLD, restart=restart)]
    second = [Session("v4", "10.99.1.2", "10.99.1.1", 65001, hold=HOLD)]
    speaker = KINDS[kind](clear.machines["peer0"], 65010, "10.99.0.2", first, tuple(own))
    bench = Bench(clear, speaker, BirdPeer(clear.machines["peer1"], 65020, "10.99.1.2", second))
    clear.gateway.start()
    speaker.start()
    bench.observer.start()
    return bench


# ---- what stands between the sessions and us ----


@pytest.mark.slow
def test_a_killed_relay_loses_nothing_that_changes_meanwhile(lab: Lab) -> None:
    bench = made(lab)
    bench.agree(FEW)
    (relay,) = bench.lab.relay()
    bench.lab.machines["gateway"].end(relay)
    changed = (*FEW[3:], Route("20.1.0.0/24"))
    bench.source.announce(changed)
    bench.agree(changed)
    assert bench.peer()["flaps"] == bench.peer("observer")["flaps"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("many", [0, 3500], ids=["it-notices-nothing", "its-pipe-fills"])
def test_a_relay_that_stands_still_for_longer_than_the_hold_time(lab: Lab, many: int) -> None:
    """ExaBGP's writes block: with enough to say it stands still itself, and its sessions end. Then they come back."""
    bench = made(lab)
    bench.agree(FEW)
    signalled(bench.lab.machines["gateway"], bench.lab.relay(), signal.SIGSTOP)
    more = tuple(
        Route(f"21.{number >> 8}.{number & 255}.0/24", communities=(f"65010:{number}",)) for number in range(many)
    )
    changed = (*FEW[3:], Route("20.1.0.0/24"), *more)
    bench.source.announce(changed)
    if not many:
        holds_for(lambda: bench.source.established("v4"), 2 * HOLD, "the session stands", interval=0.5)
    else:
        wait_until(lambda: not bench.source.established("v4"), 3 * HOLD, "the hold time is over", interval=0.2)
    signalled(bench.lab.machines["gateway"], bench.lab.relay(), signal.SIGCONT)
    bench.agree(changed, seconds=60)


@pytest.mark.slow
def test_a_killed_exabgp_is_started_again_and_what_changed_meanwhile_is_known(lab: Lab) -> None:
    bench = made(lab)
    bench.agree(FEW)
    (exabgp,) = bench.lab.exabgp()
    bench.lab.machines["gateway"].end(exabgp)
    changed = (*FEW[3:], Route("20.1.0.0/24"))
    bench.source.announce(changed)
    bench.agree(changed, seconds=40)
    assert bench.lab.exabgp() != [exabgp]


@pytest.mark.slow
def test_a_daemon_that_stands_still_while_thousands_of_routes_come_and_go(lab: Lab) -> None:
    """The relay keeps what ExaBGP says; the sessions do not notice."""
    bench = made(lab)
    bench.agree(FEW)
    assert bench.lab.gateway.process is not None
    daemon = bench.lab.machines["gateway"].pids_of("gatewayd --config")
    signalled(bench.lab.machines["gateway"], daemon, signal.SIGSTOP)
    for offset in range(4):
        bench.source.announce(tuple(Route(f"21.{offset}.{number}.0/24") for number in range(250)))
    final = (*FEW[3:], *(Route(f"22.0.{number}.0/24") for number in range(200)))
    bench.source.announce(final)
    holds_for(lambda: bench.source.established("v4"), 2 * HOLD, "the session stands", interval=0.5)
    signalled(bench.lab.machines["gateway"], daemon, signal.SIGCONT)
    bench.agree(final, seconds=60)


# ---- the sessions ----


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_neighbor_that_crashes_and_comes_back_with_less(lab: Lab, kind: str) -> None:
    """No withdrawals come: what it taught us is kept stale, and swept when it has told what it still has.

    Without graceful restart BIRD says End-of-RIB all the same; FRR and GoBGP do not, and have told when nothing more comes.
    """
    bench = made(lab, kind)
    bench.agree(FEW)
    bench.source.kill()
    bench.wait_down()
    assert bench.stale() == {route.prefix for route in FEW} == used(bench.lab.gateway).keys()
    assert bench.observer.prefixes("v4") >= {route.prefix for route in FEW}, "others are told of it all the same"
    bench.source.routes = FEW[5:]
    bench.source.start()
    bench.agree(FEW[5:], seconds=40)


@pytest.mark.slow
def test_a_neighbor_that_does_not_come_back_is_forgotten_after_stale_time(lab: Lab) -> None:
    bench = made(lab, stale=4)
    bench.agree(FEW)
    bench.source.kill()
    bench.agree((), seconds=30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_neighbor_that_restarts_gracefully_keeps_ours_and_we_keep_its(lab: Lab, kind: str) -> None:
    """RFC 4724: neither forwards to nowhere meanwhile; its End-of-RIB sweeps what it has no more."""
    bench = made(lab, kind, source="graceful_restart = 60", restart=60)
    bench.agree(FEW)
    assert "restart" in bench.source.capabilities("v4")
    assert bench.source.prefixes("v4") == {OWN}
    bench.source.kill()
    bench.wait_down()
    assert used(bench.lab.gateway).keys() == {route.prefix for route in FEW}
    bench.source.routes = FEW[5:]
    bench.source.start()
    bench.agree(FEW[5:], seconds=60)
    wait_until(lambda: bench.source.prefixes("v4") == {OWN}, 20, "it has ours again", interval=0.2)


def test_an_end_of_rib_sweeps_and_not_before(lab: Lab) -> None:
    """With a speaker that says it when the test wants it to."""
    clear = ClearLab(lab, SECTIONS.format(source="graceful_restart = 60", observer="", stale=60))
    raw = RawSpeaker(clear.machines["peer0"], "10.99.0.2", 65010)
    raw.restart = 60
    observer = BirdPeer(
        clear.machines["peer1"], 65020, "10.99.1.2", [Session("v4", "10.99.1.2", "10.99.1.1", 65001, hold=HOLD)]
    )
    clear.gateway.start()
    observer.start()
    raw.establish()
    both = ("20.0.0.0/24", "20.0.1.0/24")
    source = {"source": "10.99.0.2"}

    def all_tables_have(*wanted: str) -> None:
        agree(clear, dict.fromkeys(wanted, source), [(observer, "v4", {OWN, *wanted})])

    raw.announce(*both)
    raw.end_of_rib()
    all_tables_have(*both)
    raw.hang_up()
    raw.establish()
    raw.announce(both[0])
    wait_until(lambda: routes(clear.gateway, both[0]).get("source", {}).get("stale") is False, 10, "confirmed")
    holds_for(lambda: both[1] in used(clear.gateway), 1.0, "the other is kept, stale")
    raw.end_of_rib()
    all_tables_have(both[0])
    # a thousand changes of mind about one prefix, the last of which counts: in and out
    yes = message(UPDATE, update(origin() + as_path(65010) + next_hop("10.99.0.2"), prefixes([both[1]])))
    no = message(UPDATE, update(withdrawn=prefixes([both[1]])))
    raw.send(*[yes, no] * 1000, yes)
    all_tables_have(*both)
    raw.send(*[no, yes] * 1000, no)
    all_tables_have(both[0])
    raw.close()


# ---- numbers ----


@pytest.mark.slow
def test_ten_thousand_routes_at_once_come_and_go(lab: Lab) -> None:
    bench = made(lab, source="max_prefixes = 20000")
    bench.agree(FEW)
    many = tuple(Route(f"20.{1 + (number >> 8)}.{number & 255}.0/24") for number in range(10_000))
    bench.source.announce((*FEW, *many))
    bench.agree((*FEW, *many), seconds=60)
    bench.source.announce(FEW)
    bench.agree(FEW, seconds=60)
    assert bench.peer()["flaps"] == 0


@pytest.mark.slow
def test_a_neighbor_over_its_limit_is_cut_off_there_and_whole_again_below(lab: Lab) -> None:
    """What was refused was not kept, so it is asked for (RFC 2918) when there is room again."""
    bench = made(lab, own=(), source="max_prefixes = 6")
    bench.source.announce(FEW)
    wait_until(lambda: len(used(bench.lab.gateway)) == 6, 15, "six of eight", logs=[bench.lab.gateway.process])
    taken = sorted(used(bench.lab.gateway))
    told = [(bench.observer, "v4", {OWN, *taken})]
    agree(bench.lab, {prefix: {"source": "10.99.0.2"} for prefix in taken}, told)
    left = tuple(route for route in FEW if route.prefix not in taken[:3])
    bench.source.announce(left)
    bench.agree(left)


@pytest.mark.slow
def test_a_neighbor_over_its_limit_is_only_warned_of(lab: Lab) -> None:
    bench = made(lab, source='max_prefixes = 6\nmax_prefixes_action = "warn"')
    bench.agree(FEW)
    assert bench.peer()["level_in"] == 2


@pytest.mark.slow
def test_a_neighbor_over_its_limit_is_torn_down_and_taken_back(lab: Lab) -> None:
    action = 'max_prefixes = 6\nmax_prefixes_action = "teardown"\nmax_prefixes_restart = 5'
    bench = made(lab, own=FEW[:5], source=action)
    bench.agree(FEW[:5])
    bench.source.announce(FEW)
    wait_until(lambda: bench.peer().get("suspended_until"), 15, "torn down", logs=[bench.lab.gateway.process])
    assert "announced more than 6 prefixes" in str(bench.peer()["explanation"])
    agree(bench.lab, {}, [(bench.observer, "v4", {OWN})], seconds=10)
    bench.source.announce(FEW[:5])
    bench.agree(FEW[:5], seconds=40)


@pytest.mark.slow
def test_what_is_over_the_outbound_limit_is_held_back_and_follows_when_there_is_room(lab: Lab) -> None:
    bench = made(lab, observer="max_announced = 6")
    everything = {route.prefix: {"source": "10.99.0.2"} for route in FEW}
    wait_until(lambda: len(bench.observer.prefixes("v4")) == 6, 20, "six are told", logs=[bench.lab.gateway.process])
    told = bench.observer.prefixes("v4")
    agree(bench.lab, everything, [(bench.observer, "v4", told)])
    assert OWN in told and bench.peer("observer")["prefixes"]["held_back"] == 3  # type: ignore[index]
    left = tuple(route for route in FEW if route.prefix not in sorted(told - {OWN})[:3])
    bench.source.announce(left)
    bench.agree(left)


# ---- several ways ----


@pytest.mark.parametrize(
    "kinds",
    [("frr", "gobgp"), *(pytest.param(one, marks=pytest.mark.slow) for one in (("bird", "frr"), ("gobgp", "bird")))],
    ids="-".join,
)
@pytest.mark.slow
def test_two_neighbors_share_what_both_have_until_one_path_is_longer(lab: Lab, kinds: tuple[str, str]) -> None:
    shared = "20.0.0.0/24"
    clear = ClearLab(lab, SECTIONS.format(source="", observer="", stale=60).replace("transit = true", ""))
    peers = [
        KINDS[kind](
            clear.machines[f"peer{number}"], asn, f"10.99.{number}.2",
            [Session("v4", f"10.99.{number}.2", f"10.99.{number}.1", 65001, hold=HOLD)], [Route(shared)],
        )
        for number, (kind, asn) in enumerate(zip(kinds, (65010, 65020), strict=True))
    ]  # fmt: skip
    clear.gateway.start()
    for peer in peers:
        peer.start()
    told = [(peer, "v4", {OWN}) for peer in peers]
    both = {shared: {"source": "10.99.0.2", "observer": "10.99.1.2"}}
    agree(clear, both, told)
    peers[0].announce([Route(shared, path=(65010,))])
    agree(clear, {shared: {"observer": "10.99.1.2"}}, told)
    peers[0].announce([Route(shared)])
    agree(clear, both, told)
    # a MED does not compare between different neighboring ASes
    peers[1].announce([Route(shared, med=500)])
    wait_until(lambda: routes(clear.gateway, shared).get("observer", {}).get("med") == 500, 10, "the MED")
    agree(clear, both, told)
    peers[1].announce([])
    agree(clear, {shared: {"source": "10.99.0.2"}}, told)
