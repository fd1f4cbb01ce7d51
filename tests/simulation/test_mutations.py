"""What the simulator is worth: a node with one defect is caught within 200 schedules, by the invariant that is about it.

Each mutation is one of those mistakes that look like nothing in the code and cost packets, keys or memory in the field.
"""

from __future__ import annotations

from typing import Any

import pytest
from simulation.mutations import Mutation, catch, ladder_that_replays
from simulation.schedules import play

from gateway.deadlines import Deadlines
from gateway.ike import redirect, succession
from gateway.ike import sa as ike_sa
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.errors import PeerError
from gateway.ike.exchanges import child_negotiation, create_child, mobike, rekey_ike
from gateway.ike.keymat import Envelope
from gateway.ike.sa import IkeSa
from gateway.ike.window import Request, Window
from gateway.node.tunnel import Tunnel


def _drop_old_sa_early(patch: pytest.MonkeyPatch) -> None:
    whole = IkeSa.retire
    patch.setattr(IkeSa, "retire", lambda self, child, now, linger: whole(self, child, now, linger=False))


def _skip_nonce_compare(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(create_child.CreateChild, "_is_redundant", lambda self, nr: False)
    patch.setattr(rekey_ike, "min", lambda *nonces: b"", raising=False)


def _reuse_message_id(patch: pytest.MonkeyPatch) -> None:
    """The third request of every IKE_SA goes under the number of the second."""
    whole = Window.sent

    def sent(self: Window, request: Request) -> None:
        whole(self, request)
        if self.next_request == 3:
            self.next_request = 2

    patch.setattr(Window, "sent", sent)


def _send_before_the_peer_holds_it(patch: pytest.MonkeyPatch) -> None:
    """A responder sends on the new SA as soon as it has made it."""
    whole = child_negotiation.install_deferred

    def eager(sa: IkeSa, *arguments: Any) -> Any:
        child = whole(sa, *arguments)
        sa.activate(child)
        return child

    patch.setattr(child_negotiation, "install_deferred", eager)


def _keep_the_old_sa(patch: pytest.MonkeyPatch) -> None:
    """The DELETE after a rekey is forgotten."""
    whole = create_child.CreateChild._replace

    def forget(self: Any, sa: IkeSa, old: Any, new: Any, now: float) -> None:
        whole(self, sa, old, new, now)
        sa.queue.clear()

    patch.setattr(create_child.CreateChild, "_replace", forget)


def _swap_directions(patch: pytest.MonkeyPatch) -> None:
    whole = child_negotiation.install
    patch.setattr(child_negotiation, "install", lambda *a: whole(*a[:4], True, *a[5:]))


def _accept_without_checking(patch: pytest.MonkeyPatch) -> None:
    """A sealed message that does not verify is taken for an empty one."""
    whole = Envelope.open

    def careless(self: Envelope, prefix: bytes, data: bytes) -> bytes:
        try:
            return whole(self, prefix, data)
        except PeerError:
            return b""

    patch.setattr(Envelope, "open", careless)


def _follow_before_checking(patch: pytest.MonkeyPatch) -> None:
    """The peer's address is taken from a message before its ICV is looked at."""
    whole = IkeSa.receive

    def follow(self: IkeSa, message: Any, local: Any, remote: Any, now: float) -> None:
        if self.established:
            self.remote = remote
        whole(self, message, local, remote, now)

    patch.setattr(IkeSa, "receive", follow)


def _forget_a_timer(patch: pytest.MonkeyPatch) -> None:
    """Now and then a changed deadline is not looked at."""
    whole, count = Deadlines.touch, [0]

    def touch(self: Any, key: Any) -> None:
        count[0] += 1
        if count[0] % 50:
            whole(self, key)

    patch.setattr(Deadlines, "touch", touch)


def _keep_replaced_ike_sas(patch: pytest.MonkeyPatch) -> None:
    """An IKE_SA is taken out of the tables, but somebody still holds it."""
    whole: list[IkeSa] = []
    destroyed = IkeEndpoint.destroyed

    def keep(self: IkeEndpoint, sa: IkeSa, now: float) -> None:
        whole.append(sa)
        destroyed(self, sa, now)

    patch.setattr(IkeEndpoint, "destroyed", keep)


def _leave_an_sa_in_the_data_plane(patch: pytest.MonkeyPatch) -> None:
    whole = Tunnel.remove
    patch.setattr(Tunnel, "remove", lambda self, event: list(whole(self, event))[:1])


def _no_lingering(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ike_sa, "LINGER", 0.01)


def _take_a_repeat_for_new(patch: pytest.MonkeyPatch) -> None:
    """A request that was answered is served again, under its number."""
    whole = Window.check_request

    def check(self: Window, message_id: int) -> None:
        if message_id == self.cached_id and not self.answering:
            self.expected = message_id
        whole(self, message_id)

    patch.setattr(Window, "is_repeat", lambda self, message_id: False)
    patch.setattr(Window, "check_request", check)


def _send_where_nobody_answered(patch: pytest.MonkeyPatch) -> None:
    """ESP follows an UPDATE_SA_ADDRESSES at once."""
    whole = mobike.answer

    def answer(sa: IkeSa, message: Any) -> Any:
        told = whole(sa, message)
        if mobike.wants_move(sa, message):
            succession.moved(sa, sa.remote)
        return told

    patch.setattr(mobike, "answer", answer)


def _leave_before_arriving(patch: pytest.MonkeyPatch) -> None:
    """Who is sent elsewhere forgets at once what it has."""
    whole = redirect.heed

    def heed(sa: IkeSa, message: Any, now: float) -> bool:
        if goes := whole(sa, message, now):
            sa.destroy(now, "")
        return goes

    patch.setattr(redirect, "heed", heed)


MUTATIONS: dict[str, Mutation] = {
    "drop the old SA early": Mutation(_drop_old_sa_early, "dropped probe|does not hold inbound"),
    "skip the nonce compare": Mutation(
        _skip_nonce_compare, "beside another one|usable CHILD_SAs|without an excuse|does not come to rest"
    ),
    "reuse a message ID": Mutation(_reuse_message_id, "message ID|GCM IV"),
    "send before the peer holds it": Mutation(_send_before_the_peer_holds_it, "does not hold inbound|dropped probe"),
    "keep the old SA": Mutation(_keep_the_old_sa, "usable CHILD_SAs|beside another one"),
    "swap the directions": Mutation(_swap_directions, "different keys|key that another"),
    "accept without checking": Mutation(_accept_without_checking, "does not verify changed something|GCM IV"),
    "follow an address before checking": Mutation(
        _follow_before_checking, "does not verify changed something|from where nobody has answered"
    ),
    "forget a timer": Mutation(_forget_a_timer, "the timer is set for"),
    "keep IKE_SAs that are over": Mutation(_keep_replaced_ike_sas, "still in memory"),
    "leave an SA in the data plane": Mutation(_leave_an_sa_in_the_data_plane, "no IKE_SA knows"),
    "let nothing linger": Mutation(_no_lingering, "dropped probe"),
    "send where nobody answered": Mutation(_send_where_nobody_answered, "from where nobody has answered"),
    "leave before arriving": Mutation(_leave_before_arriving, "without an excuse|dropped probe|has a tunnel but no SA"),
    "serve a request twice": Mutation(_take_a_repeat_for_new, "message ID|GCM IV"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_node_with_a_defect_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.apply(monkeypatch)
    catch(mutation, play)


def test_a_failure_prints_a_ladder_and_replays_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    _drop_old_sa_early(monkeypatch)
    seed, first = ladder_that_replays(play)
    assert f"SIM_SEED={seed} pytest tests/simulation/test_mutations.py" in first
    for shown in (">b CREATE_CHILD_SA", "{", "SA(", "Nonce", "child-installed: CHILD_SA", "INFORMATIONAL", "D("):
        assert shown in first
    times = [float(line.split()[0]) for line in first.splitlines()[3:]]
    assert times == sorted(times) and len(times) > 20
