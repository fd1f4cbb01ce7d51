"""The daemon with BIRD, FRR and GoBGP in each place where a gateway has neighbors: edge, route server, pair.

Three rounds put every speaker in every place once; MD5, GTSM, who connects to whom and graceful restart change places
too. What a speaker was told is read from its own table; what it told us from ours and from the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from support.bgp_lab import EDGE_AS, HOLD, OUR_AS, SERVER_AS, SiteLab, agree, routes
from support.bgp_peers import KINDS, Peer, Route, Session, Told
from support.netns import Lab

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

PASSWORD = "s3cret-pass"
ASES = {"edge": EDGE_AS, "server": SERVER_AS, "mate": OUR_AS}
ADDRESSES = {  # by place and version: ours, theirs
    ("edge", 4): ("169.254.21.1", "169.254.21.2"),
    ("edge", 6): ("fd00:21::1", "fd00:21::2"),
    ("server", 4): ("10.1.0.4", "10.1.1.4"),
    ("server", 6): ("fd01::4", "fd01:1::4"),
    ("mate", 4): ("10.1.2.1", "10.1.2.2"),
    ("mate", 6): ("fd01:2::1", "fd01:2::2"),
}
ROUTES = {
    "edge": (
        Route("172.16.1.0/24", med=50, communities=("65010:7", "65010:77"), large=("65010:1:2",)),
        Route("172.16.2.0/24", path=(EDGE_AS, 64999), communities=("65010:8",), large=("65010:1:3",)),
        Route("172.16.3.0/24", path=(12076,)),
        Route("0.0.0.0/0"),
        Route("0.0.0.0/1"),
        Route("10.99.0.2/32"),  # the tunnel's outer end, into the tunnel
        Route("168.63.129.16/32"),
        Route("10.200.7.0/24"),  # a part of our own prefix
        Route("198.18.1.0/24", path=(OUR_AS,)),  # back from us
        Route("198.18.2.0/24", path=(SERVER_AS,)),  # through the fabric's AS
        Route("2001:db8:16::/48", communities=("65010:9",)),
    ),
    "server": (
        Route("10.1.10.0/24", communities=("65515:1",)),
        Route("10.1.11.0/24", path=(12076, 64999)),  # an ExpressRoute edge's, by way of the route server
        Route("10.1.20.0/24"),
        Route("10.1.21.0/24"),
        Route("fd01:10::/48"),
    ),
    "mate": (
        Route("10.1.20.0/24", local_preference=200, path=(64999, 64998)),
        Route("10.1.30.0/24"),
        Route("fd01:30::/48"),
    ),
}
OWN, OWN6, AGGREGATED = "10.200.0.0/16", "fd01:200::/48", "172.16.0.0/16"
NEIGHBOR = """
[bgp.neighbor.{name}{version}]
address = "{theirs}"
local_address = "{ours}"
remote_as = {asn}
hold_time = {hold}
{more}
"""
SPEAKER = f"""
[bgp]
local_as = {OUR_AS}
router_id = "10.99.0.1"
advertise = ["{OWN}", "{OWN6}"]
[bgp.policy.to-mate]
default = "accept"
rule.preferred = {{ learned_from = ["own"], local_preference = 250, action = "accept" }}
[bgp.policy.to-server]
default = "accept"
rule.own = {{ learned_from = ["own"], prepend = 2, med = 70, add_communities = ["65001:5", "65001:6:7"] }}
"""


@dataclass(frozen=True, slots=True)
class Round:
    """Who plays what; the other fields name the place whose sessions are of that kind."""

    edge: str
    server: str
    mate: str
    md5: str
    gtsm: str
    we_wait: str
    they_wait: str
    restart: str


ROUNDS = {
    "bird at the edge": Round(
        "bird", "frr", "gobgp", md5="edge", gtsm="mate", we_wait="server", they_wait="edge", restart="server"
    ),
    "frr at the edge": Round(
        "frr", "gobgp", "bird", md5="server", gtsm="edge", we_wait="mate", they_wait="server", restart="mate"
    ),
    "gobgp at the edge": Round(
        "gobgp", "bird", "frr", md5="mate", gtsm="edge", we_wait="mate", they_wait="server", restart="edge"
    ),
}


def gateway_sections(one: Round) -> str:
    """The neighbors, as the gateway has them."""
    text = SPEAKER
    for (name, version), (ours, theirs) in ADDRESSES.items():
        more = {"edge": 'connection = "site"', "server": "multihop = 2", "mate": ""}[name]
        if version == 4:
            more += {"mate": '\nexport_policy = "to-mate"', "server": '\nexport_policy = "to-server"'}.get(name, "")
        if name == "server" and version == 4:
            more += f'\naggregate = ["{AGGREGATED}"]\ndefault_route = "172.16.2.0/24"'
        if one.md5 == name:
            more += '\npassword.file = "bgp.key"'
        if one.gtsm == name:
            more += "\nttl_security = true"
        if one.we_wait == name:
            more += "\npassive = true"
        if one.restart == name:
            more += "\ngraceful_restart = 60"
        text += NEIGHBOR.format(
            name=name,
            version="" if version == 4 else "6",
            ours=ours,
            theirs=theirs,
            asn=ASES[name],
            hold=HOLD,
            more=more,
        )
    return text


def speaker(bench: SiteLab, one: Round, name: str) -> Peer:
    sessions = [
        Session(
            f"v{version}", theirs, ours, OUR_AS, multihop=2 if name == "server" else 0,
            password=PASSWORD if one.md5 == name else "", ttl_security=one.gtsm == name,
            passive=one.they_wait == name, hold=HOLD, restart=60 if one.restart == name else 0,
        )
        for (place, version), (ours, theirs) in ADDRESSES.items() if place == name
    ]  # fmt: skip
    kind = KINDS[getattr(one, name)]
    router_id = ADDRESSES[name, 4][1]
    return kind(bench.machines[name], ASES[name], router_id, sessions, ROUTES[name])


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, id=name.replace(" ", "-"), marks=[pytest.mark.slow] if at else [])
        for at, (name, one) in enumerate(ROUNDS.items())
    ],
)
def test_every_speaker_in_every_place_learns_and_teaches_what_it_should(lab: Lab, one: Round) -> None:
    bench = SiteLab(lab, gateway_sections(one), {"bgp.key": PASSWORD})
    peers = {name: speaker(bench, one, name) for name in ("edge", "server", "mate")}
    bench.start(peers.values())
    for peer in peers.values():
        peer.wait_established(seconds=30, logs=[bench.gateway.process])

    site, server, mate = {"edge": "gw-site"}, {"server": "10.1.0.1"}, {"mate": "10.1.2.2"}
    expected = {
        "172.16.1.0/24": site,
        "172.16.2.0/24": site,
        "172.16.3.0/24": site,
        "198.18.2.0/24": site,
        "2001:db8:16::/48": {"edge6": "gw-site"},
        "10.1.10.0/24": server,
        "10.1.11.0/24": server,
        "10.1.20.0/24": mate,  # RFC 4271 9.1.1: the higher local preference wins, although its path is longer
        "10.1.21.0/24": server,
        "10.1.30.0/24": mate,
        "fd01:10::/48": {"server6": "fd01::1"},
        "fd01:30::/48": {"mate6": "fd01:2::2"},
    }
    told = [
        # nothing of the fabric's own making beyond what it is; not what came through Microsoft's AS to it, nor what the mate taught us
        (peers["edge"], "v4", {OWN, "10.1.10.0/24", "10.1.21.0/24"}),
        (peers["edge"], "v6", {OWN6, "fd01:10::/48"}),
        (peers["server"], "v4", {OWN, AGGREGATED, "0.0.0.0/0"}),
        (peers["server"], "v6", {OWN6, "2001:db8:16::/48"}),
        (peers["mate"], "v4", {OWN, "172.16.1.0/24", "172.16.2.0/24", "172.16.3.0/24", "198.18.2.0/24", "10.1.10.0/24",
                               "10.1.11.0/24", "10.1.21.0/24"}),
        (peers["mate"], "v6", {OWN6, "2001:db8:16::/48", "fd01:10::/48"}),
    ]  # fmt: skip
    agree(bench, expected, told, logs=[peer.process for peer in peers.values()])
    our_table_has_their_attributes(bench)
    their_tables_have_ours(peers)
    what_was_negotiated(one, peers)


def our_table_has_their_attributes(bench: SiteLab) -> None:
    first = routes(bench.gateway, "172.16.1.0/24")["edge"]
    assert first["as_path"] == [EDGE_AS], "four octets of an AS"
    assert (first["med"], sorted(first["communities"])) == (50, ["65010:1:2", "65010:7", "65010:77"])
    assert routes(bench.gateway, "172.16.2.0/24")["edge"]["as_path"] == [EDGE_AS, EDGE_AS, 64999]
    refused = {
        "0.0.0.0/0": "default-route",
        "0.0.0.0/1": "default-route",
        "10.99.0.2/32": "never-prefix",
        "168.63.129.16/32": "never-prefix",
        "10.200.7.0/24": "own-prefix",
        "198.18.1.0/24": "own-as-in-path",
    }
    known = {prefix: routes(bench.gateway, prefix)["edge"]["reason"] for prefix in refused}
    assert known == {prefix: f"rejected: {reason}" for prefix, reason in refused.items()}
    both = routes(bench.gateway, "10.1.20.0/24")
    assert (both["mate"]["local_preference"], both["mate"]["reason"]) == (200, "higher local preference")
    assert both["server"]["reason"].startswith("lower local preference")


def their_tables_have_ours(peers: dict[str, Peer]) -> None:
    edge, server, mate = (peers[name].told("v4") for name in ("edge", "server", "mate"))
    # RFC 4271 5.1.4: the MED of one AS does not go to another; communities do
    assert edge["10.1.10.0/24"].path == (OUR_AS, SERVER_AS)
    assert edge["10.1.10.0/24"].communities == {"65515:1"}
    assert edge["10.1.10.0/24"].next_hop == "169.254.21.1"
    assert peers["edge"].told("v6")["fd01:10::/48"].next_hop == "fd00:21::1"
    own = server[OWN]
    assert (own.path, own.med, own.communities, own.large) == ((OUR_AS,) * 3, 70, {"65001:5"}, {"65001:6:7"})
    assert own.next_hop == "10.1.0.4"
    assert server[AGGREGATED].path == server["0.0.0.0/0"].path == (OUR_AS,) * 3, "they begin here too"
    six = peers["server"].told("v6")["2001:db8:16::/48"]
    assert (six.path, six.next_hop, six.communities) == ((OUR_AS, EDGE_AS), "fd01::4", {"65010:9"})
    # RFC 4271 5.1.5, 5.1.2: inside the AS the path stays as it is and LOCAL_PREF goes with it
    first = mate["172.16.1.0/24"]
    assert first == Told((EDGE_AS,), "10.1.2.1", 50, 100, frozenset({"65010:7", "65010:77"}), frozenset({"65010:1:2"}))
    assert (mate[OWN].path, mate[OWN].local_preference) == ((), 250)
    assert peers["mate"].told("v6")["2001:db8:16::/48"].next_hop == "fd01:2::1"


def what_was_negotiated(one: Round, peers: dict[str, Peer]) -> None:
    for name, peer in peers.items():
        wanted = {"as4", "refresh"} | ({"restart"} if one.restart == name else set())
        wanted |= {"extended"} if peer.kind != "gobgp" else set()  # GoBGP 3.10 does not know RFC 8654
        for session in ("v4", "v6"):
            assert peer.capabilities(session) >= wanted
