"""NAT detection, port 4500, keepalives, a peer that moves (RFC 7296 2.23, RFC 3948)."""

from __future__ import annotations

import dataclasses
import hashlib
from ipaddress import ip_address

import pytest
from support.ike_pair import LEFT, NAME, RIGHT, Flight, Pair

from gateway.contract import Endpoint, Transmit
from gateway.ike.commands import Initiate, PeerMoved
from gateway.ike.events import ChildInstall, ChildMoved
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.message import Header, Message
from gateway.ike.nat import NatResult, detect, detection_hash
from gateway.ike.payloads import Notify
from gateway.ike.registry import ExchangeType, Flags, NotifyType

SOURCE, TARGET = NotifyType.NAT_DETECTION_SOURCE_IP, NotifyType.NAT_DETECTION_DESTINATION_IP
HERE, THERE = Endpoint("192.0.2.1", 500), Endpoint("203.0.113.7", 500)


def message(*notifies: Notify) -> Message:
    return Message(Header(0x0102, 0x0304, ExchangeType.IKE_SA_INIT, Flags.RESPONSE, 0), notifies)


def good(endpoint: Endpoint) -> bytes:
    return detection_hash(0x0102, 0x0304, endpoint)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_the_hash_is_the_rfc_s(host: str) -> None:
    """RFC 7296 2.23: SHA-1 of SPIs in the order of the header, address, port."""
    octets = bytes.fromhex("00000000000001020000000000000304") + ip_address(host).packed + b"\x11\x94"
    assert detection_hash(0x0102, 0x0304, Endpoint(host, 4500)) == hashlib.sha1(octets).digest()


@pytest.mark.parametrize(
    ("notifies", "result"),
    [
        ((), NatResult()),
        ((Notify(SOURCE, good(THERE)),), NatResult()),
        ((Notify(TARGET, good(HERE)),), NatResult()),
        ((Notify(SOURCE, good(THERE)), Notify(TARGET, good(HERE))), NatResult(True, False, False)),
        ((Notify(SOURCE, good(HERE)), Notify(TARGET, good(HERE))), NatResult(True, False, True)),
        ((Notify(SOURCE, good(THERE)), Notify(TARGET, good(THERE))), NatResult(True, True, False)),
        ((Notify(SOURCE, bytes(20)), Notify(TARGET, bytes(20))), NatResult(True, True, True)),
        # Several sources: one match is enough
        (
            (Notify(SOURCE, bytes(20)), Notify(SOURCE, good(THERE)), Notify(TARGET, good(HERE))),
            NatResult(True, False, False),
        ),
        # VPP 2026: a NAT_DETECTION of a length other than 20 is a mismatch and nothing worse
        ((Notify(SOURCE, b""), Notify(TARGET, good(HERE) + b"\0")), NatResult(True, True, True)),
    ],
)
def test_detection(notifies: tuple[Notify, ...], result: NatResult) -> None:
    assert detect(message(*notifies), HERE, THERE) == result


# --- whole handshakes through a NAT -----------------------------------------------------------------------------------------


class Nat:
    """The left host's ports are seen `shift` higher."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.shift = pair, 31000
        pair.rewrite = self.translate

    def translate(self, flight: Flight) -> Flight | None:
        assert flight.transmit is not None
        data, local, remote = flight.transmit.data, flight.transmit.local, flight.transmit.remote
        if flight.receiver is self.pair.right:
            data = flight.octets  # `Flight` knows the marker by the port that changes here
            return dataclasses.replace(flight, transmit=Transmit(data, Endpoint(LEFT, local.port + self.shift), remote))
        inside = remote.port - self.shift
        if inside not in (500, 4500):
            return None  # a port the NAT has forgotten
        return dataclasses.replace(flight, transmit=Transmit(data, local, Endpoint(LEFT, inside)))


def natted() -> tuple[Pair, Nat]:
    pair = Pair(encap=False)
    nat = Nat(pair)
    pair.left.command(Initiate(NAME))
    pair.settle()
    return pair, nat


def test_without_a_nat_nothing_moves_to_4500() -> None:
    pair = Pair(encap=False)
    pair.establish()
    for host in pair.hosts:
        assert (host.sa.local.port, host.sa.remote.port) == (500, 500)
        assert not host.sa.encapsulate
        assert host.seen(ChildInstall)[0].encapsulate is False


def test_a_nat_is_found_and_ike_auth_goes_to_4500_with_the_marker() -> None:
    pair, _ = natted()
    left, right = pair.left.sa, pair.right.sa
    assert (left.nat.local, left.nat.remote) == (True, False)
    assert (right.nat.local, right.nat.remote) == (False, True)
    assert (left.local, left.remote) == (Endpoint(LEFT, 4500), Endpoint(RIGHT, 4500))
    assert (right.local, right.remote) == (Endpoint(RIGHT, 4500), Endpoint(LEFT, 35500))
    auth = next(f for f in pair.sent if f.message.header.exchange == ExchangeType.IKE_AUTH)
    assert auth.transmit is not None
    assert auth.transmit.data[:4] == bytes(4)
    for host in pair.hosts:
        assert host.seen(ChildInstall)[0].encapsulate is True


def test_forced_encapsulation_makes_the_peer_see_a_nat() -> None:
    pair = Pair(encap=True)
    pair.configure(pair.right, encap=False)
    pair.establish()
    assert pair.right.sa.nat.remote
    assert all(host.sa.encapsulate for host in pair.hosts)
    assert pair.right.sa.local.port == 4500


def test_the_side_behind_the_nat_keeps_it_open_and_only_that_side() -> None:
    """RFC 3948 4: a keepalive of one octet after 20 s of silence of ours."""
    pair, _ = natted()
    start = len(pair.sent)
    pair.hold(19.9)
    assert len(pair.sent) == start
    pair.hold(40.2)
    keepalives = [f.transmit.data for f in pair.sent[start:] if f.transmit is not None]
    assert keepalives == [b"\xff"] * 3
    assert {f.receiver for f in pair.sent[start:]} == {pair.right}


def test_a_nat_that_changes_its_port_is_followed_by_the_responder() -> None:
    """RFC 7296 2.23: the next message that verifies shows the new port; the CHILD_SAs are told."""
    pair, nat = natted()
    nat.shift = 40000
    pair.left.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.settle()
    assert pair.right.sa.remote == Endpoint(LEFT, 44500)
    moved = pair.right.seen(ChildMoved)[-1]
    (child,) = pair.right.sa.children.values()
    assert (moved.spi_out, moved.remote) == (child.spi_out, Endpoint(LEFT, 44500))
    assert pair.left.sa.exchange is None


def test_the_side_behind_the_nat_does_not_follow() -> None:
    """RFC 7296 2.23: a peer that is not behind a NAT does not move."""
    pair, _ = natted()
    before = pair.left.sa.remote
    pair.right.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.deliver(remote=Endpoint(RIGHT, 9999))
    assert pair.left.sa.remote == before


def test_esp_that_verified_from_elsewhere_moves_the_peer_and_nothing_else_does() -> None:
    pair, _ = natted()
    (child,) = pair.right.sa.children.values()
    new = Endpoint("198.51.100.2", 1234)
    for wrong in (0, child.spi_out, child.spi_in ^ 1):
        pair.right.command(PeerMoved(NAME, wrong, new))
        assert pair.right.sa.remote != new
    pair.right.command(PeerMoved(NAME, child.spi_in, new))
    assert pair.right.sa.remote == new
    assert pair.right.seen(ChildMoved)[-1].remote == new
    pair.left.command(PeerMoved(NAME, next(iter(pair.left.sa.children)), new))
    assert pair.left.sa.remote == Endpoint(RIGHT, 4500)


def test_without_a_nat_esp_from_elsewhere_moves_nobody() -> None:
    pair = Pair(encap=False)
    pair.establish()
    (child,) = pair.right.sa.children.values()
    pair.right.command(PeerMoved(NAME, child.spi_in, Endpoint("198.51.100.2", 1234)))
    assert pair.right.sa.remote == Endpoint(LEFT, 500)


# --- IKE on the other port ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("here", [500, 4500])
def test_an_answer_from_port_500_does_not_take_the_tunnel_there(here: int) -> None:
    """Interop: some peers answer from 500 though all goes between the ports 4500. ESP sent to 500 would be read as IKE."""
    pair = Pair(encap=True)
    pair.establish()
    moved = len(pair.left.seen(ChildMoved))
    pair.left.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    pair.deliver()
    pair.receive(pair.left, pair.drop().octets, Endpoint(RIGHT, 500), Endpoint(LEFT, here))
    assert pair.left.sa.exchange is None
    assert (pair.left.sa.local.port, pair.left.sa.remote) == (4500, Endpoint(RIGHT, 4500))
    assert len(pair.left.seen(ChildMoved)) == moved


def test_a_request_from_port_500_is_answered_there_and_moves_nothing() -> None:
    """RFC 7296 2.11: the answer goes to the address and port that the request came from."""
    pair = Pair(encap=True)
    pair.establish()
    pair.left.sa.enqueue(Liveness(), pair.now)
    pair.drain()
    for _ in range(2):  # the second time it is a repeat
        (request,) = [flight for flight in pair.sent[-2:] if flight.receiver is pair.right][-1:]
        pair.receive(pair.right, request.octets, Endpoint(LEFT, 500), Endpoint(RIGHT, 500))
        answer = pair.sent[-1].transmit
        assert answer is not None
        assert (answer.local, answer.remote) == (Endpoint(RIGHT, 500), Endpoint(LEFT, 500))
        assert pair.right.sa.remote == Endpoint(LEFT, 4500)


def test_ike_that_stayed_on_500_goes_along_when_its_esp_moves() -> None:
    """Else it would leave from 500 to 4500, without the marker that is expected there (RFC 3948 2.2)."""
    pair = Pair(encap=False)
    pair.establish()
    pair.configure(pair.right, encap=True)
    sa = pair.right.sa
    assert sa.local.port == 500
    (child,) = sa.children.values()
    pair.right.command(PeerMoved(NAME, child.spi_in, Endpoint(LEFT, 61234)))
    assert (sa.local, sa.remote) == (Endpoint(RIGHT, 4500), Endpoint(LEFT, 61234))
