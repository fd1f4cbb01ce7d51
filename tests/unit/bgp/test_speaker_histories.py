"""The speaker against a model of ExaBGP through random histories: its tables agree with their definitions."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.exabgp_model import ExabgpModel, attribute, end_of_rib
from support.speaker import EDGE, EDGE2, FABRIC, SETTINGS, SITE, connected, of

from gateway.bgp.decision import decide
from gateway.bgp.events import (
    AnswersMissing,
    BestChanged,
    ProcessDown,
    ProcessUp,
    Reconfigure,
)
from gateway.bgp.link import WINDOW
from gateway.bgp.messages import render_announce
from gateway.bgp.policy import export, own_prefixes
from gateway.bgp.speaker import Speaker

PREFIXES = ["172.16.0.0/16", "172.17.0.0/16", "10.200.0.0/16", "169.254.1.0/24"]
ADDRESSES = st.sampled_from([EDGE, EDGE2, FABRIC])
ATTRIBUTES = st.builds(
    attribute, st.lists(st.sampled_from([65010, 65011, 65515, 65001, 7]), max_size=2), med=st.sampled_from([1, 2])
)
STEPS = st.one_of(
    st.tuples(st.just("announce"), ADDRESSES, st.sampled_from(PREFIXES), ATTRIBUTES),
    st.tuples(st.just("announce"), ADDRESSES, st.sampled_from(PREFIXES), ATTRIBUTES),
    st.tuples(st.just("withdraw"), ADDRESSES, st.sampled_from(PREFIXES)),
    st.tuples(st.just("down"), ADDRESSES),
    st.tuples(st.just("up"), ADDRESSES),
    st.tuples(st.just("end-of-rib"), ADDRESSES),
    st.tuples(st.just("answer"), st.integers(1, 5)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 40.0])),
    st.tuples(st.just("link-lost"), st.booleans()),
    st.tuples(st.just("exabgp-killed"), st.booleans()),
    st.tuples(st.just("reconfigure"), st.sampled_from([0, 1, 2])),
)
VARIANTS = (
    SETTINGS,
    replace(SETTINGS, advertise=(), never=(ip_network("172.17.0.0/16"),)),
    replace(SETTINGS, neighbors=(*SETTINGS.neighbors[:2], replace(SETTINGS.neighbors[2], advertise=(SITE,)))),
)


def apply(model: ExabgpModel, step: tuple[Any, ...], generation: int) -> None:
    kind, *args = step
    if kind in ("announce", "withdraw", "end-of-rib") and not model.peers[args[0]].up:
        return
    if kind == "announce":
        model.announce(args[0], args[1], args[0], args[2])
    elif kind == "withdraw":
        model.withdraw(args[0], args[1])
    elif kind == "end-of-rib":
        model.say(end_of_rib(args[0]))
    elif kind == "up" and not model.peers[args[0]].up:
        model.peer_up(args[0])
    elif kind == "down" and model.peers[args[0]].up:
        model.peer_down(args[0])
    elif kind == "answer":
        model.answer(args[0])
    elif kind == "advance":
        model.advance(args[0])
    elif kind == "reconfigure":
        model.command(Reconfigure(VARIANTS[args[0]]))
    elif kind in ("link-lost", "exabgp-killed"):
        interrupt(model, generation, killed=kind == "exabgp-killed", forget=args[0])


def interrupt(model: ExabgpModel, generation: int, *, killed: bool, forget: bool) -> None:
    model.command(ProcessDown())
    model.lose_answers()
    for peer in model.peers.values():
        if killed:
            peer.up = False
            peer.adj_out.clear()
            peer.adj_in.clear()
        elif forget:  # something happened while nobody listened
            peer.adj_in.pop(PREFIXES[0], None)
    model.command(ProcessUp(generation))


def brute_force(speaker: Speaker) -> dict[Any, Any]:
    found: dict[Any, list[Any]] = {}
    for peer in speaker._peers.values():
        for prefix in peer.adj_in.entries:
            candidate = peer.adj_in.candidate(prefix)
            if candidate is not None:
                found.setdefault(prefix, []).append(candidate)
    return {prefix: decide(candidates)[0].path for prefix, candidates in found.items()}


def check_tables(speaker: Speaker) -> None:
    expected = brute_force(speaker)
    assert {prefix: one.path for prefix, one in speaker.loc_rib.best.items()} == expected
    for peer in speaker._peers.values():
        wanted = {}
        for prefix in {*expected, *own_prefixes(speaker.settings, peer.settings)}:
            path = expected.get(prefix)
            source = speaker._peers[path.neighbor].role if path else None
            told = export(speaker.settings, peer.settings, prefix, path, source)
            if told is not None:
                wanted[prefix] = told
        assert peer.adj_out.wanted == wanted
        assert peer.adj_in.accepted == sum(not entry.rejected for entry in peer.adj_in.entries.values())
        assert peer.adj_in.stale <= peer.adj_in.entries.keys()


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_after_any_history_the_tables_agree_with_their_definitions(steps: list[tuple[Any, ...]]) -> None:
    model = connected()
    told: dict[Any, Any] = {}
    for number, step in enumerate(steps):
        apply(model, step, number + 2)
        check_tables(model.speaker)
        for change in of(model, BestChanged):
            if change.path is None:
                del told[change.prefix]  # never withdrawn without having been announced
            else:
                used = (change.path, change.others, change.backup)
                assert told.get(change.prefix) != used, "no change is told twice"
                told[change.prefix] = used
        model.effects.clear()
        best = model.speaker.loc_rib.best
        assert told == {prefix: (one.path, one.others, one.backup) for prefix, one in best.items()}
        assert len(model.unanswered) <= WINDOW


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_after_any_history_and_some_quiet_both_sides_agree(steps: list[tuple[Any, ...]]) -> None:
    """What ExaBGP was told is what we want told; what the peers last said is what we hold, and nothing else."""
    model = connected()
    for number, step in enumerate(steps):
        apply(model, step, number + 2)
    model.effects.clear()
    model.settle(130)  # whatever is stale has had its time
    for peer in model.speaker._peers.values():
        other = model.peers[str(peer.settings.address)]
        assert peer.up == other.up
        if not peer.up:
            assert not peer.adj_in.entries
            continue
        address = peer.settings.address
        assert other.adj_out == {p: render_announce(address, p, told) for p, told in peer.adj_out.wanted.items()}
        assert not peer.adj_in.stale
        assert {str(prefix) for prefix in peer.adj_in.entries} == set(other.adj_in)
    assert not of(model, AnswersMissing)
