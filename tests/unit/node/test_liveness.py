"""Which sessions there are, when they run, and what the cores are told of a verdict (RFC 5882)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address

from support.bfd_pair import Seeded

from gateway.bfd.echo import EchoSettings
from gateway.bfd.packet import ControlPacket, Diagnostic, State, emit, parse
from gateway.bfd.session import SessionSettings
from gateway.bgp.events import Forwarding
from gateway.ha.roles import VoteChanged
from gateway.ike.commands import CheckLiveness
from gateway.node import effects
from gateway.node.liveness import Liveness
from gateway.node.watches import Watch
from gateway.routing.model import Liveness as Passes
from gateway.routing.model import ViaConnection, ViaNextHop

LOCAL, REMOTE = ip_address("169.254.21.1"), ip_address("169.254.21.2")
INSIDE = Watch("bfd edge", "bfd", "edge", "site", LOCAL, REMOTE, SessionSettings())
BESIDE = Watch(
    "bfd fabric", "bfd-multihop", "fabric", "", ip_address("10.1.0.4"), ip_address("10.1.0.1"), SessionSettings()
)
PROBE = Watch("probe site", "echo4", "", "site", LOCAL, REMOTE, EchoSettings(4))


@dataclass
class Tunnel:
    interface: int = 0
    usable: bool = False
    mtu: int = 1438


class Bench:
    def __init__(self, *watches: Watch) -> None:
        self.tunnel = Tunnel()
        self.liveness = Liveness({"site": self.tunnel}, Seeded(1))  # type: ignore[dict-item]
        self.now = 10.0
        self.liveness.adopt(watches, self.now)

    def said(self, kind: type | None = None) -> list[object]:
        found = list(self.liveness.poll())
        return [one for one in found if kind is None or isinstance(one, kind)]

    def up(self, interface: int = 5) -> None:
        self.tunnel.interface, self.tunnel.usable = interface, True
        self.liveness.path("site", self.now)

    def down(self) -> None:
        self.tunnel.usable = False
        self.liveness.path("site", self.now)

    def hear(self, number: int, state: State, ours: int) -> None:
        packet = ControlPacket(state, Diagnostic.NONE, 3, 99, ours, 300_000, 300_000)
        self.liveness.packet(number, emit(packet), self.now)

    def establish(self, number: int = 1) -> int:
        """Brings the session up; its discriminator."""
        (opened,) = (one for one in self.said(effects.ProbeOpen) if one.id == number)  # type: ignore[attr-defined]
        self.hear(number, State.INIT, opened.key)  # type: ignore[attr-defined]
        return int(opened.key)  # type: ignore[attr-defined]


def test_a_session_inside_a_tunnel_runs_while_the_tunnel_carries_it_and_by_its_device() -> None:
    bench = Bench(INSIDE)
    assert bench.said() == []
    bench.up(5)
    opened, armed = bench.said()
    assert opened == effects.ProbeOpen(1, "bfd", opened.key, "169.254.21.1", "169.254.21.2", 5)  # type: ignore[attr-defined]
    assert isinstance(armed, effects.ProbeArm)
    bench.down()
    assert bench.said() == [effects.ProbeClose(1)]
    bench.up(6)  # made again
    assert [type(one) for one in bench.said()] == [effects.ProbeOpen, effects.ProbeArm]
    bench.up(7)
    assert [type(one) for one in bench.said()] == [effects.ProbeClose, effects.ProbeOpen, effects.ProbeArm]


def test_a_session_beside_the_tunnels_runs_at_once_by_no_device_of_ours() -> None:
    (opened, _) = Bench(BESIDE).said()
    assert isinstance(opened, effects.ProbeOpen)
    assert (opened.kind, opened.interface) == ("bfd-multihop", 0)


def test_a_failure_is_told_to_the_fib_to_bgp_and_to_ike_and_its_end_to_the_first_two() -> None:
    bench = Bench(INSIDE)
    bench.up()
    key = bench.establish()
    target = ViaConnection("site")
    said = bench.said()
    assert Passes(target, works=True) in said
    assert Forwarding("edge", works=True) in said
    armed = [one for one in said if isinstance(one, effects.ProbeArm)][-1].arm
    bench.liveness.expired(1, armed.generation, bench.now)
    said = bench.said()
    assert said[0:1] + [one for one in said if isinstance(one, Forwarding | CheckLiveness)] == [
        Passes(target, works=False), Forwarding("edge", works=False), CheckLiveness("site"),
    ]  # fmt: skip
    (event,) = (one for one in said if isinstance(one, effects.Event))
    assert (event.level, event.event, event.tunnel) == ("warning", "bfd-down", "site")
    assert "nothing heard" in event.text
    bench.hear(1, State.INIT, key)
    said = bench.said()
    assert Passes(target, works=True) in said
    assert Forwarding("edge", works=True) in said
    assert not any(isinstance(one, CheckLiveness) for one in said)


def test_a_tunnel_that_goes_down_fails_its_session_at_once() -> None:
    bench = Bench(INSIDE)
    bench.up()
    bench.establish()
    bench.said()
    bench.down()
    assert Forwarding("edge", works=False) in bench.said()


def test_a_next_hop_beside_the_tunnels_is_told_as_one() -> None:
    bench = Bench(BESIDE)
    bench.establish()
    assert Passes(ViaNextHop(BESIDE.remote), works=True) in bench.said()


def test_of_two_that_watch_one_tunnel_the_one_that_is_up_is_believed() -> None:
    bench = Bench(INSIDE, PROBE)
    bench.up()
    opened = {one.id: one for one in bench.said(effects.ProbeOpen)}  # type: ignore[attr-defined]
    bench.hear(1, State.INIT, opened[1].key)  # type: ignore[attr-defined]
    (asked,) = (one for one in bench.liveness._watched.values() if one.watch is PROBE)
    request = asked.session._armed.octets  # type: ignore[union-attr]
    answer = asked.session._message(0)  # type: ignore[union-attr]
    assert len(request) == len(answer)
    for _ in range(3):
        bench.liveness.packet(2, answer, bench.now)
    bench.said()
    generation = asked.session._armed.generation  # type: ignore[union-attr]
    bench.liveness.expired(2, generation, bench.now)
    assert Passes(ViaConnection("site"), works=True) in bench.said()


def test_targets_of_the_vote_are_counted_and_speak_for_no_route() -> None:
    targets = [ip_address(f"10.1.9.{number}") for number in (1, 2)]
    votes = [Watch(f"vote {one}", "echo4", "", "", LOCAL, one, EchoSettings(4), votes=True) for one in targets]
    beside = Watch("bfd next", "bfd", "next", "", LOCAL, targets[0], SessionSettings())
    bench = Bench(*votes, beside)
    bench.said()
    told: list[object] = []
    for number, watch in enumerate(votes, start=1):
        (asked,) = (one for one in bench.liveness._watched.values() if one.watch is watch)
        answer = asked.session._message(0)  # type: ignore[union-attr]
        for _ in range(3):
            bench.liveness.packet(number, answer, bench.now)
        told += bench.said()
    generation = asked.session._armed.generation  # type: ignore[union-attr]
    bench.liveness.expired(2, generation, bench.now)
    told += bench.said()
    assert [one for one in told if isinstance(one, VoteChanged)] == [VoteChanged(1), VoteChanged(2), VoteChanged(1)]
    assert not any(isinstance(one, Passes | Forwarding | CheckLiveness) for one in told)
    bench.liveness.adopt([beside], bench.now)
    assert VoteChanged(0) in bench.said(), "who is asked no more does not answer"


def test_a_bgp_session_that_comes_up_all_the_same_is_believed() -> None:
    bench = Bench(INSIDE)
    bench.up()
    bench.establish()
    bench.down()
    bench.up()
    bench.said()
    bench.liveness.established("edge", bench.now)
    said = bench.said()
    assert Forwarding("edge", works=True) in said
    assert Passes(ViaConnection("site"), works=True) in said


def test_a_failure_is_told_again_after_a_reload_for_the_speaker_may_be_new() -> None:
    bench = Bench(INSIDE)
    bench.up()
    bench.establish()
    bench.down()
    bench.said()
    bench.liveness.adopt((replace(INSIDE, settings=SessionSettings(0.5)),), bench.now)
    assert Forwarding("edge", works=False) in bench.said()


def test_what_is_no_longer_watched_says_goodbye_and_fails_nobody() -> None:
    bench = Bench(INSIDE)
    bench.up()
    bench.establish()
    bench.said()
    bench.liveness.adopt((), bench.now)
    said = bench.said()
    packets = [one.arm.octets for one in said if isinstance(one, effects.ProbeArm)]
    packets += [one.octets for one in said if isinstance(one, effects.ProbeSend)]
    assert [parse(octets).state for octets in packets] == [State.ADMIN_DOWN] * 3
    assert said[-1] == effects.ProbeClose(1)
    assert not any(isinstance(one, Forwarding) and not one.works for one in said)
    assert bench.liveness.status() == ()
    bench.liveness.packet(1, packets[0], bench.now)
    assert bench.said() == []
