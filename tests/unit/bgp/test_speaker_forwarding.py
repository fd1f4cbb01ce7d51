"""What BFD says of a neighbor (RFC 5882 4.2): its paths rank last and are told to nobody, though its session may stand."""

from __future__ import annotations

from support.exabgp_model import ExabgpModel, attribute
from support.speaker import EDGE, EDGE2, FABRIC, SITE, connected, of

from gateway.bgp.events import BestChanged, Forwarding, PeerDown

ALONE = "172.30.0.0/16"


def learned() -> ExabgpModel:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.announce(EDGE2, "172.16.0.0/16", EDGE2, attribute([65011, 7, 8]))
    model.announce(EDGE, ALONE, EDGE, attribute([65010]))
    model.settle()
    model.advance(1)
    model.effects.clear()
    model.sent.clear()
    return model


def ways(model: ExabgpModel) -> dict[str, str]:
    return {str(prefix): best.path.neighbor for prefix, best in model.speaker.loc_rib.best.items()}


def test_any_other_path_is_better_than_one_to_where_nothing_arrives() -> None:
    model = learned()
    model.command(Forwarding("edge", works=False))
    assert ways(model) == {"172.16.0.0/16": "edge2", ALONE: "edge"}
    assert of(model, PeerDown) == []
    assert [change.prefix for change in of(model, BestChanged)] == [SITE]


def test_what_leads_nowhere_is_announced_to_nobody_but_stays_in_the_loc_rib_and_so_in_the_tunnel() -> None:
    model = learned()
    model.command(Forwarding("edge", works=False))
    model.settle()
    assert f"neighbor {FABRIC} withdraw route {ALONE}" in model.sent
    assert any(f"{FABRIC} announce route 172.16.0.0/16" in line and "65011 7 8" in line for line in model.sent)


def test_when_packets_pass_again_everything_is_as_before_without_a_new_session() -> None:
    model = learned()
    model.command(Forwarding("edge", works=False))
    model.settle()
    model.advance(1)
    model.sent.clear()
    model.command(Forwarding("edge", works=True))
    model.settle()
    assert ways(model) == {"172.16.0.0/16": "edge", ALONE: "edge"}
    assert any(f"{FABRIC} announce route {ALONE}" in line for line in model.sent)
    assert not any(route.stale for route in model.speaker.routes_status())


def test_what_is_learned_meanwhile_ranks_last_too() -> None:
    model = learned()
    model.command(Forwarding("edge", works=False))
    model.announce(EDGE, "172.31.0.0/16", EDGE, attribute([65010]))
    model.announce(EDGE2, "172.31.0.0/16", EDGE2, attribute([65011, 7, 8]))
    assert ways(model)["172.31.0.0/16"] == "edge2"


def test_the_session_may_end_meanwhile_and_its_paths_are_stale_then() -> None:
    model = learned()
    model.command(Forwarding("edge", works=False))
    model.peer_down(EDGE)
    model.command(Forwarding("edge", works=True))
    assert ways(model) == {"172.16.0.0/16": "edge2", ALONE: "edge"}
    assert {str(route.prefix) for route in model.speaker.routes_status() if route.stale} == {"172.16.0.0/16", ALONE}


def test_of_a_neighbor_that_is_not_there_nothing_is_known() -> None:
    model = learned()
    model.command(Forwarding("stranger", works=False))
    assert of(model, BestChanged) == []
