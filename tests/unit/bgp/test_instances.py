"""Routing instances: the same prefixes twice on one gateway, and nothing passes from one to the other."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from support.exabgp_model import ExabgpModel, attribute
from support.speaker import EDGE, EDGE2, FABRIC, SETTINGS, connected

from gateway.bgp.events import BestChanged, Close, Reconfigure
from gateway.bgp.settings import InstanceSettings, SpeakerSettings

SITE = ip_network("172.16.0.0/16")
LAN = ip_network("10.9.0.0/16")


def apart() -> SpeakerSettings:
    """The second edge belongs to an instance, with a LAN of its own."""
    edge, edge2, *others = SETTINGS.neighbors
    return replace(
        SETTINGS,
        neighbors=(edge, replace(edge2, instance="blue"), *others),
        instances=(InstanceSettings("blue", (LAN,)),),
    )


def best(model: ExabgpModel, instance: str) -> dict[str, str]:
    return {str(prefix): one.path.neighbor for prefix, one in model.speaker.instances[instance].loc_rib.best.items()}


def told(model: ExabgpModel, address: str) -> set[str]:
    return {str(prefix) for prefix in model.peers[address].adj_out}


def test_the_same_prefix_from_two_instances_has_a_best_path_in_each() -> None:
    model = connected(apart())
    model.announce(EDGE, str(SITE), EDGE, attribute([65010, 65010, 65010]))
    model.announce(EDGE2, str(SITE), EDGE2, attribute([65011]))
    assert best(model, "") == {str(SITE): "edge"}
    assert best(model, "blue") == {str(SITE): "edge2"}
    chosen = {(one.instance, one.path.neighbor) for one in model.effects if isinstance(one, BestChanged) and one.path}
    assert chosen == {("", "edge"), ("blue", "edge2")}
    assert {(one.instance, one.peer, one.best) for one in model.speaker.routes_status()} == {
        ("", "edge", True),
        ("blue", "edge2", True),
    }
    assert {(one.instance, one.name, one.prefixes["best"]) for one in model.speaker.peers_status()} >= {
        ("", "edge", 1),
        ("blue", "edge2", 1),
    }


def test_what_one_instance_learned_is_told_in_no_other() -> None:
    model = connected(apart())
    model.announce(EDGE2, str(SITE), EDGE2, attribute([65011]))
    model.settle()
    assert str(SITE) not in told(model, FABRIC)
    model.announce(EDGE, "172.20.0.0/16", EDGE, attribute([65010]))
    model.settle()
    assert "172.20.0.0/16" in told(model, FABRIC)
    assert told(model, EDGE2) == {str(LAN)}, "its own LAN, and nothing of anybody else's"
    assert str(LAN) not in told(model, EDGE)


def test_own_prefixes_of_an_instance_are_refused_in_it_alone() -> None:
    model = connected(apart())
    for edge, number in ((EDGE, 65010), (EDGE2, 65011)):
        model.announce(edge, "10.9.1.0/24", edge, attribute([number]))
    assert best(model, "") == {"10.9.1.0/24": "edge"}
    assert best(model, "blue") == {}


def test_a_prefix_closed_in_one_instance_is_open_in_the_other() -> None:
    model = connected(apart())
    model.announce(FABRIC, str(SITE), FABRIC, attribute([65515]))
    model.command(Close((SITE,), instance="blue"))
    assert best(model, "") == {str(SITE): "fabric"}
    model.command(Close((SITE,)))
    assert best(model, "") == {}


def test_a_neighbor_that_changes_its_instance_begins_anew() -> None:
    model = connected(apart())
    model.announce(EDGE2, str(SITE), EDGE2, attribute([65011]))
    model.command(Reconfigure(SETTINGS))
    assert set(model.speaker.instances) == {""}
    assert best(model, "") == {}
    assert not [*model.speaker.routes_status()]


def test_a_neighbor_whose_session_lives_on_in_another_instance_is_asked_again_and_told_what_holds_there() -> None:
    model = connected(SETTINGS)
    model.announce(EDGE, "172.20.0.0/16", EDGE, attribute([65010]))
    model.announce(FABRIC, "10.50.0.0/16", FABRIC, attribute([65515]))
    model.announce(EDGE2, str(SITE), EDGE2, attribute([65011]))
    model.settle()
    assert "10.50.0.0/16" in told(model, EDGE2)
    model.sent.clear()
    model.command(Reconfigure(apart()))
    model.settle()
    # ExaBGP is not told of instances, and its session goes on
    assert told(model, EDGE2) == {str(LAN)}, "what another instance taught us is withdrawn"
    assert any("refresh" in line and EDGE2 in line for line in model.sent)
    assert str(SITE) not in best(model, "")
    assert next(one for one in model.speaker.peers_status() if one.name == "edge2").state == "Established"
    assert best(model, "blue") == {str(SITE): "edge2"}
    # and back
    model.sent.clear()
    model.command(Reconfigure(SETTINGS))
    model.settle()
    assert any("refresh" in line and EDGE2 in line for line in model.sent)
    assert best(model, "")[str(SITE)] == "edge2"
    assert "10.50.0.0/16" in told(model, EDGE2) and str(LAN) not in told(model, EDGE2)
