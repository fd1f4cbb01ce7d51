"""The node and its place in a pair: what the speaker is told and when, what health is made of, and what a reload leaves as it was."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

import pytest
from support.heartbeat_network import SeededRandom

from gateway.bgp.attraction import Attraction, Level
from gateway.config.load import load_text
from gateway.contract import Endpoint
from gateway.ha.beating import Arm, Once, Rest
from gateway.ha.heartbeat import Heartbeat, Settings
from gateway.ha.message import Advertised, HealthReason, Role, Standing
from gateway.ha.message import Level as Said
from gateway.ha.reference import Beats
from gateway.ha.roles import VoteChanged
from gateway.ha.vote import VoteSettings
from gateway.ike.key_exchange import Libcrypto
from gateway.node import effects, inputs
from gateway.node.gateway import Gateway
from gateway.node.pair_settings import PairSecrets
from gateway.node.pairing import Pairing
from gateway.node.settings import GatewaySettings, Secrets, build

TUNNEL = """
[gateway]
name = "gw-a"
[connection.a]
local_addrs = "10.0.1.4"
remote_addrs = "198.51.100.7"
psk.file = "x"
remote_ts = ["172.16.0.0/12"]
tunnel_address = ["169.254.21.1/29"]
"""
BGP = """
[bgp]
local_as = 65010
[bgp.neighbor.edge]
address = "{edge}"
remote_as = 65001
connection = "a"
hold_time = 9
"""
HA = """
[ha]
local_address = "10.0.1.4"
remote_address = "10.0.1.5"
secret.file = "y"
"""
LINK = ip_network("10.0.1.0/24")


def settings(*parts: str, edge: str = "169.254.21.2") -> GatewaySettings:
    loaded = load_text("".join(parts).format(edge=edge))
    assert loaded.config is not None, loaded.diagnostics
    return build(loaded.config, Secrets({"a": b"secret"}, {}, PairSecrets(b"another secret of the pair")))


VOTE = """without_witness = "vote"
[ha.vote]
targets = ["10.0.9.1", "10.0.9.2", "10.0.9.3"]
"""


def started(*parts: str) -> Gateway:
    node = Gateway(settings(*parts), SeededRandom(1), Libcrypto())
    node.command(inputs.Start(), 0.0)
    return node


def attractions(node: Gateway) -> list[Attraction | None]:
    assert node.speaker is not None
    return [instance.attraction for instance in node.speaker.instances.values()]


def paired(*parts: str) -> Pairing:
    pairing = Pairing(SeededRandom(1), 0)
    pairing.start(settings(*parts), 0.0)
    _drain(pairing, 0.0)
    return pairing


def _drain(pairing: Pairing, now: float) -> list[Any]:
    return list(pairing.poll(now))


def heard(pairing: Pairing) -> Said:
    assert pairing.ha is not None
    return pairing.ha.pair.announced


def test_a_speaker_that_comes_with_a_reload_attracts_as_the_role_wants_it() -> None:
    node = started(TUNNEL, HA)
    assert node.speaker is None
    node.command(inputs.Reconfigured(settings(TUNNEL, BGP, HA)), 1.0)
    assert attractions(node) == [Attraction(Level.STANDBY)]


def test_a_pair_that_comes_or_goes_with_a_reload_is_told_to_the_speaker() -> None:
    node = started(TUNNEL, BGP)
    assert attractions(node) == [None]
    node.command(inputs.Reconfigured(settings(TUNNEL, BGP, HA)), 1.0)
    assert attractions(node) == [Attraction(Level.STANDBY)]
    node.command(inputs.Reconfigured(settings(TUNNEL, BGP)), 2.0)
    assert attractions(node) == [None]


def test_without_neighbors_nothing_is_left_to_tell() -> None:
    node = started(TUNNEL, "[bgp]\nlocal_as = 65010\n", HA)
    assert heard(node.pairing) is Said.STANDBY


def test_what_the_speaker_was_not_asked_yet_its_neighbors_have_not_heard() -> None:
    """A lowered level that the speaker does not know of: that it has told everything says nothing of it."""
    pairing = Pairing(SeededRandom(1), 0)
    pairing.configure(settings(TUNNEL, HA), 0.0)
    assert pairing.ha is not None
    pairing.ha.handle_deadline(0.0)
    pairing.announced(True, 0.0, 0.0)
    assert heard(pairing) is Said.TOOK_OVER
    _drain(pairing, 0.0)
    pairing.announced(True, 0.0, 0.0)
    assert heard(pairing) is Said.STANDBY


def test_what_was_said_counts_when_it_is_known_that_the_tunnel_let_it_through() -> None:
    pairing = paired(TUNNEL, HA)
    pairing.announced(True, 0.15, 1.0)
    assert heard(pairing) is Said.TOOK_OVER, "the tunnel may have been cut, and its probe has not noticed yet"
    pairing.handle_deadline(1.0)
    _drain(pairing, 1.0)
    assert pairing.next_deadline() == pytest.approx(1.15)
    pairing.announced(False, 0.15, 1.1)  # it was
    pairing.announced(True, 0.15, 4.0)
    pairing.announced(True, 0.15, 4.1)
    assert heard(pairing) is Said.TOOK_OVER
    pairing.announced(True, 0.15, 4.2)
    assert heard(pairing) is Said.STANDBY


def test_after_a_start_what_an_earlier_process_told_stands_until_a_session_replaces_it() -> None:
    pairing = paired(TUNNEL, BGP, HA)
    pairing.announced(True, 0.0, 1.0)
    assert heard(pairing) is Said.TOOK_OVER, "no session: the neighbor may still go by what it was told before"
    pairing.session("edge", up=True, now=2.0)
    pairing.announced(True, 0.0, 2.0)
    assert heard(pairing) is Said.STANDBY


def test_what_an_earlier_process_told_stands_no_longer_than_a_hold_time() -> None:
    pairing = paired(TUNNEL, BGP, HA)
    for now in (0.0, 5.0):
        pairing.handle_deadline(now)
        _drain(pairing, now)
    assert 5.0 < (pairing.next_deadline() or 0.0) <= 9.0
    pairing.announced(True, 0.0, 8.9)
    assert heard(pairing) is Said.TOOK_OVER
    pairing.announced(True, 0.0, 9.0)
    assert heard(pairing) is Said.STANDBY


def test_a_session_that_came_back_has_forgotten_what_it_was_told_before() -> None:
    pairing = paired(TUNNEL, BGP, HA)
    pairing.session("edge", up=True, now=1.0)
    pairing.session("edge", up=False, now=2.0)
    pairing.announced(True, 0.0, 2.5)
    assert heard(pairing) is Said.TOOK_OVER
    pairing.session("edge", up=True, now=3.0)
    pairing.announced(True, 0.0, 3.0)
    assert heard(pairing) is Said.STANDBY


def test_a_neighbor_of_the_same_name_at_another_address_has_no_session_yet() -> None:
    node = started(TUNNEL, BGP, HA)
    health = node.pairing.health
    node.pairing.session("edge", up=True, now=1.0)
    assert not health.judge().reasons & HealthReason.BGP
    node.command(inputs.Reconfigured(settings(TUNNEL, BGP, HA, edge="169.254.21.6")), 2.0)
    assert health.judge().reasons & HealthReason.BGP


def links(*steps: Iterable[str]) -> list[bool]:
    pairing = paired(TUNNEL, HA)
    found = []
    for connected in steps:
        pairing.links([ip_network(one) for one in connected])
        found.append(not pairing.health.judge().reasons & HealthReason.LINK)
    return found


def test_a_link_that_goes_is_lost_also_when_it_was_the_only_one() -> None:
    here, other = "10.0.1.0/24", "10.9.0.0/24"
    assert links([here, other], [other], [here], []) == [True, False, True, False]


def test_an_address_of_a_network_of_its_own_is_on_no_link_and_fit() -> None:
    """Google's: a /32, and a route to the gateway of the network."""
    assert links(["10.0.1.1/32"], ["10.0.1.1/32", "10.9.0.0/24"], []) == [True, True, True]


# --- peers with a tunnel to the active gateway alone ----------------------------------------------------------------

REDIRECTED = TUNNEL + 'redirect_to = "10.0.1.5"\n'
ORDER = inputs.Operate("drain", "a", to="10.0.1.5")
END = inputs.Operate("drain", "a")


class Beside:
    """Its other gateway, which is heard and says what the test wants."""

    def __init__(self, pairing: Pairing) -> None:
        chance = SeededRandom(3)
        at, our = Endpoint("10.0.1.5", 4780), Endpoint("10.0.1.4", 4780)
        self.heartbeat = Heartbeat(Settings(at, our, "gw-b", b"another secret of the pair", 0.2, 5), chance)
        self.beats = {"ours": Beats(SeededRandom(4)), "theirs": Beats(SeededRandom(5))}
        self.pairing, self.now, self.seen = pairing, 10.0, list[Any]()

    def says(self, role: Role, epoch: int = 3) -> list[Any]:
        """And what comes of it within a second."""
        self.heartbeat.command(Advertised(role=role, epoch=epoch, standing=Standing.OTHER), self.now)
        self.seen.clear()
        end = self.now + 1.0
        while self.now < end:
            self.now += 0.05
            self._carry()
        return [one for one in self.seen if isinstance(one, inputs.Operate)]

    def _carry(self) -> None:
        assert self.pairing.ha is not None
        self.pairing.handle_deadline(self.now)
        self.pairing.announced(True, 0.0, self.now)
        self.heartbeat.handle_deadline(self.now)
        for effect in self.pairing.poll(self.now):
            self.seen.append(effect)
            if isinstance(effect, effects.PairBeat):
                self.beats["ours"].perform(effect.beat, self.now)
        for event in self.heartbeat.poll():
            if isinstance(event, Arm | Once | Rest):
                self.beats["theirs"].perform(event, self.now)
        for name, receive in (("ours", self.heartbeat.receive), ("theirs", self.pairing.receive)):
            self.beats[name].handle_deadline(self.now)
            other = self.beats["theirs" if name == "ours" else "ours"]
            for sent in self.beats[name].poll():
                other.receive(sent.data, self.now)
                receive(sent.data, self.now)


def told(beside: Beside) -> list[tuple[str, str]]:
    return [
        (one.event, one.tunnel) for one in beside.seen if isinstance(one, effects.Event) and "redirect" in one.event
    ]


def test_a_peer_is_sent_to_the_gateway_that_acts_and_served_again_when_it_does_not() -> None:
    pairing = paired(REDIRECTED, HA)
    beside = Beside(pairing)
    assert beside.says(Role.STANDBY) == []
    assert beside.says(Role.ACTIVE) == [ORDER]
    assert told(beside) == [("ha-redirect", "a")]
    assert pairing.sent_away == {"a": "10.0.1.5"}
    assert beside.says(Role.ACTIVE, 4) == [], "it is said once"
    assert beside.says(Role.STANDBY, 4) == [END]
    assert told(beside) == [("ha-redirect-over", "a")]


def test_a_peer_with_a_tunnel_to_each_is_never_sent_away() -> None:
    assert Beside(paired(TUNNEL, HA)).says(Role.ACTIVE) == []


def test_a_reload_is_followed_while_the_other_acts() -> None:
    pairing = paired(REDIRECTED, HA)
    beside = Beside(pairing)
    assert beside.says(Role.ACTIVE) == [ORDER]
    pairing.configure(settings(TUNNEL, HA), beside.now)
    assert beside.says(Role.ACTIVE) == [END]
    pairing.configure(settings(REDIRECTED.replace("1.5", "1.6"), HA), beside.now)
    assert beside.says(Role.ACTIVE) == [inputs.Operate("drain", "a", to="10.0.1.6")]
    pairing.configure(settings(TUNNEL), beside.now)
    assert END in list(pairing.poll(beside.now)), "without a pair there is no other gateway"


def test_that_a_peer_is_at_the_other_gateway_is_no_fault_of_this_one() -> None:
    assert not node_reasons(REDIRECTED) & HealthReason.TUNNELS
    assert node_reasons(TUNNEL) & HealthReason.TUNNELS


def test_nor_is_a_bgp_session_in_such_a_tunnel() -> None:
    pairing = paired(REDIRECTED, BGP, HA)
    assert not pairing.health.judge().reasons & HealthReason.BGP
    pairing = paired(TUNNEL, BGP, HA)
    assert pairing.health.judge().reasons & HealthReason.BGP


def node_reasons(tunnel: str) -> HealthReason:
    """Of a node whose tunnel is down."""
    return started(tunnel, HA).pairing.health.judge().reasons


def test_a_connection_that_was_removed_sends_nobody_away_when_it_is_there_again() -> None:
    node = started(REDIRECTED, HA)
    node.command(ORDER, 1.0)
    assert node.ike.redirects._drained == {"a": "10.0.1.5"}
    node.command(inputs.Reconfigured(settings('[gateway]\nname = "gw-a"\n', HA)), 2.0)
    node.command(inputs.Reconfigured(settings(TUNNEL, HA)), 3.0)
    assert node.ike.redirects._drained == {}


def test_the_vote_is_asked_from_where_heartbeats_leave_and_outlives_an_election() -> None:
    node = started(TUNNEL, HA, VOTE)
    made = [one for one in node.poll() if isinstance(one, effects.ProbeOpen)]
    assert [(one.local, one.remote, one.interface) for one in made] == [
        ("10.0.1.4", f"10.0.9.{number}", 0) for number in (1, 2, 3)
    ]
    pairing = node.pairing
    assert pairing.ha is not None
    pairing.command(VoteChanged(2), 1.0)
    assert not pairing.ha.pair.election._vote.is_lost
    assert pairing.ha.settings.election.vote == VoteSettings(3, pytest.approx(1.8))
    stored = '[ha.witness]\nkind = "s3"\nbucket = "b"\nkey = "k"\n'
    first = pairing.ha
    pairing.configure(settings(TUNNEL, HA, stored), 2.0)
    pairing.configure(settings(TUNNEL, HA, VOTE), 3.0)
    assert pairing.ha is not first
    assert not pairing.ha.pair.election._vote.is_lost
