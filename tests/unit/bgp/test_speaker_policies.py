"""The speaker with policies, aggregates, limits and equal paths, against the model of ExaBGP."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from support.exabgp_model import ExabgpModel, attribute, end_of_rib, update
from support.speaker import EDGE, EDGE2, FABRIC, OWN, SETTINGS, connected, of

from gateway.bgp.events import BestChanged, Level, LimitCrossed, PeerDown, Reconfigure, SessionsChanged
from gateway.bgp.inbox import SLICE
from gateway.bgp.path import NO_EXPORT
from gateway.bgp.route_policy import Action, Changes, PrefixEntry, PrefixList, RoutePolicy, Rule
from gateway.bgp.settings import NeighborSettings, OverLimit, SpeakerSettings
from gateway.config.policies import parse_as_path

NAMES = ("edge", "edge2", "fabric", "edge6")


def changed(*names: str, base: SpeakerSettings = SETTINGS, **more: Any) -> SpeakerSettings:
    neighbors = tuple(replace(one, **more) if one.name in names else one for one in base.neighbors)
    return replace(base, neighbors=neighbors)


def entries(*texts: str) -> PrefixList:
    return PrefixList([PrefixEntry(True, ip_network(text), 0, 32) for text in texts])


def told(model: ExabgpModel, address: str) -> dict[str, str]:
    model.settle()
    return {str(prefix): text.split(" next-hop ")[1] for prefix, text in model.peers[address].adj_out.items()}


def learn(model: ExabgpModel, address: str, *prefixes: str, **more: Any) -> None:
    for prefix in prefixes:
        model.announce(address, prefix, address, attribute([65010 if address == EDGE else 65011, 7], **more))
    model.settle()


# ---- policies ----


def test_an_import_policy_changes_what_is_used_and_keeps_what_was_said() -> None:
    policy = RoutePolicy(
        "from-edge",
        (
            Rule("backup site", changes=Changes(local_preference=50, add=("65001:9",)), prefixes=(entries("172.16.0.0/12"),)),
            Rule("microsoft", Action.REJECT, as_path=parse_as_path("_12076_")),
        ),
        Action.ACCEPT,
    )  # fmt: skip
    model = connected(changed("edge", import_policy=policy))
    learn(model, EDGE, "172.16.0.0/16")
    learn(model, EDGE2, "172.16.0.0/16")
    model.announce(EDGE, "192.168.0.0/16", EDGE, attribute([65010, 12076, 5]))
    routes = {(route.prefix, route.peer): route for route in model.speaker.routes_status()}
    preferred = routes["172.16.0.0/16", "edge2"]
    assert preferred.best and preferred.reason == "higher local preference"
    assert routes["172.16.0.0/16", "edge"].local_preference == 50
    assert routes["192.168.0.0/16", "edge"].reason == "rejected: policy from-edge, rule microsoft"
    # Without the policy what was received counts again, without asking the peer
    model.command(Reconfigure(SETTINGS))
    routes = {(route.prefix, route.peer): route for route in model.speaker.routes_status()}
    assert routes["172.16.0.0/16", "edge"].local_preference is None
    assert routes["192.168.0.0/16", "edge"].best


def test_an_export_policy_speaks_of_own_and_learned_routes() -> None:
    policy = RoutePolicy(
        "to-azure",
        (
            Rule("own", changes=Changes(prepend=2, med=7), learned_from=frozenset({""})),
            Rule("site", changes=Changes(communities=("65001:1", "65001:1:1")), prefixes=(entries("172.16.0.0/12"),)),
        ),
    )
    model = connected(changed("fabric", export_policy=policy))
    learn(model, EDGE, "172.16.0.0/16", "192.168.0.0/16", communities=[[65010, 5]])
    found = told(model, FABRIC)
    assert found.keys() == {str(OWN), "172.16.0.0/16"}
    assert "as-path [ 65001 65001 65001 ] med 7" in found[str(OWN)]
    assert "as-path [ 65001 65010 7 ] community [ 65001:1 ] large-community [ 65001:1:1 ]" in found["172.16.0.0/16"]


def test_a_policy_cannot_lift_what_always_holds() -> None:
    """No policy accepts a loop or a martian, and none announces what says it must not be."""
    everything = RoutePolicy("all", (), Action.ACCEPT)
    model = connected(changed(*NAMES, import_policy=everything, export_policy=everything))
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 65001]))
    model.announce(EDGE, "169.254.7.0/24", EDGE, attribute([65010]))
    model.announce(EDGE, "172.20.0.0/16", EDGE, attribute([65010], community=[[int(n) for n in NO_EXPORT.split(":")]]))
    assert told(model, FABRIC).keys() == {str(OWN)}


def test_our_as_may_stand_in_a_path_as_often_as_allowed() -> None:
    model = connected(changed("edge", allow_own_as=1))
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 65001]))
    model.announce(EDGE, "172.17.0.0/16", EDGE, attribute([65010, 65001, 65001]))
    assert [str(prefix) for prefix in model.speaker.loc_rib.best] == ["172.16.0.0/16"]


@pytest.mark.parametrize("transit", [False, True])
def test_neighbors_of_one_side_hear_of_each_other_only_where_asked(transit: bool) -> None:
    model = connected(changed("edge2", transit=transit))
    learn(model, EDGE, "172.16.0.0/16")
    assert ("172.16.0.0/16" in told(model, EDGE2)) == transit


@pytest.mark.parametrize("path", [(65515, 12076, 65020), (65515, 65020, 65515)])
def test_what_came_through_microsoft_is_not_passed_to_a_site(path: tuple[int, ...]) -> None:
    """The edges of ExpressRoute take back what went through them (AS 12076), and it goes round."""
    model = connected()
    model.announce(FABRIC, "172.30.0.0/16", FABRIC, attribute(path))
    model.announce(FABRIC, "10.77.0.0/16", FABRIC, attribute([65515]))
    assert told(model, EDGE).keys() == {str(OWN), "10.77.0.0/16"}


# ---- routes that stand for others ----


def test_an_aggregate_stands_for_what_lies_inside_while_anything_does() -> None:
    model = connected(changed("fabric", aggregate=(ip_network("172.16.0.0/12"),)))
    assert told(model, FABRIC).keys() == {str(OWN)}
    learn(model, EDGE, "172.16.0.0/16", "172.17.0.0/16", "192.168.0.0/16")
    assert told(model, FABRIC).keys() == {str(OWN), "172.16.0.0/12", "192.168.0.0/16"}
    assert "as-path [ 65001 ]" in told(model, FABRIC)["172.16.0.0/12"]
    model.say(update(EDGE, withdraw=["172.16.0.0/16"]))
    assert "172.16.0.0/12" in told(model, FABRIC)
    model.say(update(EDGE, withdraw=["172.17.0.0/16"]))
    model.advance(5)
    assert told(model, FABRIC).keys() == {str(OWN), "192.168.0.0/16"}


def test_a_route_is_told_in_parts_too_because_a_longer_match_wins() -> None:
    model = connected(changed("fabric", more_specific=((ip_network("172.16.0.0/16"), 17), (OWN, 17))))
    learn(model, EDGE, "172.16.0.0/16")
    found = told(model, FABRIC)
    assert found.keys() == {str(OWN), "10.200.0.0/17", "10.200.128.0/17", "172.16.0.0/16", "172.16.0.0/17", "172.16.128.0/17"}  # fmt: skip
    assert found["172.16.128.0/17"] == found["172.16.0.0/16"]
    learn(model, EDGE2, "172.16.0.0/17")  # learned by itself too
    assert "65011" in told(model, FABRIC)["172.16.0.0/17"]
    model.say(update(EDGE, withdraw=["172.16.0.0/16"]))
    model.advance(5)
    assert told(model, FABRIC).keys() == {str(OWN), "10.200.0.0/17", "10.200.128.0/17", "172.16.0.0/17"}


def test_a_default_route_is_told_while_what_it_stands_for_is_there() -> None:
    model = connected(changed("fabric", default_while=ip_network("172.16.0.0/16")))
    assert "0.0.0.0/0" not in told(model, FABRIC)
    learn(model, EDGE, "172.16.0.0/16")
    assert "0.0.0.0/0" in told(model, FABRIC)
    model.say(update(EDGE, withdraw=["172.16.0.0/16"]))
    model.advance(5)
    assert "0.0.0.0/0" not in told(model, FABRIC)
    model.command(Reconfigure(changed("fabric", default_always=True)))
    assert "0.0.0.0/0" in told(model, FABRIC)


def test_a_default_route_is_believed_only_where_allowed() -> None:
    model = connected(changed("edge2", accept_default=True))
    learn(model, EDGE, "0.0.0.0/0")
    assert not model.speaker.loc_rib.best
    learn(model, EDGE2, "0.0.0.0/0")
    assert model.speaker.loc_rib.best.keys() == {ip_network("0.0.0.0/0")}


# ---- limits ----


def test_a_neighbor_is_never_told_more_than_it_may_be() -> None:
    model = connected(changed("fabric", budget=5))
    learn(model, EDGE, *(f"172.16.{number}.0/24" for number in range(3)))
    assert of(model, LimitCrossed) == [LimitCrossed("fabric", "out", Level.NEAR, 4, 5)]
    learn(model, EDGE, *(f"172.16.{number}.0/24" for number in range(3, 8)))
    assert len(told(model, FABRIC)) == 5 and str(OWN) in told(model, FABRIC)
    assert of(model, LimitCrossed)[-1] == LimitCrossed("fabric", "out", Level.OVER, 6, 5)
    assert {one.name: one.prefixes["held_back"] for one in model.speaker.peers_status()}["fabric"] == 4
    model.say(update(EDGE, withdraw=[f"172.16.{number}.0/24" for number in range(6)]))
    model.advance(5)
    assert told(model, FABRIC).keys() == {str(OWN), "172.16.6.0/24", "172.16.7.0/24"}
    assert of(model, LimitCrossed)[-1].level is Level.FINE


def test_our_own_prefixes_displace_learned_ones_where_there_is_no_room() -> None:
    model = connected(changed("fabric", budget=2))
    learn(model, EDGE, "172.16.0.0/16", "172.17.0.0/16")
    more = changed("fabric", budget=2, base=replace(SETTINGS, advertise=(OWN, ip_network("10.201.0.0/16"))))
    model.command(Reconfigure(more))
    model.advance(5)
    assert told(model, FABRIC).keys() == {str(OWN), "10.201.0.0/16"}


@pytest.mark.parametrize("action", list(OverLimit))
def test_more_than_max_prefixes(action: OverLimit) -> None:
    model = connected(changed("edge", max_prefixes=4, over_limit=action, restart_after=60.0))
    learn(model, EDGE, *(f"172.16.{number}.0/24" for number in range(4)))
    crossed = of(model, LimitCrossed)
    assert crossed == [LimitCrossed("edge", "in", Level.NEAR, 4, 4)]
    learn(model, EDGE, "172.16.9.0/24")
    assert of(model, LimitCrossed)[1:] == [LimitCrossed("edge", "in", Level.OVER, 5, 4)]
    best = len(model.speaker.loc_rib.best)
    if action is OverLimit.WARN:
        assert best == 5
    if action is OverLimit.DISCARD:
        assert best == 4
    if action is not OverLimit.TEARDOWN:
        assert not of(model, SessionsChanged)
        return
    assert best == 0
    assert f"neighbor {EDGE} teardown 1" in model.sent
    assert of(model, PeerDown) == [PeerDown("edge", "more than 4 prefixes")]
    assert [one.name for one in model.speaker.session_settings.neighbors] == ["edge2", "fabric", "edge6"]
    model.advance(56)
    assert len(of(model, SessionsChanged)) == 1
    model.advance(5)
    assert len(of(model, SessionsChanged)) == 2
    assert model.speaker.session_settings == model.speaker.settings


def test_a_higher_limit_ends_the_suspension() -> None:
    model = connected(changed("edge", max_prefixes=1, over_limit=OverLimit.TEARDOWN))
    learn(model, EDGE, "172.16.0.0/16", "172.17.0.0/16")
    assert len(model.speaker.session_settings.neighbors) == 3
    model.command(Reconfigure(changed("edge", max_prefixes=2, over_limit=OverLimit.TEARDOWN)))
    assert len(model.speaker.session_settings.neighbors) == 4


# ---- equal paths and a backup ----


def used(model: ExabgpModel) -> tuple[list[str], str | None]:
    change: BestChanged = of(model, BestChanged)[-1]
    assert change.path is not None
    names = [change.path.neighbor, *(one.neighbor for one in change.others)]
    return names, change.backup.neighbor if change.backup else None


def paths(limit: int, *connections: str) -> ExabgpModel:
    base = replace(SETTINGS, max_paths=limit)
    neighbors: Iterable[NeighborSettings] = (
        replace(one, connection=connection) for one, connection in zip(base.neighbors, connections, strict=False)
    )
    return connected(replace(base, neighbors=(*neighbors, *base.neighbors[len(connections) :])))


def test_equal_paths_share_and_a_worse_one_stands_by() -> None:
    model = paths(8, "site", "site2", "site3")
    for address, path in ((EDGE, [1, 7]), (EDGE2, [2, 7]), (FABRIC, [3, 7, 7])):
        model.announce(address, "172.16.0.0/16", address, attribute(path))
    assert used(model) == (["edge", "edge2"], "fabric")
    shown = {route.peer: route for route in model.speaker.routes_status()}
    assert (shown["edge"].best, shown["edge2"].multipath, shown["fabric"].backup) == (True, True, True)
    model.say(update(EDGE2, withdraw=["172.16.0.0/16"]))
    assert used(model) == (["edge"], "fabric")


@pytest.mark.parametrize(
    ("what", "left", "right"),
    [
        ("AS path length", attribute([1, 7]), attribute([2])),
        ("origin", attribute([1]), attribute([2], origin="incomplete")),
        ("MED of one AS", attribute([1], med=1), attribute([1], med=2)),
    ],
)
def test_paths_that_differ_in_more_than_a_tie_break_do_not_share(what: str, left: Any, right: Any) -> None:
    model = paths(8, "site", "site2")
    model.announce(EDGE, "172.16.0.0/16", EDGE, left)
    model.announce(EDGE2, "172.16.0.0/16", EDGE2, right)
    names, backup = used(model)
    assert len(names) == 1 and backup is not None, what


def test_one_path_at_a_time_unless_more_are_allowed() -> None:
    model = paths(1, "site", "site2")
    learn(model, EDGE, "172.16.0.0/16")
    learn(model, EDGE2, "172.16.0.0/16")
    assert used(model) == (["edge"], "edge2")


def test_two_neighbors_in_one_tunnel_are_one_way_and_no_backup_for_each_other() -> None:
    model = paths(8, "site", "site")
    learn(model, EDGE, "172.16.0.0/16")
    learn(model, EDGE2, "172.16.0.0/16")
    assert used(model) == (["edge"], None)


def test_a_way_in_clear_never_stands_by_for_a_tunnel() -> None:
    model = connected(replace(SETTINGS, max_paths=8))
    learn(model, EDGE, "172.16.0.0/16")
    model.announce(FABRIC, "172.16.0.0/16", FABRIC, attribute([65515, 7]))
    assert used(model) == (["edge"], None)


def test_a_lost_session_stands_by_for_nobody() -> None:
    model = paths(8, "site", "site2")
    learn(model, EDGE, "172.16.0.0/16")
    learn(model, EDGE2, "172.16.0.0/16")
    model.peer_down(EDGE2, "gone")
    assert used(model) == (["edge"], None)


# ---- many at once ----


def test_a_large_table_is_decided_in_slices_and_completely() -> None:
    model = paths(8, "site", "site2")
    many = [f"172.{16 + number // 256}.{number % 256}.0/24" for number in range(3 * SLICE)]
    for address in (EDGE, EDGE2):
        model.say(update(address, {address: many}, attributes=attribute([65010, 7])))
    model.settle()
    model.effects.clear()
    model.peer_down(EDGE, "gone")
    assert len(of(model, BestChanged)) == SLICE, "the rest is not decided in one go"
    assert model.speaker.next_deadline() == model.now
    model.settle()
    assert len(of(model, BestChanged)) == 3 * SLICE
    assert {one.path.neighbor for one in model.speaker.loc_rib.best.values()} == {"edge2"}


# ---- graceful restart ----


def test_the_end_of_rib_follows_the_routes_and_these_what_others_have_to_tell() -> None:
    model = connected(changed("edge", "fabric", graceful_restart=120), up=False)
    for address in (EDGE, FABRIC):
        model.peer_up(address)
    model.settle()
    marker = f"neighbor {EDGE} announce eor ipv4 unicast"
    model.say(end_of_rib(EDGE))
    model.advance(5)
    assert marker not in model.sent, "the fabric's table is not known yet"
    learn(model, FABRIC, "10.77.0.0/16")
    model.say(end_of_rib(FABRIC))
    model.settle()
    assert model.sent.count(marker) == 1
    routes = [place for place, text in enumerate(model.sent) if text.startswith(f"neighbor {EDGE} announce route")]
    assert max(routes) < model.sent.index(marker)


def test_the_end_of_rib_does_not_wait_for_ever() -> None:
    model = connected(changed("edge", graceful_restart=120), up=False)
    for address in (EDGE, FABRIC):
        model.peer_up(address)
    model.advance(40)
    model.answer()
    assert f"neighbor {EDGE} announce eor ipv4 unicast" in model.sent


def test_what_follows_a_large_update_is_read_after_it() -> None:
    model = connected()
    many = [f"172.{16 + number // 256}.{number % 256}.0/24" for number in range(3 * SLICE)]
    model.say(update(EDGE, {EDGE: many}, attributes=attribute([65010, 7])))
    model.say(update(EDGE, withdraw=[many[-1]]))
    assert len(model.speaker.loc_rib.best) < 3 * SLICE - 1, "not all of it was read in one go"
    model.settle()
    assert len(model.speaker.loc_rib.best) == 3 * SLICE - 1
    assert ip_network(many[-1]) not in model.speaker.loc_rib.best
