"""Two gateways of different ASes with `outdo` on one route server: neither takes the other for the fabric without end."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest
from support.exabgp_model import ExabgpModel, attribute
from support.speaker import EDGE, FABRIC, SETTINGS, connected

from gateway.bgp.settings import SpeakerSettings
from gateway.bgp.views import ANOTHER_S

SITE, WHOLE = "172.16.0.0/12", "172.16.1.0/24"
HALVES = {"172.16.1.0/25", "172.16.1.128/25"}
ANNOUNCED = re.compile(r".* as-path \[ ([\d ]+) \](?:.* large-community \[ (\S+) \])?")


def settings(asn: int) -> SpeakerSettings:
    edge, edge2, fabric, six = SETTINGS.neighbors
    outdoing = replace(fabric, outdo=True)
    return replace(
        SETTINGS, local_as=asn, advertise=(), protected=(ip_network(SITE),), neighbors=(edge, edge2, outdoing, six)
    )


class RouteServer:
    """Passes on to each gateway what the other announces, with its own AS in front, and what it knows by the circuit."""

    def __init__(self, *, keeps_marks: bool) -> None:
        self.gateways = {asn: connected(settings(asn)) for asn in (65001, 65002)}
        self.keeps_marks = keeps_marks
        self.circuit: set[str] = set()
        self.told: dict[int, dict[str, tuple[tuple[int, ...], str]]] = {asn: {} for asn in self.gateways}

    def announced(self, asn: int) -> dict[str, tuple[tuple[int, ...], str]]:
        found = {}
        for prefix, text in self.gateways[asn].peers[FABRIC].adj_out.items():
            match = ANNOUNCED.fullmatch(text)
            assert match is not None, text
            found[str(prefix)] = (tuple(map(int, match[1].split())), match[2] or "")
        return found

    def round(self) -> bool:
        """Whether there was anything new."""
        news = False
        for asn, model in self.gateways.items():
            model.settle(1.0)
            (other,) = set(self.gateways) - {asn}
            wanted = {p: ((65515, *path), mark) for p, (path, mark) in self.announced(other).items()}
            wanted |= dict.fromkeys(self.circuit, ((65515, 12076), ""))
            for prefix in self.told[asn].keys() - wanted.keys():
                model.withdraw(FABRIC, prefix)
                news = True
            for prefix, (path, mark) in wanted.items():
                if self.told[asn].get(prefix) != (path, mark):
                    more = {"large_community": [list(map(int, mark.split(":")))]} if mark and self.keeps_marks else {}
                    model.announce(FABRIC, prefix, FABRIC, attribute(path, **more))
                    news = True
            self.told[asn] = wanted
            model.settle(1.0)
        return news

    def rest(self, rounds: int = 12) -> int:
        """Until nothing changes any more; how many rounds that took."""
        for number in range(rounds):
            if not self.round():
                return number
        raise AssertionError("it goes on and on")


def carried(model: ExabgpModel) -> tuple[str, ...]:
    return next(one for one in model.speaker.peers_status() if one.name == "fabric").carried


@pytest.mark.parametrize("keeps_marks", [True, False])
def test_both_tell_the_two_halves_and_no_more_and_take_them_back(keeps_marks: bool) -> None:
    server = RouteServer(keeps_marks=keeps_marks)
    for _ in range(2):
        server.circuit = {WHOLE}
        server.rest()
        assert [set(server.announced(asn)) for asn in server.gateways] == [HALVES, HALVES]
        if keeps_marks:
            assert [carried(model) for model in server.gateways.values()] == [(), ()]
        server.circuit = set()
        server.rest()
        assert [set(server.announced(asn)) for asn in server.gateways] == [set(), set()]


def test_the_site_s_own_prefix_of_the_other_gateway_is_not_the_fabric_s() -> None:
    server = RouteServer(keeps_marks=True)
    for asn, model in server.gateways.items():
        model.announce(EDGE, WHOLE, EDGE, attribute([65010]))
        assert asn
    server.rest()
    assert [set(server.announced(asn)) for asn in server.gateways] == [{WHOLE}, {WHOLE}]
    assert [carried(model) for model in server.gateways.values()] == [(), ()]


def test_the_other_gateway_s_way_is_none_for_what_is_protected_here_and_is_told_to_no_site() -> None:
    """A site that heard the halves of its own prefixes would send its own traffic round by the cloud."""
    server = RouteServer(keeps_marks=True)
    server.circuit = {WHOLE}
    server.rest()
    model = server.gateways[65001]
    assert not {str(prefix) for prefix in model.peers[EDGE].adj_out} & HALVES
    reasons = {route.prefix: (route.best, route.reason) for route in model.speaker.routes_status()}
    assert {reasons[half] for half in HALVES} == {(False, ANOTHER_S)}
