"""The session of the copies over real sockets: who counts, who does not, and what is said when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.contract import Endpoint
from gateway.ha.replica import Begin, Gone, Ping, Pong, Record, Whole
from gateway.node.inputs import ReplicaClosed, ReplicaCommand, ReplicaOpened, ReplicaSaid
from gateway.runtime.faults import Unavailable
from gateway.runtime.randomness import SystemRandom
from gateway.runtime.replica_link import STRANGERS, ReplicaLink, ReplicaSettings
from gateway.runtime.replica_messages import MessageError, packed, unpacked

SECRET, OTHER = b"a secret of the pair, long enough", b"another secret, also long enough"
HOSTS = ("127.0.0.1", "127.0.0.2")


class End:
    """One gateway's link, and what it told."""

    def __init__(self, at: int, port: int, secret: bytes = SECRET) -> None:
        self.commands: list[ReplicaCommand] = []
        self.told: list[str] = []
        self.link = ReplicaLink(
            0, SystemRandom(), self.commands.append, lambda level, event, text: self.told.append(text)
        )
        self.settings = ReplicaSettings(Endpoint(HOSTS[at], port), Endpoint(HOSTS[1 - at], port), 0, (secret,))

    async def wait(self, command: ReplicaCommand) -> None:
        await eventually(lambda: command in self.commands)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def conversation(story: Callable[[End, End], Awaitable[None]], *secrets: bytes) -> None:
    """The second one dials."""
    with socket.socket() as probe:
        probe.bind((HOSTS[0], 0))
        port = probe.getsockname()[1]

    async def run() -> None:
        found = End(0, port, secrets[0]), End(1, port, secrets[1])
        try:
            for end in found:
                await end.link.follow(end.settings)
            found[1].link.seek(True)
            await story(*found)
        finally:
            for end in found:
                await end.link.close()

    asyncio.run(run())


def test_messages_are_what_they_were() -> None:
    for said in (Begin(7, 12.5), Record(3, "sïte", None), Whole(9), Ping(1, 2, 3.5), Pong(4), Gone()):
        assert unpacked(packed(said)) == said


@pytest.mark.parametrize(
    "octets", [b"", b"X", b"B", b"R" + bytes(3), b"R" + bytes(8) + b"\0\1\xff", b"Rxxxxxxxx\0\1ajunk", b"P1"]
)
def test_what_is_no_message_is_named(octets: bytes) -> None:
    with pytest.raises(MessageError):
        unpacked(octets)


def test_another_release_is_told_from_a_broken_message() -> None:
    said = bytearray(packed(Begin(7, 0.0)))
    said[2] ^= 0x40
    with pytest.raises(MessageError, match="upgrade both"):
        unpacked(bytes(said))


def test_both_hear_each_other_until_one_ends_it_and_then_anew() -> None:
    async def story(active: End, standby: End) -> None:
        await active.wait(ReplicaOpened(dialed=False))
        await standby.wait(ReplicaOpened(dialed=True))
        active.link.say(Begin(7, 1.0))
        standby.link.say(Ping(1, 0, 3.0))
        await standby.wait(ReplicaSaid(Begin(7, 1.0)))
        await active.wait(ReplicaSaid(Ping(1, 0, 3.0)))
        active.commands.clear()
        standby.link.end()
        await active.wait(ReplicaClosed())
        await active.wait(ReplicaOpened(dialed=False))

    conversation(story, SECRET, SECRET)


def test_who_does_not_know_the_secret_is_no_session() -> None:
    async def story(active: End, standby: End) -> None:
        await eventually(lambda: bool(active.told or standby.told))
        await asyncio.sleep(0.7)
        assert active.commands == standby.commands == []
        said = active.told + standby.told
        assert all("does not have the secret" in text for text in said)
        assert len(said) <= 2, "five times a second would fill the journal"

    conversation(story, SECRET, OTHER)


def test_strangers_neither_end_the_session_nor_crowd_it_out() -> None:
    async def story(active: End, standby: End) -> None:
        await active.wait(ReplicaOpened(dialed=False))
        made = []
        for number in range(STRANGERS + 4):
            stranger = socket.socket()
            stranger.bind((HOSTS[1], 0))
            stranger.connect((active.settings.local.host, active.settings.local.port))
            stranger.send(b"GWRS\x01" + bytes(range(64)) if number % 2 else b"\0" * 200)
            made.append(stranger)
        await asyncio.sleep(0.2)
        standby.link.say(Ping(5, 0, 3.0))
        await active.wait(ReplicaSaid(Ping(5, 0, 3.0)))
        assert ReplicaClosed() not in active.commands
        for stranger in made:
            stranger.close()

    conversation(story, SECRET, SECRET)


def test_what_is_too_long_to_be_copied_ends_the_session_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(active: End, standby: End) -> None:
        await active.wait(ReplicaOpened(dialed=False))
        monkeypatch.setattr("gateway.ha.replica_channel.LONGEST", 8)
        active.link.say(Record(1, "name", None))
        await active.wait(ReplicaClosed())
        assert "too many" in active.told[0]

    conversation(story, SECRET, SECRET)


def test_a_message_of_another_release_ends_the_session_with_a_sentence() -> None:
    async def story(active: End, standby: End) -> None:
        await active.wait(ReplicaOpened(dialed=False))
        channel, writer = active.link._session or pytest.fail("no session")
        writer.write(channel.seal(b"Zwhat"))
        await standby.wait(ReplicaClosed())
        assert "does not know" in standby.told[0]

    conversation(story, SECRET, SECRET)


def test_a_port_that_is_not_to_be_had_leaves_the_session_as_it_is() -> None:
    async def story(active: End, standby: End) -> None:
        await active.wait(ReplicaOpened(dialed=False))
        with socket.socket() as taken:
            taken.bind((HOSTS[0], 0))
            taken.listen()
            elsewhere = Endpoint(HOSTS[0], taken.getsockname()[1])
            with pytest.raises(Unavailable, match=r"replication .*already in use.*ha\.port"):
                await active.link.follow(replace(active.settings, local=elsewhere))
        assert ReplicaClosed() not in active.commands
        active.link.say(Begin(7, 1.0))
        await standby.wait(ReplicaSaid(Begin(7, 1.0)))
        await active.link.follow(active.settings)
        assert ReplicaClosed() not in active.commands, "that is what it has"

    conversation(story, SECRET, SECRET)


def test_another_secret_at_the_same_port_begins_another_session() -> None:
    async def story(active: End, standby: End) -> None:
        await active.wait(ReplicaOpened(dialed=False))
        active.commands.clear()
        await active.link.follow(replace(active.settings, secrets=(OTHER, SECRET)))
        await active.wait(ReplicaClosed())
        await active.wait(ReplicaOpened(dialed=False))

    conversation(story, SECRET, SECRET)
