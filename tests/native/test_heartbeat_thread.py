"""gateway._native.Probes as the sender of heartbeats: what it seals is what the codec opens, and what it does is what the reference
does (gateway/ha/reference.py). Hostile datagrams, silence and numbers: native/tests/test_beat.c."""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.heartbeat_network import SeededRandom

from gateway import _native
from gateway.contract import Endpoint
from gateway.ha.beating import Arm, Once
from gateway.ha.message import Advertised, Echo, Message, Role, body, keyring, open_, seal
from gateway.ha.paths import Path
from gateway.ha.reference import Beats
from gateway.runtime.clock import boottime

NEW, OLD = b"the secret from now on, also long", b"the secret that was before it, too"
OURS, STRANGE = keyring([NEW, OLD], 7), keyring([b"somebody else's secret"], 7)
BOOT, PEERS = bytes(range(16)), (b"peer, first boot", b"peer, later boot")
NS = 1_000_000_000


class Both:
    """The thread and the reference, with the same program on the same path."""

    def __init__(self) -> None:
        self.native = _native.Probes()
        self.ours = socket.socket(type=socket.SOCK_DGRAM)
        self.peer = socket.socket(type=socket.SOCK_DGRAM)
        self.ours.bind(("127.0.0.1", 0))
        self.peer.bind(("127.0.0.2", 0))
        self.peer.settimeout(5)
        self.native.listen(self.ours.fileno(), "heartbeat")
        self.path = Path(Endpoint(*self.ours.getsockname()), Endpoint(*self.peer.getsockname()))
        self.reference = Beats(SeededRandom(1))

    def close(self) -> None:
        self.native.stop()
        self.ours.close()
        self.peer.close()

    def arm(self, arm: Arm) -> tuple[Message, Message]:
        """Both send at once; what each of them said."""
        self.reference.perform(arm, boottime())
        shortest, longest = (int(seconds * NS) for seconds in arm.interval)
        self.native.beat(
            arm.number, self.ours.fileno(), self.peer.getsockname(), arm.prefix, arm.body, arm.seal,
            arm.peer or bytes(16), b"".join(arm.opens), int(arm.echoed_at * NS), shortest, longest,
            int(arm.hold * NS), arm.at_once,
        )  # fmt: skip
        return self.said()

    def once(self, once: Once) -> tuple[Message, Message]:
        self.reference.perform(once, boottime())
        self.native.beat_once(once.number, once.body)
        return self.said()

    def said(self) -> tuple[Message, Message]:
        (out,) = self.reference.poll()
        return open_(self.peer.recv(1024), OURS), open_(out.data, OURS)

    def hear(self, data: bytes) -> None:
        before = boottime()
        self.peer.sendto(data, self.ours.getsockname())
        assert select.select([self.native.event_fd()], [], [], 5)[0]
        ((_, _, at, told),) = self.native.news()
        assert told == data
        assert before <= at <= boottime()
        self.reference.receive(data, at)


@pytest.fixture
def both() -> Iterator[Both]:
    made = Both()
    yield made
    made.close()


def program(path: Path, peer: bytes | None, echo: Echo, number: int = 2) -> Arm:
    told = Advertised(Role.ACTIVE, 200, 9, bytes(31) + b"\x01", software="gatewayd of a test")
    message = Message("gw-a", BOOT, 0, 0, echo=echo, advertised=told, revision=5, path=number)
    return Arm(
        number, path, OURS.prefix(BOOT, number), body(message), OURS.sealing(BOOT, number), (60.0, 60.0), 60.0, peer,
        OURS.opening(peer, number) if peer is not None else (), boottime() - 0.2, at_once=True,
    )  # fmt: skip


def like(one: Message, other: Message) -> bool:
    """But for the clocks, which are real; they are compared within 50 ms."""
    near = abs(one.sent_us - other.sent_us) < 50_000 and abs(one.echo.held_us - other.echo.held_us) < 50_000
    return near and replace(one, sent_us=0, echo=replace(one.echo, held_us=0)) == replace(
        other, sent_us=0, echo=replace(other.echo, held_us=0)
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_thread_says_what_the_reference_says(both: Both, seed: int) -> None:
    chance = random.Random(seed)
    echoes = 0
    for step in range(1, 120):
        peer = chance.choice((*PEERS, PEERS[0], None))
        keys = chance.choice((OURS, OURS, keyring([OLD], 7), STRANGE))
        heard = Message(
            "gw-b", chance.choice(PEERS), chance.randrange(1, 2 * step), chance.randrange(2**40), chance.randbytes(16),
            path=chance.choice((2, 2, 2, 3)),
        )  # fmt: skip
        match chance.randrange(4):
            case 0:
                echo = Echo(peer, chance.randrange(1, 2 * step), 7, 0, bytes(16)) if peer is not None else Echo()
                native, reference = both.arm(program(both.path, peer, chance.choice((echo, Echo()))))
                assert native.sequence == reference.sequence
                assert like(native, reference), step
                echoes += native.echo.sequence > 0
            case 1 if step > 20:
                message = Message("gw-a", BOOT, 0, 0, b"c" * 16, Echo(PEERS[1], 3, 4, 5, b"e" * 16), path=2)
                native, reference = both.once(Once(2, body(message)))
                assert like(native, reference), step
                assert native.echo == message.echo
            case _:
                data = bytearray(seal(heard, keys))
                if chance.random() < 0.2:
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                both.hear(bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))]))
    assert echoes > 3


def test_an_authentic_one_that_is_too_short_is_echoed_by_neither(both: Both) -> None:
    both.arm(program(both.path, PEERS[0], Echo()))
    both.hear(OURS.seal(PEERS[0], 2, 5, bytes(11)))
    native, reference = both.arm(program(both.path, PEERS[0], Echo()))
    assert native.echo == reference.echo == Echo()


def test_what_is_wrong_has_a_sentence(both: Both) -> None:
    arm = program(both.path, PEERS[0], Echo())
    right = {
        "path": 2, "fd": both.ours.fileno(), "remote": both.peer.getsockname(), "prefix": arm.prefix, "body": arm.body,
        "seal": arm.seal, "peer": PEERS[0], "open": b"".join(arm.opens), "echoed_ns": 0, "shortest_ns": NS,
        "longest_ns": NS, "hold_ns": NS, "at_once": False,
    }  # fmt: skip
    for wrong, sentence in (
        ({"path": 256}, "at most 256 paths"),
        ({"prefix": bytes(27)}, "a prefix has 28 octets"),
        ({"seal": bytes(35)}, "a key has 36 octets"),
        ({"peer": bytes(15)}, "a boot identifier has 16 octets"),
        ({"body": bytes(461)}, "more than 460 octets"),
        ({"body": bytes(83)}, "no heartbeat"),
        ({"open": bytes(5 * 36)}, "at most 4 keys of 36 octets"),
        ({"open": bytes(35)}, "at most 4 keys of 36 octets"),
        ({"shortest_ns": 0}, "interval"),
        ({"remote": ("nobody", 1)}, "nobody"),
    ):
        with pytest.raises(ValueError, match=sentence):
            both.native.beat(**{**right, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not armed"):
        both.native.beat_once(2, arm.body)
    both.native.beat_rest(2)
    both.native.beat(**right)  # type: ignore[arg-type]
    both.native.beat_once(2, arm.body)
    with pytest.raises(ValueError, match="no heartbeat"):
        both.native.beat_once(2, bytes(461))
    with pytest.raises(ValueError, match="another probe's"):
        both.native.add(9, "heartbeat", 9, both.ours.fileno(), "", both.peer.getsockname(), 0, 0)
