"""A data plane in memory: the data plane of the simulator and the oracle of the native one.

Packets are sealed and opened by packet.py, selectors matched by spd.py; both come from the RFCs and not from native/.

Not here: segmentation and coalescing, MSS clamping, fragmentation (a packet beyond the MTU is dropped and counted),
the outer IP header, ICMP, TUN devices, time (`now` is an argument), randomness (CBC IVs come from an injected source).

    outbound(connection, packet, now)      -> [(datagram, local, remote)]
    inbound(datagram, local, remote, now)  -> [(connection, packet)]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import NamedTuple

from gateway.contract import Endpoint, RandomSource
from gateway.esp.dataplane import Direction, SaCounters, SaParameters
from gateway.esp.mtu import ESP_HEADER_OCTETS
from gateway.esp.packet import (
    NEXT_HEADER_IPV4,
    NEXT_HEADER_IPV6,
    NEXT_HEADER_NONE,
    SEQUENCE_SPACE,
    Drop,
    EspKeys,
    Opened,
    ReplayWindow,
    open_packet,
    seal,
)
from gateway.esp.spd import Flow, parse_flow, selector_matches
from gateway.wire import Reader

LOWEST_SPI = 256  # RFC 4303 2.1: 1 to 255 are reserved, 0 is for local use
KEEPALIVE = b"\xff"  # RFC 3948 2.3
NON_ESP_MARKER = bytes(4)  # RFC 3948 2.2
IPV6_MINIMUM_MTU = 1280  # RFC 8200 5
SEQUENCE_SOFT = (SEQUENCE_SPACE - 1) // 10 * 8  # without ESN a rekey is due well before the numbers end


class Event(NamedTuple):
    """The same four fields, kinds and details as an event of `gateway._native`."""

    kind: str
    connection: int
    spi: int
    detail: bytes


@dataclass(slots=True)
class _Sa:
    parameters: SaParameters
    keys: EspKeys
    window: ReplayWindow
    remote: Endpoint
    sequence_limit: int
    sequence: int = 0
    packets: int = 0
    octets: int = 0
    last_used: float = 0.0
    replay_drops: int = 0
    integrity_failures: int = 0
    selector_drops: int = 0
    soft_raised: bool = False
    hard_raised: bool = False
    hard_reached: bool = False
    integrity_second: int = -1

    @property
    def sequence_end(self) -> int:
        """RFC 4303 3.3.3: the last number of all."""
        return (2**64 if self.parameters.suite.esn else SEQUENCE_SPACE) - 1

    @property
    def numbers_run_out(self) -> bool:
        """With the packet at hand: outbound it is not numbered yet."""
        number = self.window.top if self.parameters.direction is Direction.INBOUND else self.sequence + 1
        return not self.parameters.suite.esn and number >= SEQUENCE_SOFT

    def carries(self, flow: Flow) -> bool:
        return any(selector_matches(one, flow, self.parameters.direction) for one in self.parameters.selectors)


@dataclass(slots=True)
class _Connection:
    mtu: int
    policies: tuple[int, ...] = ()
    acquire_second: int = -1


Datagram = tuple[bytes, Endpoint, Endpoint]


class ReferenceDataPlane:
    """The `DataPlane` protocol in memory. Raw ESP (protocol 50) goes between end points of port 0."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._connections: dict[int, _Connection] = {}
        self._sas: dict[tuple[Direction, int, int], _Sa] = {}
        self._drops: Counter[tuple[int, str]] = Counter()
        self._events: list[Event] = []
        self._punted: list[Datagram] = []
        self._unknown_spi_second = -1
        self._fence = 0.0

    # -- packets --

    def outbound(self, connection: int, packet: bytes, now: float, worker: int = 0) -> list[Datagram]:
        """Seals one packet that a host sent into the connection's TUN, as that worker would."""
        state = self._connections.get(connection)
        flow = parse_flow(packet)
        if state is None or flow is None:
            return self._dropped(connection if state else 0, Drop.INNER_MALFORMED if state else Drop.NO_SA)
        sa = self._choose(connection, flow, worker)
        if sa is None:
            if int(now) != state.acquire_second:
                state.acquire_second = int(now)
                self._events.append(Event("acquire", connection, 0, packet[: min(64, flow.length)]))
            return self._dropped(connection, Drop.NO_SA)
        ipv6 = len(flow.source) == 16
        if flow.length > (max(state.mtu, IPV6_MINIMUM_MTU) if ipv6 else state.mtu):
            return self._dropped(connection, Drop.TOO_BIG)
        if sa.parameters.fenced and now >= self._fence:
            return self._dropped(connection, Drop.NOT_ACTIVE)
        if sa.sequence >= sa.sequence_limit:
            if sa.sequence >= sa.sequence_end:
                self._stopped(sa)
            return self._dropped(connection, Drop.SEQUENCE_EXHAUSTED)
        if not self._account(sa, flow.length):
            return self._dropped(connection, Drop.HARD_LIMIT)
        sa.sequence += 1
        sa.last_used = now
        next_header = NEXT_HEADER_IPV6 if ipv6 else NEXT_HEADER_IPV4
        inner = packet[: flow.length]
        datagram = seal(sa.keys, sa.parameters.spi, sa.sequence, inner, next_header, self._random)
        if sa.parameters.encapsulate:
            return [(datagram, sa.parameters.local, sa.remote)]
        return [(datagram, Endpoint(sa.parameters.local.host, 0), Endpoint(sa.remote.host, 0))]

    def _choose(self, connection: int, flow: Flow, worker: int) -> _Sa | None:
        """RFC 9611 2: the worker's own, else everybody's, else another's."""
        carrying = [sa for sa in self._policies(connection) if sa.carries(flow)]
        return min(
            carrying, key=lambda sa: (sa.parameters.worker != worker, sa.parameters.worker is not None), default=None
        )

    def inbound(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> list[tuple[int, bytes]]:
        """Opens one datagram. IKE with the non-ESP marker waits in `drain_punted`."""
        encapsulated = local.port != 0
        if encapsulated and datagram == KEEPALIVE:
            return self._refused(0, Drop.KEEPALIVE)
        if encapsulated and len(datagram) > len(NON_ESP_MARKER) and datagram.startswith(NON_ESP_MARKER):
            self._punted.append((datagram[len(NON_ESP_MARKER) :], local, remote))
            return []
        if len(datagram) < ESP_HEADER_OCTETS:
            return self._refused(0, Drop.TOO_SHORT)
        reader = Reader(datagram)
        spi, low = reader.u32(), reader.u32()
        sa = self._inbound_sa(spi)
        if sa is None:
            self._unknown_spi(spi, remote, now)
            return self._refused(0, Drop.UNKNOWN_SPI)
        opened = self._open(sa, datagram, sa.window.infer(low), remote, now)
        if isinstance(opened, Drop):
            return self._refused(sa.parameters.connection, opened)
        return [(sa.parameters.connection, opened)]

    def drain_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    def drain_punted(self) -> list[Datagram]:
        """IKE datagrams without their marker: (octets, local, remote)."""
        punted, self._punted = self._punted, []
        return punted

    # -- the DataPlane protocol --

    def add_connection(self, connection: int, name: str, mtu: int) -> None:
        self._connections.setdefault(connection, _Connection(mtu))

    def update_connection(
        self,
        connection: int,
        mtu: int,
        tcp_mss4: int,
        tcp_mss6: int,
        dscp: int | None = None,
        clear_df: bool = False,
    ) -> None:
        self._connection(connection).mtu = mtu

    def remove_connection(self, connection: int) -> None:
        self._connections.pop(connection, None)
        self._sas = {name: sa for name, sa in self._sas.items() if name[1] != connection}

    def add_sa(self, sa: SaParameters) -> None:
        self._connection(sa.connection)
        if sa.spi < LOWEST_SPI:
            raise ValueError("SPIs 0 to 255 are reserved")
        if not sa.selectors:
            raise ValueError("an SA needs a selector")
        # Inbound SPIs are ours and name one SA; outbound ones are the peer's.
        taken = (Direction.OUTBOUND, sa.connection, sa.spi) in self._sas
        if self._inbound_sa(sa.spi) if sa.direction is Direction.INBOUND else taken:
            raise ValueError("an SA with this SPI exists")
        window = ReplayWindow(sa.replay_window, sa.suite.esn)
        window.resume(sa.sequence)
        self._sas[sa.direction, sa.connection, sa.spi] = _Sa(
            parameters=sa,
            keys=EspKeys(sa.suite, sa.encryption_key, sa.integrity_key),
            window=window,
            sequence=sa.sequence,
            remote=sa.remote,
            sequence_limit=sa.sequence if sa.fenced else (2**64 if sa.suite.esn else SEQUENCE_SPACE) - 1,
        )

    def remove_sa(self, direction: Direction, connection: int, spi: int) -> None:
        if self._sas.pop((direction, connection, spi), None) is None or direction is Direction.INBOUND:
            return
        state = self._connection(connection)
        state.policies = tuple(own for own in state.policies if own != spi)

    def move_sa(self, connection: int, spi: int, remote: Endpoint, local: Endpoint | None = None) -> None:
        sa = self._outbound_sa(connection, spi)
        sa.remote, sa.parameters = remote, replace(sa.parameters, local=local or sa.parameters.local)

    def replace_policies(self, connection: int, spis: tuple[int, ...]) -> None:
        for spi in spis:
            self._outbound_sa(connection, spi)
        self._connection(connection).policies = tuple(spis)

    def grant(self, connection: int, spi: int, limit: int) -> None:
        sa = self._outbound_sa(connection, spi)
        sa.sequence_limit = min(limit, sa.sequence_end)

    def move_fence(self, until: float) -> None:
        self._fence = until

    def advance(self, connection: int, spi: int, by: int) -> None:
        sa = self._outbound_sa(connection, spi)
        sa.sequence = min(sa.sequence + by, sa.sequence_end)

    def sa_counters(self) -> dict[tuple[Direction, int, int], SaCounters]:
        return {
            name: SaCounters(
                packets=sa.packets,
                octets=sa.octets,
                sequence=sa.window.top if name[0] is Direction.INBOUND else sa.sequence,
                last_used=sa.last_used,
                replay_drops=sa.replay_drops,
                integrity_failures=sa.integrity_failures,
                selector_drops=sa.selector_drops,
            )
            for name, sa in self._sas.items()
        }

    def drop_counters(self) -> dict[tuple[int, str], int]:
        return dict(self._drops)

    # -- steps --

    def _open(self, sa: _Sa, datagram: bytes, sequence: int, remote: Endpoint, now: float) -> bytes | Drop:
        if sa.hard_reached:
            return Drop.HARD_LIMIT
        # RFC 4303 3.4.3: the window is asked before the ICV is computed and moves only after it verified.
        if not sa.window.check(sequence):
            sa.replay_drops += 1
            return Drop.REPLAY
        opened = open_packet(sa.keys, datagram, sequence)
        if opened is Drop.INTEGRITY:
            self._integrity_failure(sa, now)
        if opened is Drop.INTEGRITY or opened is Drop.TOO_SHORT:
            return opened
        newest = sequence > sa.window.top
        sa.window.accept(sequence)
        if newest:
            self._follow(sa, remote)
        if isinstance(opened, Drop):
            return opened
        if not self._account(sa, len(opened.payload)):
            return Drop.HARD_LIMIT
        sa.last_used = now
        return self._admit(sa, opened)

    def _admit(self, sa: _Sa, opened: Opened) -> bytes | Drop:
        if opened.next_header == NEXT_HEADER_NONE:
            return Drop.DUMMY
        flow = parse_flow(opened.payload)
        if flow is None or (len(flow.source) == 16) != (opened.next_header == NEXT_HEADER_IPV6):
            return Drop.INNER_MALFORMED
        # RFC 4301 5.2 step 4
        if not sa.carries(flow):
            sa.selector_drops += 1
            return Drop.SELECTOR
        return opened.payload[: flow.length]

    def _account(self, sa: _Sa, octets: int) -> bool:
        limits, name = sa.parameters.limits, sa.parameters
        if sa.hard_reached:
            return False
        over = bool(limits.hard_octets) and sa.octets + octets > limits.hard_octets
        if not over:
            sa.packets += 1
            sa.octets += octets
        soft = _reached(sa.packets, limits.soft_packets) or _reached(sa.octets, limits.soft_octets)
        if not over and (soft or sa.numbers_run_out) and not sa.soft_raised:
            sa.soft_raised = True
            self._events.append(Event("expire-soft", name.connection, name.spi, name.direction.value.encode()))
        if over or _reached(sa.packets, limits.hard_packets) or _reached(sa.octets, limits.hard_octets):
            sa.hard_reached = True
            self._stopped(sa)
        return not over

    def _stopped(self, sa: _Sa) -> None:
        name = sa.parameters
        if not sa.hard_raised:
            sa.hard_raised = True
            self._events.append(Event("expire-hard", name.connection, name.spi, name.direction.value.encode()))

    def _follow(self, sa: _Sa, remote: Endpoint) -> None:
        # RFC 7296 2.23: a packet without UDP shows no port, so it does not move who is reached through UDP
        if sa.parameters.encapsulate:
            moved = remote.port != 0 and remote != sa.remote
        else:
            moved = remote.host != sa.remote.host
        if moved:
            sa.remote = remote
            detail = f"{remote.host} {remote.port}".encode()
            self._events.append(Event("peer-moved", sa.parameters.connection, sa.parameters.spi, detail))

    def _integrity_failure(self, sa: _Sa, now: float) -> None:
        sa.integrity_failures += 1
        if int(now) != sa.integrity_second:
            sa.integrity_second = int(now)
            self._events.append(Event("integrity-burst", sa.parameters.connection, sa.parameters.spi, b""))

    def _unknown_spi(self, spi: int, remote: Endpoint, now: float) -> None:
        if int(now) != self._unknown_spi_second:
            self._unknown_spi_second = int(now)
            self._events.append(Event("unknown-spi", 0, spi, f"{remote.host} {remote.port}".encode()))

    def _policies(self, connection: int) -> list[_Sa]:
        return [self._sas[Direction.OUTBOUND, connection, spi] for spi in self._connections[connection].policies]

    def _connection(self, connection: int) -> _Connection:
        try:
            return self._connections[connection]
        except KeyError:
            raise ValueError("unknown connection") from None

    def _inbound_sa(self, spi: int) -> _Sa | None:
        inbound = (sa for (direction, _, own), sa in self._sas.items() if direction is Direction.INBOUND and own == spi)
        return next(inbound, None)

    def _outbound_sa(self, connection: int, spi: int) -> _Sa:
        try:
            return self._sas[Direction.OUTBOUND, connection, spi]
        except KeyError:
            raise ValueError("unknown outbound SA") from None

    def _dropped(self, connection: int, reason: Drop) -> list[Datagram]:
        self._drops[connection, reason.value] += 1
        return []

    def _refused(self, connection: int, reason: Drop) -> list[tuple[int, bytes]]:
        self._drops[connection, reason.value] += 1
        return []


def _reached(value: int, limit: int) -> bool:
    return limit != 0 and value >= limit
