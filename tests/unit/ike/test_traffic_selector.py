"""Narrowing against a brute-force model, and what an answer may be (RFC 7296 2.9, 3.13)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.ike.errors import PeerError, Violation
from gateway.ike.payloads import TrafficSelector
from gateway.ike.registry import NotifyType
from gateway.ike.traffic_selector import (
    check_narrowed,
    contains,
    describe,
    describe_all,
    from_range,
    intersection,
    narrow,
)

Packet = tuple[int, int, int, int]
ADDRESSES, PORTS, PROTOCOLS = range(8), range(4), (6, 17)
# Port 3 of the model is the last port, so that "any port" exists in it
REAL_PORT = {0: 0, 1: 1, 2: 2, 3: 65535}


def address(number: int, kind: int) -> bytes:
    return number.to_bytes(4 if kind == 7 else 16, "big")


selectors = st.builds(
    lambda kind, protocol, ports, addresses: TrafficSelector(
        kind,
        protocol,
        REAL_PORT[ports[0]],
        REAL_PORT[ports[1]],
        address(addresses[0], kind) + address(addresses[1], kind),
    ),
    st.sampled_from([7, 7, 7, 8]),
    st.sampled_from([0, 6, 17]),
    st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)),
    st.tuples(st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES)),
)
lists = st.lists(selectors, min_size=1, max_size=4)


def packets(chosen: Iterable[TrafficSelector]) -> set[Packet]:
    """Every packet of the small world that is selected."""
    return {
        (kind, protocol, port, number)
        for selector in chosen
        for kind in (7, 8)
        for protocol in PROTOCOLS
        for port in PORTS
        for number in ADDRESSES
        if selector.type == kind
        and selector.protocol in (0, protocol)
        and selector.start_port <= REAL_PORT[port] <= selector.end_port
        and selector.first <= address(number, kind) <= selector.last
    }


@settings(max_examples=400, deadline=None)
@given(lists, lists)
def test_narrowing_gives_exactly_what_both_select(
    received: list[TrafficSelector], allowed: list[TrafficSelector]
) -> None:
    common = packets(received) & packets(allowed)
    if not common:
        with pytest.raises(PeerError) as refused:
            narrow(received, allowed)
        assert (refused.value.why, refused.value.notify) == (Violation.TRAFFIC_SELECTORS, NotifyType.TS_UNACCEPTABLE)
        return
    found = narrow(received, allowed)
    assert packets(found) == common
    assert check_narrowed(received, found) == found
    # None of them is superfluous
    assert not any(contains(one, other) for one in found for other in found if one is not other)


@settings(max_examples=200, deadline=None)
@given(selectors, selectors)
def test_intersection_and_containment_agree_with_the_model(left: TrafficSelector, right: TrafficSelector) -> None:
    common = intersection(left, right)
    assert packets([common] if common else []) == packets([left]) & packets([right])
    if contains(left, right):
        assert packets([right]) <= packets([left])


@settings(max_examples=200, deadline=None)
@given(lists, lists)
def test_an_answer_may_only_narrow(sent: list[TrafficSelector], received: list[TrafficSelector]) -> None:
    try:
        accepted = check_narrowed(sent, received)
    except PeerError:
        accepted = ()
    assert accepted in ((), tuple(received))
    assert packets(accepted) <= packets(sent)


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(PeerError, match="answered nothing"):
        check_narrowed([from_range(bytes(4), b"\xff" * 4)], [])


def test_selectors_of_unknown_types_are_skipped() -> None:
    """RFC 7296 3.13.1."""
    good = from_range(bytes(4), b"\xff" * 4)
    for addresses in (b"", b"abc", bytes(8), bytes(32)):
        strange = TrafficSelector(9, 0, 0, 65535, addresses)
        assert narrow([strange, good], [good]) == (good,)
        with pytest.raises(PeerError, match="traffic_selectors"):
            narrow([strange], [good])
        assert describe(strange)


def test_opaque_and_reversed_ports_select_nothing() -> None:
    """RFC 7296 3.13.1: OPAQUE is 65535 to 0; we have no policy for fragments alone."""
    everything = from_range(bytes(4), b"\xff" * 4)
    opaque = TrafficSelector(7, 0, 65535, 0, bytes(4) + b"\xff" * 4)
    assert intersection(everything, opaque) is None
    assert not contains(everything, opaque)
    with pytest.raises(PeerError, match=r"proto|peer asks"):
        narrow([opaque], [everything])


def test_narrowing_never_gives_more_selectors_than_fit_an_answer() -> None:
    """One octet counts them on the wire (RFC 7296 3.13): 255 of the peer's times two of ours must not break our answer."""
    ours = [from_range(bytes(4), b"\x7f\xff\xff\xff"), from_range(b"\x80\0\0\0", b"\xff" * 4)]
    received = [TrafficSelector(7, 6, port, port, bytes(4) + b"\xff" * 4) for port in range(1, 256)]
    found = narrow(received, ours)
    assert len(found) == 255
    assert all(
        any(contains(one, kept) for one in received) and any(contains(one, kept) for one in ours) for kept in found
    )


def test_selectors_for_people() -> None:
    assert describe(from_range(b"\x0a\0\0\0", b"\x0a\0\xff\xff")) == "10.0.0.0/16"
    assert describe(from_range(b"\x0a\0\0\1", b"\x0a\0\0\1")) == "10.0.0.1/32"
    assert describe(from_range(b"\x0a\0\0\1", b"\x0a\0\0\6")) == "10.0.0.1-10.0.0.6"
    assert describe(from_range(bytes(16), b"\xff" * 16)) == "::/0"
    assert describe(TrafficSelector(7, 6, 80, 443, bytes(8))) == "0.0.0.0/32[proto 6][port 80-443]"


def test_hundreds_of_selectors_are_told_in_short() -> None:
    many = [from_range(bytes([10, 0, number, 0]), bytes([10, 0, number, 255])) for number in range(200)]
    told = describe_all(many)
    assert told.startswith("10.0.0.0/24 10.0.1.0/24")
    assert told.endswith("10.0.15.0/24 and 184 more")
