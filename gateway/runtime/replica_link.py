"""The TCP session between the two gateways for copies of SAs (`ha/replica.py`, sealed as in `ha/replica_channel.py`).

The standby dials the active, on the number of the heartbeat's port. One session counts: the newest whose other end proved that it knows
the secret. Losing it costs nothing at once; the cores know until when a copy may be used.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from gateway.contract import Endpoint, RandomSource
from gateway.ha.replica import Record, Said
from gateway.ha.replica_channel import LONGEST, Channel, ChannelError
from gateway.node.inputs import ReplicaClosed, ReplicaCommand, ReplicaOpened, ReplicaSaid
from gateway.runtime.faults import explained, listening
from gateway.runtime.marking import mark_option
from gateway.runtime.replica_messages import MessageError, packed, unpacked

PATIENCE = 2.0
"""Seconds to open a session, and without an acknowledgement of what was sent."""
AGAIN, AGAIN_MOST = 0.2, 5.0
"""Seconds until it is tried again; doubled where it was refused."""
STRANGERS = 8
"""Sessions at a time whose other end has proved nothing yet."""
BEHIND = 128 << 20
"""Octets that wait to be sent, beyond which the session is given up."""
READ = 1 << 16

log = logging.getLogger(__name__)
Tell = Callable[[str, str, str], None]
"""Level, event, text."""


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    local: Endpoint
    remote: Endpoint
    cluster: int
    secrets: tuple[bytes, ...] = field(repr=False)


class ReplicaLink:
    """`follow` at the start and at each reload, `close` at the end."""

    def __init__(self, mark: int, random: RandomSource, command: Callable[[ReplicaCommand], None], tell: Tell) -> None:
        self._mark, self._random, self._command, self._tell = mark, random, command, tell
        self._settings: ReplicaSettings | None = None
        self._server: asyncio.Server | None = None
        self._session: tuple[Channel, asyncio.StreamWriter] | None = None
        self._strangers = 0
        self._wanted = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said = ""

    async def follow(self, settings: ReplicaSettings | None) -> None:
        """OSError (a sentence) when the port is not to be had: all is as before."""
        before = self._settings
        if settings == before:
            return
        if settings is None:
            await self._stop()
            self._settings = None
            return
        if before is None or settings.local != before.local:
            old, self._server = self._server, await self._listener(settings.local)
            if old is not None:
                old.close()
        # Who comes from now on is met by the new ones
        self._settings = settings
        await self._end_sessions()
        self._spawn(self._dial(settings))

    def seek(self, wanted: bool) -> None:
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()

    def say(self, said: Said) -> None:
        if self._session is None:
            return
        channel, writer = self._session
        content = packed(said)
        if isinstance(said, Record) and len(content) > LONGEST:
            self._complain(f"{said.name} has too many SAs: {len(content)} octets")
            content = packed(Record(said.number, said.name, None))
        try:
            writer.write(channel.seal(content))
        except (ChannelError, OSError, RuntimeError) as error:
            # uvloop says RuntimeError of a transport that is closed; whoever reads from it says that it is over
            self._complain(str(error))
            writer.transport.abort()
        if writer.transport.get_write_buffer_size() > BEHIND:
            writer.transport.abort()

    def end(self) -> None:
        """The session there is."""
        session, self._session = self._session, None
        if session is not None:
            session[1].transport.abort()

    async def close(self) -> None:
        await self._stop()

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._end_sessions()

    async def _end_sessions(self) -> None:
        """Those there are, and what dials."""
        if self._session is not None:
            self.end()
            self._command(ReplicaClosed())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- sessions -----------------------------------------------------------------------------------------------

    async def _dial(self, settings: ReplicaSettings) -> None:
        pause = AGAIN
        while True:
            await self._wanted.wait()
            refused = False
            if self._session is None:
                refused = await self._dial_once(settings)
            pause = min(2 * pause, AGAIN_MOST) if refused else AGAIN
            await asyncio.sleep(pause)

    async def _dial_once(self, settings: ReplicaSettings) -> bool:
        """Whether it makes no sense to try again at once."""
        with suppress(OSError, TimeoutError):
            with ExitStack() as unless_taken:
                made = unless_taken.enter_context(self._socket(settings.local))
                made.bind((settings.local.host, 0))
                async with asyncio.timeout(PATIENCE):
                    await asyncio.get_running_loop().sock_connect(made, (settings.remote.host, settings.remote.port))
                reader, writer = await asyncio.open_connection(sock=made)
                unless_taken.pop_all()
            return await self._converse(reader, writer, settings, dialed=True)
        return False

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        settings = self._settings
        peer = writer.get_extra_info("peername")  # None where it is gone already
        if settings is None or not peer or peer[0] != settings.remote.host or self._strangers >= STRANGERS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await self._converse(reader, writer, settings, dialed=False)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: ReplicaSettings, *, dialed: bool
    ) -> bool:
        """Until it ends; whether one end refused the other."""
        channel = Channel(settings.secrets, settings.cluster, dialed, self._random)
        self._tune(writer)
        writer.write(channel.hello)
        try:
            await self._introduce(channel, reader, writer, dialed)
            while octets := await reader.read(READ):
                self._heard(channel, octets)
        except (ChannelError, MessageError) as error:
            self._complain(str(error))
            return True
        except (OSError, TimeoutError):
            pass
        except Exception:
            # Whatever the daemon could not do with one message: the next session begins from the whole state
            log.exception("the session for copies of SAs ended", extra={"event": "replica-failed"})
            return True
        finally:
            writer.transport.abort()
            if self._session is not None and self._session[0] is channel:
                self._session = None
                self._command(ReplicaClosed())
        return False

    async def _introduce(
        self, channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dialed: bool
    ) -> None:
        """Each proves by an empty frame that it knows the secret; only then the session is the one that counts."""
        self._strangers += 1
        proved, rest = False, []
        try:
            async with asyncio.timeout(PATIENCE):
                while not channel.authentic:
                    if not (octets := await reader.read(READ)):
                        raise ConnectionResetError
                    rest += list(channel.receive(octets))
                    if channel.ready and not proved:
                        proved = True
                        writer.write(channel.seal(b""))
        finally:
            self._strangers -= 1
        self.end()
        self._session, self._said = (channel, writer), ""
        self._command(ReplicaOpened(dialed))
        for content in rest:
            self._take(content)

    def _heard(self, channel: Channel, octets: bytes) -> None:
        for content in channel.receive(octets):
            if self._session is not None and self._session[0] is channel:
                self._take(content)

    def _take(self, content: bytes) -> None:
        if content:
            self._command(ReplicaSaid(unpacked(content)))

    def _complain(self, text: str) -> None:
        """Once for each reason, not five times a second."""
        if text != self._said:
            self._said = text
            self._tell("warning", "replica-refused", f"no copy of SAs is made: {text}")

    # --- sockets ------------------------------------------------------------------------------------------------

    async def _listener(self, local: Endpoint) -> asyncio.Server:
        with ExitStack() as unless_taken, explained(f"replication {local}", listening("ha", "local_address")):
            made = unless_taken.enter_context(self._socket(local))
            made.bind((local.host, local.port))
            server = await asyncio.start_server(self._answered, sock=made)
            unless_taken.pop_all()
            return server

    def _socket(self, local: Endpoint) -> socket.socket:
        made = socket.socket(
            socket.AF_INET6 if ":" in local.host else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
        )
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(*mark_option(self._mark))
        return made

    @staticmethod
    def _tune(writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PATIENCE * 1000))

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name="replication")  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
