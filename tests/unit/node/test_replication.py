"""What goes out and what waits where an address goes from gateway to gateway; orders of events in which an IV could come twice."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, cast

from support.heartbeat_network import SeededRandom

from gateway.config.load import load_text
from gateway.contract import Endpoint, Transmit
from gateway.esp.dataplane import Direction
from gateway.ha.address_values import AddressCall, Assign, Place, Placed, Places
from gateway.ha.fabric_values import Done, Failed, Read, Why
from gateway.ha.replica import Begin, Gone, Ping, Pong, Record, Whole
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.key_exchange import Libcrypto
from gateway.node import effects, inputs
from gateway.node.high_availability import HighAvailability
from gateway.node.keeping import Earlier, Keep, Keeper, KeptConnection
from gateway.node.pair_settings import PairSecrets
from gateway.node.replication import ARRIVAL, PARDON, Replication
from gateway.node.settings import GatewaySettings, Secrets, build
from gateway.node.tunnel import Tunnel

SHARED, PEER = "198.51.100.10", "198.51.100.100"
TEXT = """
[gateway]
name = "gw-a"
[connection.moving]
local_addrs = "198.51.100.10"
remote_addrs = "198.51.100.100"
psk.file = "x"
remote_ts = ["172.16.0.0/12"]
[connection.own]
local_addrs = "198.51.100.2"
remote_addrs = "198.51.100.101"
psk.file = "x"
remote_ts = ["192.168.0.0/16"]
[ha]
local_address = "10.0.1.4"
remote_address = "10.0.1.5"
secret.file = "y"
shared_addresses = ["198.51.100.10"]
[ha.witness]
address = "10.0.9.9"
ttl = "1s"
"""
DATAGRAM = Transmit(b"sealed", Endpoint(SHARED, 4500), Endpoint(PEER, 4500))
OWN = Transmit(b"sealed", Endpoint("198.51.100.2", 4500), Endpoint("198.51.100.101", 4500))


@dataclass
class _Election:
    acting_epoch: int = 0


@dataclass
class _Lease:
    """What the replication asks the pair: until when this gateway acts, and under which epoch."""

    acts_until: float | None = None
    fenced: bool = True

    def __post_init__(self) -> None:
        self.election = _Election()
        self.pair = self

    def acts(self, now: float) -> bool:
        return self.acts_until is not None and now < self.acts_until


CLOUD = """
[ha.fabric]
cloud = "aws"
[ha.fabric.interface.wan]
id = "eni-a"
peer_id = "eni-b"
"""


def settings(more: str = "") -> GatewaySettings:
    loaded = load_text(TEXT + more)
    assert loaded.config is not None, loaded.diagnostics
    secrets = PairSecrets(b"another secret of the pair", witness=b"the secret of the witness")
    return build(loaded.config, Secrets({"moving": b"secret", "own": b"secret"}, {}, secrets))


class Node:
    """The replication with real tunnels and keeper, and a lease that the test moves."""

    def __init__(self, more: str = "") -> None:
        made = settings(more)
        random = SeededRandom(1)
        self.tunnels = {one.name: Tunnel(one, random) for one in made.tunnels}
        self.keeper = Keeper(IkeEndpoint(random, Libcrypto()), self.tunnels, Earlier())
        self.lease = _Lease()
        self.replication = Replication(self.tunnels, self.keeper, random)
        self.replication.configure(made, 0.0)
        for tunnel in self.tunnels.values():
            self.replication.adopt(tunnel)
        self.id = self.tunnels["moving"].settings.id

    def act(self, epoch: int, now: float, until: float) -> None:
        self.lease.election.acting_epoch, self.lease.acts_until = epoch, until
        self.follow(now)

    def follow(self, now: float) -> bool:
        return self.replication.follow(cast(HighAvailability, self.lease), now)

    def says(self, command: inputs.ReplicaCommand, now: float) -> list[object]:
        self.replication.command(command, now)
        return self.out()

    def take(self, now: float, *taken: object) -> list[object]:
        for effect in taken:
            self.replication.take(effect, now)
        return self.out()

    def out(self) -> list[object]:
        return list(self.replication.poll())

    def copied(self, now: float) -> None:
        """The other gateway has a copy that is good for 10 s."""
        self.says(inputs.ReplicaOpened(dialed=False), now)
        self.says(inputs.ReplicaSaid(Ping(1, self.replication.source.number, 10.0)), now)


def keep(name: str = "moving") -> Keep:
    return Keep(name, cast(KeptConnection, f"state of {name}"))


def records(found: list[object]) -> list[Record]:
    return [one.said for one in found if isinstance(one, effects.ReplicaSay) and isinstance(one.said, Record)]


def test_the_standby_has_none_of_it_and_its_own_connections_as_ever() -> None:
    node = Node()
    assert node.tunnels["moving"].elsewhere
    assert not node.tunnels["own"].shared
    node.out()
    assert node.take(1.0, DATAGRAM, OWN, keep("own")) == [OWN, keep("own")]


def test_what_depends_on_a_record_waits_and_nothing_else() -> None:
    node = Node()
    node.act(5, 0.0, inf)
    node.copied(0.0)
    found = node.take(1.0, keep(), DATAGRAM, effects.Grant(node.id, 9, 100), OWN, effects.Grant(77, 9, 100))
    assert [one.name for one in records(found)] == ["moving"]
    assert [one for one in found if not isinstance(one, effects.ReplicaSay)] == [keep(), OWN, effects.Grant(77, 9, 100)]
    number = records(found)[0].number
    found = node.says(inputs.ReplicaSaid(Ping(2, number, 10.0)), 1.1)
    assert found == [effects.ReplicaSay(Pong(2)), DATAGRAM, effects.Grant(node.id, 9, 100)]


def test_a_process_that_stood_still_releases_nothing_after_its_lease() -> None:
    """The timer is the first thing that runs: what was held must not leave, for the other goes on with the same message IDs and IVs."""
    node = Node()
    node.act(5, 0.0, 2.0)
    node.copied(0.0)
    node.take(1.0, keep(), DATAGRAM, effects.Grant(node.id, 9, 100))
    node.replication.handle_deadline(60.0)
    assert node.out() == []
    assert node.says(inputs.ReplicaSaid(Ping(2, 99, 10.0)), 60.0) == [effects.ReplicaSay(Pong(2))]
    assert node.take(60.0, DATAGRAM) == []
    assert node.follow(60.0)
    assert DATAGRAM not in node.out()


def test_the_fence_goes_where_the_lease_goes() -> None:
    node = Node()
    node.act(5, 0.0, 2.0)
    assert effects.MoveFence(2.0) in node.out()
    node.act(5, 1.0, 3.0)
    assert node.out() == [effects.MoveFence(3.0)]
    node.lease.acts_until = None
    assert node.follow(2.0)
    found = node.out()
    assert found[0] == effects.MoveFence(0.0)
    assert effects.HoldAddresses((SHARED,), False) in found


def test_active_again_under_another_epoch_is_not_active_all_the_time() -> None:
    node = Node()
    node.act(5, 0.0, 10.0)
    node.out()
    node.act(7, 1.0, 20.0)
    assert not node.replication.acting
    node.act(7, 1.0, 20.0)
    assert node.replication.acting
    told = [one.text for one in node.out() if isinstance(one, effects.Event)]
    assert "the other gateway's now" in told[0]
    assert "begin anew" in told[1]


def test_a_standby_that_is_gone_holds_up_nothing_for_long() -> None:
    node = Node()
    node.act(5, 0.0, inf)
    node.copied(0.0)
    node.says(inputs.ReplicaClosed(), 0.5)
    assert node.take(1.0, keep(), DATAGRAM) == [keep()]
    due = node.replication.next_deadline()
    assert due is not None
    assert 10.0 < due < 10.5
    node.replication.handle_deadline(due)
    assert node.out() == [DATAGRAM]


def test_a_standby_that_says_goodbye_holds_up_nothing() -> None:
    node = Node()
    node.act(5, 0.0, inf)
    node.copied(0.0)
    assert node.take(1.0, keep(), DATAGRAM) != [keep(), DATAGRAM]
    assert node.says(inputs.ReplicaSaid(Gone()), 1.1) == [DATAGRAM]


def test_a_connection_that_a_reload_removes_is_removed_from_the_copy_first() -> None:
    node = Node()
    node.act(5, 0.0, inf)
    node.copied(0.0)
    node.take(0.5, keep())
    del node.tunnels["moving"]
    found = node.take(1.0, Keep("moving", None), effects.RemoveSa(Direction.OUTBOUND, node.id, 9))
    assert [(one.name, one.content) for one in records(found)] == [("moving", None)]
    assert not any(isinstance(one, effects.RemoveSa) for one in found)


def test_what_is_held_does_not_outlive_its_device() -> None:
    node = Node()
    node.act(5, 0.0, inf)
    node.copied(0.0)
    node.take(1.0, keep(), effects.Grant(node.id, 9, 100), DATAGRAM)
    assert node.take(1.1, effects.CloseTunnel(node.id, "moving")) == [effects.CloseTunnel(node.id, "moving")]
    assert node.says(inputs.ReplicaSaid(Ping(2, 99, 10.0)), 1.2) == [effects.ReplicaSay(Pong(2)), DATAGRAM]


def test_who_leaves_takes_its_sas_out_at_once() -> None:
    node = Node()
    node.act(5, 0.0, 10.0)
    node.copied(0.0)
    removal = effects.RemoveSa(Direction.INBOUND, node.id, 7)
    node.take(1.0, keep(), removal, DATAGRAM)
    node.lease.acts_until = None
    node.follow(1.1)
    found = node.out()
    assert removal in found
    assert DATAGRAM not in found
    another = effects.RemoveSa(Direction.INBOUND, node.id, 8)
    assert node.take(1.2, another) == [another]


def test_a_lease_taken_by_force_or_a_gap_of_epochs_begins_anew() -> None:
    for fenced, epoch, why in (
        (False, 6, "taken by force"),
        (True, 7, "somebody was active after it"),
        (True, 5, "somebody was active after it"),
    ):
        node = Node()
        node.says(inputs.ReplicaOpened(dialed=True), 0.0)
        node.says(inputs.ReplicaSaid(Begin(5, 0.0)), 0.0)
        node.says(inputs.ReplicaSaid(Record(1, "moving", "state")), 0.0)
        ping = node.says(inputs.ReplicaSaid(Whole(1)), 0.0)[-1]
        assert isinstance(ping, effects.ReplicaSay)
        assert isinstance(ping.said, Ping)
        node.says(inputs.ReplicaSaid(Pong(ping.said.ping)), 0.1)
        assert bool(node.replication.holder.fit(epoch, 1.0)) is (epoch == 6)
        node.lease.fenced = fenced
        node.act(epoch, 1.0, inf)
        told = next(one for one in node.out() if isinstance(one, effects.Event))
        assert "begin anew" in told.text
        assert why in told.text


def test_two_that_cannot_reach_a_peer_do_not_hand_it_to_each_other_for_ever() -> None:
    node = Node()
    tunnel = node.tunnels["moving"]
    node.act(5, 0.0, 30.0)
    assert tunnel.arriving
    assert not node.replication.reconsidered(ARRIVAL - 1)
    assert node.replication.reconsidered(ARRIVAL)
    assert not tunnel.arriving
    node.lease.acts_until = None
    node.follow(20.0)
    assert tunnel.failed_here
    assert node.replication.reconsidered(20.0 + PARDON)
    assert not tunnel.failed_here


def test_the_ike_core_knows_whose_sas_are_at_both_gateways() -> None:
    """It must not move one to or from an address of this gateway alone (ike/reconfiguration.py)."""
    assert {one.name: one.ike.shared for one in settings().tunnels} == {"moving": True, "own": False}


def test_without_shared_addresses_nothing_is_asked() -> None:
    replication = Replication({}, cast(Any, None), SeededRandom(1))
    assert replication.next_deadline() is None
    assert not replication.follow(cast(HighAvailability, _Lease(acts_until=inf)), 0.0)
    assert list(replication.poll()) == []


def cloud_node() -> tuple[Node, int]:
    """One whose cloud has the address at the other gateway, as it was asked at the start; and the ticket of that."""
    node = Node(CLOUD)
    (asked,) = [one for one in node.out() if isinstance(one, AddressCall)]
    assert asked.operation == Read()
    node.says(inputs.AddressAnswered(asked.ticket, Places((Placed(SHARED, Place.PEER, "eni-b"),))), 1.0)
    return node, asked.ticket


def test_the_cloud_is_told_in_the_same_breath_as_the_kernel_and_nobody_waits_for_it() -> None:
    node, _ = cloud_node()
    node.act(5, 10.0, until=11.0)
    assert node.replication.acting
    said = node.out()
    held = said.index(effects.HoldAddresses((SHARED,), True))
    calls = [one for one in said if isinstance(one, AddressCall)]
    assert [call.operation for call in calls] == [Assign((SHARED,))]
    assert said.index(calls[0]) > held
    node.says(inputs.AddressAnswered(calls[0].ticket, Failed(Why.REFUSED, "no right; give it")), 10.1)
    assert node.replication.acting, "the role is not the cloud's to decide"
    view = node.replication.cloud.view
    assert view is not None
    assert (view.active, view.interfaces[0].trouble) == (True, f"{SHARED}: no right; give it")


def test_a_renewed_lease_lets_the_cloud_be_told_and_one_that_is_over_does_not() -> None:
    node, _ = cloud_node()
    node.act(5, 10.0, until=11.0)
    (call,) = [one for one in node.out() if isinstance(one, AddressCall)]
    busy = Failed(Why.BUSY, "429", 2.0)
    node.says(inputs.AddressAnswered(call.ticket, busy), 10.1)
    node.replication.handle_deadline(13.0)
    assert [one for one in node.out() if isinstance(one, AddressCall) and one.operation != Read()] == []
    node.act(5, 13.0, until=14.0)
    assert [one.operation for one in node.out() if isinstance(one, AddressCall)] == [Assign((SHARED,))]


def test_who_is_not_active_any_more_tells_the_cloud_nothing_and_a_section_that_goes_is_forgotten() -> None:
    node, _ = cloud_node()
    node.act(5, 10.0, until=11.0)
    node.out()
    node.lease.acts_until = None
    node.follow(12.0)
    view = node.replication.cloud.view
    assert view is not None
    assert not view.active
    node.replication.configure(settings(), 13.0)
    assert node.replication.cloud.view is None
    node.says(inputs.AddressAnswered(1, Failed(Why.BUSY, "late")), 13.0)
    assert node.replication.next_deadline() is not None
    node.replication.handle_deadline(14.0)


def test_a_section_that_comes_with_a_reload_tells_the_cloud_of_what_is_here_already() -> None:
    node = Node()
    node.act(5, 10.0, until=1000.0)
    node.out()
    node.replication.configure(settings(CLOUD), 20.0)
    (asked,) = [one for one in node.out() if isinstance(one, AddressCall)]
    said = node.says(inputs.AddressAnswered(asked.ticket, Places((Placed(SHARED, Place.ABSENT),))), 20.1)
    assert [one.operation for one in said if isinstance(one, AddressCall)] == [Assign((SHARED,))]
    (call,) = [one for one in said if isinstance(one, AddressCall)]
    said = node.says(inputs.AddressAnswered(call.ticket, Done()), 20.2)
    assert [one.event for one in said if isinstance(one, effects.Event)] == ["ha-addresses-moved"]
