"""Dry runs: what other settings of a neighbor would make of the routes there are, and that nothing is changed by it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from support.exabgp_model import ExabgpModel, attribute
from support.speaker import EDGE, OWN, SETTINGS, SITE, connected

from gateway.bgp.prefixes import Prefix
from gateway.bgp.route_policy import Action, Changes, PrefixEntry, PrefixList, RoutePolicy, Rule
from gateway.bgp.settings import NeighborSettings, SpeakerSettings
from gateway.bgp.trial import Side, Verdict, exports, imports

SECOND = ip_network("172.17.0.0/16")
INNER = ip_network("172.16.9.0/24")


def policy(*rules: Rule, default: Action = Action.REJECT) -> RoutePolicy:
    return RoutePolicy("tried", rules, default)


def exactly(prefix: Prefix) -> PrefixList:
    return PrefixList([PrefixEntry(True, prefix, prefix.prefixlen, prefix.prefixlen)])


def changed(settings: SpeakerSettings, name: str, **changes: object) -> SpeakerSettings:
    return replace(
        settings,
        neighbors=tuple(replace(one, **changes) if one.name == name else one for one in settings.neighbors),  # type: ignore[arg-type]
    )


def side(settings: SpeakerSettings, name: str) -> Side:
    neighbor: NeighborSettings = next(one for one in settings.neighbors if one.name == name)
    return Side(settings, neighbor)


def loaded(settings: SpeakerSettings = SETTINGS) -> ExabgpModel:
    """Two prefixes of the edge's, of which edge2 also has the second, by a longer path."""
    model = connected(settings)
    model.announce(EDGE, str(SITE), EDGE, attribute((65010,), med=7))
    model.announce(EDGE, str(SECOND), EDGE, attribute((65010,)))
    model.announce("10.9.1.2", str(SECOND), "10.9.1.2", attribute((65011, 65012)))
    model.settle()
    return model


def tried_in(model: ExabgpModel, now: SpeakerSettings, then: SpeakerSettings, name: str = "edge") -> dict[str, Verdict]:
    instance = model.speaker.instances[""]
    return {one.prefix: one for one in imports(instance, instance.peers[name], side(now, name), side(then, name))}


def tried_out(
    model: ExabgpModel, now: SpeakerSettings, then: SpeakerSettings, name: str = "fabric"
) -> dict[str, Verdict]:
    instance = model.speaker.instances[""]
    verdicts = exports(instance, instance.peers[name], side(now, name), side(then, name))
    return {one.prefix: one for one in verdicts if one.outcome}


def test_the_same_settings_make_no_difference():
    model = loaded()
    assert {one.outcome for one in tried_in(model, SETTINGS, SETTINGS).values()} == {"same"}
    assert {prefix: one.outcome for prefix, one in tried_out(model, SETTINGS, SETTINGS).items()} == {
        str(SITE): "same",
        str(SECOND): "same",
        str(OWN): "same",
    }


def test_an_import_policy_rejects_changes_and_moves_the_best_path_and_names_its_rule():
    model = loaded()
    rules = (
        Rule("no-second", Action.REJECT, prefixes=(exactly(SECOND),)),
        Rule("prefer", Action.ACCEPT, Changes(local_preference=200, add=("65001:1",))),
    )
    found = tried_in(model, SETTINGS, changed(SETTINGS, "edge", import_policy=policy(*rules)))
    second, site = found[str(SECOND)], found[str(SITE)]
    assert (second.outcome, second.reason, second.reason_now) == (
        "rejected",
        "policy tried, rule no-second",
        "no policy",
    )
    assert (second.best_now, second.best) == ("edge", "edge2")
    assert (site.outcome, site.reason) == ("changed", "policy tried, rule prefer")
    assert site.changes == ("local preference none -> 200", "communities none -> 65001:1")
    assert (site.best_now, site.best) == ("edge", "edge")
    # nothing happened
    assert model.speaker.loc_rib.best[SECOND].path.neighbor == "edge"
    assert {one.outcome for one in tried_in(model, SETTINGS, SETTINGS).values()} == {"same"}


def test_what_is_rejected_now_is_judged_as_it_was_received():
    strict = changed(SETTINGS, "edge", import_policy=policy(default=Action.REJECT))
    model = loaded(strict)
    assert not model.speaker.loc_rib.best.get(SITE)
    found = tried_in(model, strict, SETTINGS)[str(SITE)]
    assert (found.outcome, found.reason, found.reason_now) == ("accepted", "no policy", "policy tried, no rule")
    assert (found.best_now, found.best) == ("", "edge")
    own = replace(SETTINGS, local_as=65010)
    assert tried_in(loaded(), SETTINGS, own)[str(SITE)].reason == "own-as-in-path"


def test_an_export_policy_withholds_changes_and_names_its_rule():
    model = loaded()
    rules = (Rule("site", Action.ACCEPT, Changes(prepend=2, med=50), prefixes=(exactly(SITE),)),)
    found = tried_out(model, SETTINGS, changed(SETTINGS, "fabric", export_policy=policy(*rules)))
    assert found[str(SITE)].outcome == "changed"
    assert found[str(SITE)].changes == ("AS path 65001 65010 -> 65001 65001 65001 65010", "MED none -> 50")
    assert found[str(SITE)].reason == "policy tried, rule site"
    assert (found[str(OWN)].outcome, found[str(OWN)].reason) == ("rejected", "policy tried, no rule")
    assert (found[str(SECOND)].outcome, found[str(SECOND)].reason_now) == ("rejected", "no policy")


def test_what_no_policy_can_open_says_why():
    model = loaded()
    closed = changed(SETTINGS, "edge2", advertise=())
    found = tried_out(model, closed, SETTINGS, "edge2")
    assert found[str(SITE)].outcome == "same", "no transit between two sites, whatever the list"
    opened = changed(SETTINGS, "edge2", transit=True)
    verdict = tried_out(model, SETTINGS, opened, "edge2")[str(SITE)]
    assert (verdict.outcome, verdict.reason_now) == ("accepted", "no transit: learned on its side of the gateway")


def test_aggregates_and_parts_are_tried_too():
    model = connected()
    model.announce(EDGE, str(INNER), EDGE, attribute((65010,)))
    model.settle()
    then = changed(SETTINGS, "fabric", aggregate=(SITE,), more_specific=((OWN, 17),))
    found = tried_out(model, SETTINGS, then)
    assert (found[str(INNER)].outcome, found[str(INNER)].reason) == ("rejected", "part of an aggregate")
    assert (found[str(SITE)].outcome, found[str(SITE)].reason) == ("accepted", "stands for other routes")
    assert {prefix for prefix, one in found.items() if one.outcome == "accepted"} == {
        str(SITE),
        "10.200.0.0/17",
        "10.200.128.0/17",
    }
