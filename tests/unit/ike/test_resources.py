"""Per-resource CHILD_SAs (RFC 9611): who asks, who takes how many, what a rekey, a delete and a peer that knows nothing of them do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.ike_pair import ANY, CHILD, ESP_OFFERS, LEFT, NAME, RIGHT, Host, Pair, connection

from gateway.ike import resources, succession
from gateway.ike.commands import CreateChildSa, Initiate, Rekey, Terminate, TrafficSeen
from gateway.ike.events import ChildInstall, ExchangeFailed, Notice
from gateway.ike.exchanges import create_child, timers
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, NotifyType
from gateway.ike.sa import IkeSa
from gateway.ike.settings import ChildSettings
from gateway.ike.traffic_selector import from_range

WIDE = ChildSettings(CHILD, ESP_OFFERS, (ANY,), (ANY,), rekey_time=1e6, life_time=2e6)


class Group(Pair):
    """A pair in which the left asks for `ask` and the right takes `take`."""

    def __init__(self, ask: int = 3, take: int = 3, **changes: Any) -> None:
        super().__init__(rekey_time=1e6, **changes)
        self.resources(self.left, ask)
        self.resources(self.right, take)
        self.left.command(Initiate(NAME))
        self.settle()

    def resources(self, host: Host, count: int, **changes: Any) -> None:
        self.configure(host, children=(replace(WIDE, resources=count, **changes),), rekey_time=1e6)
        self.settle()

    def members(self, host: Host) -> list[str]:
        return sorted(child.name for child in host.sa.children.values() if child.usable)

    def placed(self, host: Host) -> dict[int, int | None]:
        """Outbound SPI -> worker, of what it sends on."""
        installed = {event.spi_out: event.resource for event in host.seen(ChildInstall)}
        return {spi: installed[spi] for spi in host.data_plane.active}

    def whole(self, count: int = 3) -> None:
        """Both hold the common one and so many beside it, all usable in both directions."""
        self.assert_agreed(children=1 + count)
        for host in self.hosts:
            assert self.members(host) == [CHILD, *(f"{CHILD}#{one}" for one in range(count))]


def notifies(pair: Pair, kind: NotifyType) -> int:
    return sum(
        1
        for host in pair.hosts
        for name, n in host.core.counts(NAME).notifies.items()
        if name == f"{kind.name} out"
        for _ in range(n)
    )


def confirm(pair: Group) -> None:
    """The peers were heard on everything, as with traffic."""
    for host in pair.hosts:
        host.command(TrafficSeen(NAME, frozenset(host.sa.children)))
    pair.settle()


def test_one_for_each_worker_beside_the_common_one() -> None:
    pair = Group()
    pair.run(resources.ASK)
    pair.whole()
    confirm(pair)
    for host in pair.hosts:
        assert sorted(pair.placed(host).values(), key=str) == [0, 1, 2, None]
        for child in host.sa.children.values():
            if child.settings.resource is not None:
                # So the data plane, which spreads by SPI, gives it to that worker
                assert child.spi_in % 3 == child.settings.resource
    pair.run(5000)
    pair.whole()


def test_a_responder_sends_on_one_only_once_the_initiator_is_known_to_hold_it() -> None:
    pair = Group(1, 1)
    pair.hold(resources.ASK)
    pair.deliver()  # the request
    new = next(child for child in pair.right.sa.children.values() if child.settings.resource == 0)
    assert new.spi_out not in pair.right.data_plane.active
    pair.settle()
    pair.left.command(Rekey(NAME))
    pair.settle()
    assert new.spi_out in pair.right.data_plane.active


@pytest.mark.parametrize(("ask", "take"), [(3, 0), (0, 3)])
def test_with_a_peer_that_does_not_want_them_nobody_asks(ask: int, take: int) -> None:
    """A peer that never heard of RFC 9611 answers as one that takes none: without the notification."""
    pair = Group(ask, take)
    before = len(pair.sent)
    pair.run(10_000)
    pair.assert_agreed()
    assert len(pair.sent) == before
    assert notifies(pair, NotifyType.SA_RESOURCE_INFO) == (1 if ask else 0)


def test_beyond_what_the_peer_takes_it_says_so_and_is_left_alone_for_long() -> None:
    pair = Group(5, 2)
    pair.run(resources.ASK)
    pair.whole(2)
    assert notifies(pair, NotifyType.TS_MAX_QUEUE) == 1
    assert pair.left.seen(ExchangeFailed) == []
    (notice,) = [one for one in pair.left.seen(Notice) if one.event == "child-resource-refused"]
    assert "TS_MAX_QUEUE" in notice.text
    pair.run(resources.RETRY - 10)
    assert notifies(pair, NotifyType.TS_MAX_QUEUE) == 1
    pair.run(20)
    assert notifies(pair, NotifyType.TS_MAX_QUEUE) == 2
    pair.whole(2)


def test_who_has_fewer_places_asks_for_no_more() -> None:
    pair = Group(1, 8)
    pair.run(5000)
    pair.whole(1)
    assert notifies(pair, NotifyType.TS_MAX_QUEUE) == 0


def test_a_rekey_keeps_the_worker_at_both_ends() -> None:
    pair = Group()
    pair.run(resources.ASK)
    confirm(pair)
    before = {child.name: child.spi_in for host in pair.hosts for child in host.sa.children.values()}
    pair.left.command(Rekey(NAME, CHILD))
    pair.run(1)
    confirm(pair)
    pair.right.command(Rekey(NAME, CHILD))
    pair.run(10)
    pair.whole()
    for host in pair.hosts:
        assert sorted(pair.placed(host).values(), key=str) == [0, 1, 2, None]
        assert not {child.spi_in for child in host.sa.children.values()} & set(before.values())
        assert host.core.counts(NAME).child_rekeys_ok[CHILD] == 8


def test_an_ike_rekey_takes_them_along_whoever_begins_it() -> None:
    pair = Group()
    pair.run(resources.ASK)
    for host in (pair.right, pair.left):
        host.command(Rekey(NAME))
        pair.run(10)
        pair.whole()
    pair.run(5000)
    pair.whole()


def test_one_that_the_peer_deletes_is_not_missed_and_not_asked_for_at_once() -> None:
    """RFC 9611 3: peers may delete those that are idle."""
    pair = Group()
    pair.run(resources.ASK)
    confirm(pair)
    gone = pair.right.sa.usable_child(f"{CHILD}#1")
    assert gone is not None
    pair.right.sa.enqueue(DeleteChild(gone), pair.now)
    pair.run(6)
    pair.assert_agreed(children=3)
    assert pair.left.seen(ExchangeFailed) == []
    assert sorted(pair.placed(pair.left).values(), key=str) == [0, 2, None]
    pair.run(resources.RETRY)
    pair.whole()


def test_a_common_one_that_is_deleted_leaves_the_others_to_send_on_until_it_is_back() -> None:
    pair = Group()
    pair.run(resources.ASK)
    confirm(pair)
    common = pair.right.sa.usable_child(CHILD)
    assert common is not None
    pair.right.sa.enqueue(DeleteChild(common), pair.now)
    pair.drain()
    pair.settle()
    assert [one.reason for one in pair.left.seen(ExchangeFailed)] == ["CHILD_DELETED_BY_PEER"]
    assert len(pair.left.data_plane.active) == 3
    pair.left.command(CreateChildSa(NAME, CHILD))
    pair.run(6)
    pair.whole()
    assert [len(host.data_plane.active) for host in pair.hosts] == [4, 4]


def test_one_asked_for_while_the_common_one_is_made_anew_does_not_become_a_second_common_one() -> None:
    """RFC 9611 3: it came when there was none to be beside, and its key exchange ended when there was one again."""
    pair = Group(1, 1, defer=True)
    pair.hold(resources.ASK)
    pair.deliver()  # the key pair: the request leaves
    common = pair.right.sa.usable_child(CHILD)
    assert common is not None
    pair.right.sa.enqueue(DeleteChild(common), pair.now)
    pair.drain()
    pair.deliver()  # the request
    work = pair.in_flight.pop()
    assert work.run is not None
    pair.settle()
    pair.right.command(CreateChildSa(NAME, CHILD))
    pair.settle()
    pair.in_flight.append(work)
    pair.settle()
    assert pair.members(pair.right) == pair.members(pair.left) == [CHILD]
    assert notifies(pair, NotifyType.TEMPORARY_FAILURE) == 1
    pair.run(resources.BUSY)
    pair.whole(1)


def test_an_operator_who_ends_a_child_ends_all_of_it() -> None:
    pair = Group()
    pair.run(resources.ASK)
    pair.left.command(Terminate(NAME, CHILD))
    pair.run(5000)
    assert pair.left.sa.children == pair.right.sa.children == {}


def test_a_reload_adds_and_removes_them() -> None:
    pair = Group(0, 0)
    pair.resources(pair.left, 2)
    pair.resources(pair.right, 2)
    pair.left.command(Rekey(NAME, CHILD))
    pair.run(10)
    pair.whole(2)
    pair.resources(pair.left, 0)
    pair.run(20)
    assert pair.members(pair.left) == [CHILD]
    assert pair.members(pair.right) == [CHILD]


def test_what_is_not_as_the_common_one_is_refused() -> None:
    """RFC 9611 3: identical algorithms and traffic selectors."""
    pair = Group(1, 1)
    narrow = replace(WIDE, resources=1, remote_ts=(from_range(bytes([10, 0, 0, 0]), bytes([10, 0, 0, 255])),))
    pair.left.sa.settings = replace(pair.left.sa.settings, children=(narrow,))
    original = resources.as_common
    try:
        resources.as_common = lambda sa, settings: settings  # type: ignore[assignment]
        pair.run(resources.ASK)
    finally:
        resources.as_common = original  # type: ignore[assignment]
    pair.assert_agreed()
    assert any("child-resource-refused" in one.event for one in pair.left.seen(Notice))


def test_a_peer_that_makes_an_ordinary_one_instead_gets_it_back() -> None:
    """It said once that it can, and then answers without the notification: that is one CHILD_SA too many, not one for a worker."""
    pair = Group(2, 2)
    original = create_child.resources.told
    asked: list[bool] = []

    def forgetful(message: Any) -> bool:
        if message.header.exchange == ExchangeType.CREATE_CHILD_SA and message.header.is_response:
            asked.append(True)
            return False
        return original(message)

    try:
        create_child.resources.told = forgetful  # type: ignore[assignment]
        pair.run(resources.RETRY / 2)
    finally:
        create_child.resources.told = original  # type: ignore[assignment]
    pair.assert_agreed()
    assert len(asked) == 1


def _beside(pair: Group) -> tuple[IkeSa, IkeSa]:
    """Another IKE_SA, which carries the connection from now on; both ends of the one that did until now."""
    before = (pair.left.sa, pair.right.sa)
    pair.left.core.begin(connection(LEFT, RIGHT, children=pair.left.sa.settings.children, rekey_time=1e6), pair.now)
    pair.drain()
    pair.run(0.6)
    confirm(pair)
    return before


def _end(pair: Group, closing: IkeSa) -> None:
    timers.close(closing, "DELETED_BY_OPERATOR", pair.now)
    pair.run(0)


@pytest.mark.parametrize("both", [False, True])
def test_what_left_an_ike_sa_that_stays_after_all_is_made_anew_by_both_ends_at_once(both: bool) -> None:
    pair = Group()
    pair.run(resources.ASK)
    confirm(pair)
    stays = _beside(pair)
    for sa in stays:
        sa.close_at = pair.now + 8
        for child in sa.children.values() if both or sa is stays[0] else ():
            if child.settings.resource is not None:
                succession.leave(sa, child)
    pair.drain()
    _end(pair, pair.right.sa)
    pair.run(5)
    pair.whole()
    assert notifies(pair, NotifyType.TEMPORARY_FAILURE) == 0


def test_one_that_stays_after_all_asks_again_for_what_it_closed_on_the_way() -> None:
    pair = Group()
    pair.run(resources.ASK)
    confirm(pair)
    left, _ = _beside(pair)
    while any(child.settings.resource is not None for child in left.children.values()):
        pair.run(0.1)
    _end(pair, pair.right.sa)
    pair.run(5)
    assert (pair.left.sa, left.covered) == (left, False)
    pair.whole()


def test_both_ends_of_the_words() -> None:
    """RFC 9611 5.1, 5.2: no protocol, no SPI; the identifier only names it."""
    assert resources.info(replace(WIDE, resources=2)) == (Notify(NotifyType.SA_RESOURCE_INFO),)
    second = replace(WIDE, resources=2).members()[1]
    assert resources.info(second) == (Notify(NotifyType.SA_RESOURCE_INFO, b"1"),)
    assert resources.info(WIDE) == ()
    (notify,) = resources.info(second)
    assert (int(notify.type), notify.protocol, notify.spi) == (16444, 0, b"")
    assert NotifyType.TS_MAX_QUEUE == 48
