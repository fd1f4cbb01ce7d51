"""What an operator may take out of the daemon for a while: keys for Wireshark, and the outer packets of a tunnel.

Off unless the configuration allows it ([observe]), for a limited time, told in the journal with who asked, shown as a
problem while it goes on, and over as soon as the asker goes. Nothing is written by the daemon: what it discloses goes
to the asker over the control socket, and gatewayctl, with the asker's own rights, writes the files. So the daemon needs
no right to write anywhere, cannot be made to write into another's place, and leaves no keys behind.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from gateway import __version__
from gateway.config.model import Observe
from gateway.contract import Endpoint
from gateway.esp.dataplane import Limits
from gateway.ike.settings import IKE_PORT, NATT_PORT
from gateway.node.gateway import Gateway
from gateway.node.security_associations import parameters
from gateway.observe import pcapng
from gateway.observe.keylog import ESP_TABLE, IKE_TABLE, esp_line, ike_line
from gateway.runtime.capture_socket import CaptureSocket, Packet

TICK = 0.1
AT_ONCE = 4
"""Disclosures that may go on at the same time."""
OCTETS_MAX = 64 << 20
"""Of one capture: it may have to wait in memory for a slow reader."""

Piece = dict[str, object]
"""`begun`: the first; `file` with `text` (a line) or `data` (base64); `end`: the last sentence."""
Audit = Callable[[str, str, str], None]
"""(event, connection, text)"""


class Refused(Exception):
    """A sentence for who asked."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asked for. `asker` in words."""

    kind: str
    connection: str
    seconds: float
    packets: int
    asker: str


@dataclass(slots=True)
class _Session:
    wish: Wish
    ends_at: float
    outcome: str = "the asker left"

    def __str__(self) -> str:
        what = "keys" if self.wish.kind == "keylog" else "outer packets"
        return f"{what} of connection {self.wish.connection} are being disclosed to {self.wish.asker}"


class Disclosures:
    """All that go on. `allowed` gives the configuration of the moment."""

    def __init__(self, node: Gateway, allowed: Callable[[], Observe], audit: Audit) -> None:
        self._node = node
        self._allowed = allowed
        self._audit = audit
        self._sessions: list[_Session] = []
        self._logs: list[_KeyLog] = []
        self._closed = False

    # --- what the daemon tells ----------------------------------------------------------------------------------

    def sent(self) -> None:
        """An IKE message goes out: by then a new IKE_SA has its keys, and the CHILD_SA it answers for is installed."""
        for log in self._logs:
            log.look()

    def close(self) -> None:
        """The daemon stops: all of them end at their next tick."""
        self._closed = True

    def problems(self) -> tuple[str, ...]:
        """What must not be forgotten, as sentences."""
        return tuple(str(session) for session in self._sessions)

    # --- what an operator asks ----------------------------------------------------------------------------------

    async def disclose(self, wish: Wish) -> AsyncGenerator[Piece | None, None]:
        """Pieces as they come, None when there is nothing to tell. Refused comes before the first."""
        tunnel = self._node.tunnels.get(wish.connection)
        if tunnel is None:
            raise Refused(f"no connection {wish.connection!r}")
        if not self._goes_on(wish):
            key = f"observe.allow_{wish.kind}"
            raise Refused(f"{key} is not true in the configuration; set it, reload, and take it back afterwards")
        if len(self._sessions) >= AT_ONCE:
            raise Refused(f"{AT_ONCE} disclosures go on already")
        make = self._keys if wish.kind == "keylog" else self._packets
        with self._session(wish) as session:
            async for piece in make(session):
                yield piece

    @contextmanager
    def _session(self, wish: Wish) -> Iterator[_Session]:
        session = _Session(wish, time.monotonic() + wish.seconds)
        self._sessions.append(session)
        self._audit(f"{wish.kind}-started", wish.connection, f"{session} for {wish.seconds:g} s")
        try:
            yield session
        finally:
            self._sessions.remove(session)
            self._audit(f"{wish.kind}-ended", wish.connection, f"{wish.kind} for {wish.asker} ended: {session.outcome}")

    def _goes_on(self, wish: Wish) -> bool:
        allowed = self._allowed()
        permitted = allowed.allow_keylog if wish.kind == "keylog" else allowed.allow_capture
        return permitted and wish.connection in self._node.tunnels

    def _lasts(self, session: _Session) -> bool:
        if self._closed or time.monotonic() >= session.ends_at:
            return False
        return self._goes_on(session.wish)

    async def _keys(self, session: _Session) -> AsyncGenerator[Piece | None, None]:
        log = _KeyLog(self._node, session.wish.connection)
        self._logs.append(log)
        try:
            yield {"begun": str(session)}
            while self._lasts(session):
                log.look()
                for piece in log.taken():
                    yield piece
                yield None
                await asyncio.sleep(TICK)
            for piece in log.taken():
                yield piece
            session.outcome = str(log)
            yield {"end": session.outcome}
        finally:
            self._logs.remove(log)

    async def _packets(self, session: _Session) -> AsyncGenerator[Piece | None, None]:
        settings = self._node.tunnels[session.wish.connection].settings.ike
        ports = sorted({IKE_PORT, NATT_PORT, settings.local.port, settings.remote.port})
        try:
            source = CaptureSocket(settings.remote.host, ports)
        except OSError as error:
            session.outcome = f"no capture: {error.strerror}"
            raise Refused(session.outcome) from error
        capture = _Capture(session.wish, settings.local, settings.remote)
        loop = asyncio.get_running_loop()
        loop.add_reader(source.fileno(), lambda: source.read(capture.take))
        try:
            while self._lasts(session) and not capture.full:
                yield capture.taken()
                await asyncio.sleep(TICK)
            capture.finish(source.dropped() + source.unreadable)
            session.outcome = str(capture)
            yield capture.taken()
            yield {"end": session.outcome}
        finally:
            loop.remove_reader(source.fileno())
            source.close()


class _KeyLog:
    """Lines of one connection, each told once."""

    def __init__(self, node: Gateway, connection: str) -> None:
        self._node, self._connection = node, connection
        self._told: set[tuple[str, str]] = set()
        self._new: list[Piece] = []
        self._counts = {IKE_TABLE: 0, ESP_TABLE: 0}

    def __str__(self) -> str:
        return f"keys of {self._counts[IKE_TABLE]} IKE_SAs and {self._counts[ESP_TABLE]} ESP SAs"

    def look(self) -> None:
        for sa in self._node.ike.sas(self._connection):
            if sa.keys is not None and sa.responder_spi:
                secrets = sa.keys.secrets_for_keylog()
                self._add(IKE_TABLE, ike_line(sa.initiator_spi, sa.responder_spi, secrets, sa.keys.choice))
        tunnel = self._node.tunnels.get(self._connection)
        for child in tunnel.installed.values() if tunnel is not None else ():
            for one in parameters(child.event, 0, Limits(), 0):
                self._add(ESP_TABLE, esp_line(one))

    def taken(self) -> list[Piece]:
        taken, self._new = self._new, []
        return taken

    def _add(self, table: str, line: str) -> None:
        if (table, line) not in self._told:
            self._told.add((table, line))
            self._counts[table] += 1
            self._new.append({"file": table, "text": line})


@dataclass(slots=True)
class _Capture:
    """A pcapng file as it comes, bounded."""

    wish: Wish
    local: Endpoint
    remote: Endpoint
    packets: int = 0
    octets: int = 0
    lost: int = 0
    _new: bytearray = field(default_factory=bytearray)
    _interfaces: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        about = f"outer packets of connection {self.wish.connection}: {self.local.host} and {self.remote.host}"
        self._new += pcapng.section_header(f"gatewayd {__version__}", about)

    def __str__(self) -> str:
        limit = ", the limit" if self.full else ""
        return f"{self.packets} packets{limit}, {self.lost} lost"

    @property
    def full(self) -> bool:
        return self.packets >= self.wish.packets or self.octets >= OCTETS_MAX

    def take(self, packet: Packet) -> None:
        if self.full:
            self.lost += 1
            return
        number = self._interfaces.get(packet.interface)
        if number is None:
            number = self._interfaces[packet.interface] = len(self._interfaces)
            self._new += pcapng.interface(packet.interface)
        direction = pcapng.OUTBOUND if packet.outgoing else pcapng.INBOUND
        self._new += pcapng.packet(number, packet.at, direction, packet.data)
        self.packets += 1
        self.octets += len(packet.data)

    def finish(self, dropped: int) -> None:
        """Losses are those of all interfaces together: the socket has one queue."""
        self.lost += dropped
        if self._interfaces:
            self._new += pcapng.statistics(0, time.time_ns(), self.packets + self.lost, self.lost)

    def taken(self) -> Piece | None:
        if not self._new:
            return None
        data, self._new = bytes(self._new), bytearray()
        return {"file": "capture", "data": base64.b64encode(data).decode()}
