"""The native data plane with its TUN devices and sockets: `esp.dataplane.DataPlane` for production.

Python programs it and drains its events; no packet comes here. IKE datagrams on port 4500 are punted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from math import inf

from gateway import _native
from gateway.config.model import DataPlane
from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, SaCounters, SaParameters
from gateway.node.effects import OpenTunnel
from gateway.node.inputs import DataPlaneEvent
from gateway.observe.snapshot import WorkerStatus
from gateway.runtime.fd_store import FdStore, Inherited
from gateway.runtime.packet_sockets import PacketSockets
from gateway.runtime.progress_memory import ProgressMemory
from gateway.runtime.tun import TunError, add_queues, detach_queues, interface_name, is_attached, open_tun, reattach_tun
from gateway.runtime.tun_queues import QueueDrops
from gateway.runtime.udp import Received, UdpSockets

NANOSECOND = 1e-9
FOREVER_NS = 2**64 - 1
QUEUE_FULL = "tun_queue_full"  # native/drop_reasons.h
TURN = 0.002
"""Seconds for which punted IKE datagrams are taken in one turn of the loop: timers must not wait for hundreds of them."""
WAITING_MOST = 256
"""Punted datagrams in hand from which on no more are fetched: what does not fit in the workers' ring is lost, as in a socket."""
log = logging.getLogger(__name__)
_DIRECTIONS = {direction.value: direction for direction in Direction}


class NativeDataPlane:
    """Worker threads, TUNs and the SAD. Opened TUNs close with `stop`."""

    def __init__(
        self,
        workers: int,
        engine: str,
        config: DataPlane,
        on_event: Callable[[DataPlaneEvent], None],
        on_ike: Received,
        inherited: Inherited | None = None,
        store: FdStore | None = None,
        progress: ProgressMemory | None = None,
    ) -> None:
        self._progress = progress
        self._inherited = inherited or Inherited()
        self._store = store or FdStore({})
        self._native = _native.DataPlane(
            workers,
            engine,
            cpus=config.cpus,
            busy_poll_us=config.busy_poll_us,
            count_cycles=config.count_cycles,
        )
        if progress is not None:
            self._native.share(progress.fd)
        self._workers = workers
        self._cpus = config.cpus
        self._on_event = on_event
        self._on_ike = on_ike
        self._tuns: dict[int, list[int]] = {}
        self._names: dict[int, str] = {}  # of their devices
        self._queues = QueueDrops()
        self._last: list[_native.SaRow] = []  # of SAs that were removed, until somebody asks
        self._waiting: dict[int, list[Callable[[], None]]] = {}  # by connection whose device is being made
        self._punted: deque[tuple[bytes, tuple[str, int], tuple[str, int], int]] = deque()
        self._removed: list[int] = []  # queues of connections that are gone
        self.sockets: UdpSockets | None = None
        self.packets: PacketSockets | None = None
        asyncio.get_running_loop().add_reader(self._native.event_fd(), self._drain)

    # --- the protocol -------------------------------------------------------------------------------------------

    def add_connection(self, connection: int, name: str, mtu: int) -> None:
        """For an existing connection whose device was deleted: a new device under the same fds, so its SAs live on."""
        self._tuns[connection] = self._made(connection, name, mtu)

    def update_connection(
        self,
        connection: int,
        mtu: int,
        tcp_mss4: int,
        tcp_mss6: int,
        dscp: int | None = None,
        clear_df: bool = False,
    ) -> None:
        def update() -> None:
            if connection in self._tuns:
                outer = -1 if dscp is None else dscp
                self._native.update_connection(connection, mtu, tcp_mss4, tcp_mss6, outer, clear_df)

        self._when_made(connection, update)

    def remove_connection(self, connection: int) -> None:
        """Its device lives until `close_removed`."""

        def remove() -> None:
            fds = self._tuns.pop(connection, None)
            if self.packets is not None:
                self.packets.forget(connection)
            if fds is not None:
                self._native.remove_connection(connection)
                if self._progress is not None:
                    self._progress.free_connection(connection)
                self._store.drop(_kept_as(self._names.pop(connection, "")))
                self._removed += fds

        self._when_made(connection, remove)

    def add_sa(self, sa: SaParameters) -> None:
        self._when_made(sa.connection, lambda: self._add_sa(sa))

    def _add_sa(self, sa: SaParameters) -> None:
        outbound = sa.direction is Direction.OUTBOUND
        self._native.add_sa(
            direction=sa.direction.value,
            connection=sa.connection,
            spi=sa.spi,
            encryption=sa.suite.encryption.value,
            integrity=sa.suite.integrity.value,
            encryption_key=sa.encryption_key,
            integrity_key=sa.integrity_key,
            esn=sa.suite.esn,
            encapsulate=sa.encapsulate,
            local=(sa.local.host, sa.local.port),
            remote=(sa.remote.host, sa.remote.port),
            selectors=[
                (one.protocol, one.local_first, one.local_last, one.local_port_first, one.local_port_last,
                 one.remote_first, one.remote_last, one.remote_port_first, one.remote_port_last)
                for one in sa.selectors
            ],
            replay_window=sa.replay_window,
            soft_octets=sa.limits.soft_octets,
            hard_octets=sa.limits.hard_octets,
            soft_packets=sa.limits.soft_packets,
            hard_packets=sa.limits.hard_packets,
            socket_fd=self.sockets.esp_fd(sa.local, sa.encapsulate) if outbound and self.sockets is not None else -1,
            worker=-1 if sa.worker is None else sa.worker % self._workers,
            sequence=sa.sequence,
            place=self._progress.take(sa, self._names[sa.connection]) if self._progress is not None else 0,
            fenced=sa.fenced,
        )  # fmt: skip
        if outbound and self.packets is not None:
            if sa.encapsulate:
                self.packets.forget(sa.connection)
            else:
                self.packets.follow(sa.connection, sa.local.host, sa.remote.host)

    def remove_sa(self, direction: Direction, connection: int, spi: int) -> None:
        def remove() -> None:
            last = self._native.remove_sa(direction.value, connection, spi)
            if last is not None:
                self._last.append(last)
            if self._progress is not None:
                self._progress.free(direction, connection, spi)

        self._when_made(connection, remove)

    def move_sa(self, connection: int, spi: int, remote: Endpoint, local: Endpoint | None = None) -> None:
        def move() -> None:
            if local is None or self.sockets is None:
                self._native.move_sa(connection, spi, (remote.host, remote.port))
            else:
                # Only where ESP is in UDP does our end move (RFC 4555)
                ours, fd = (local.host, local.port), self.sockets.esp_fd(local, encapsulate=True)
                self._native.move_sa(connection, spi, (remote.host, remote.port), ours, fd)
            if self.packets is not None:
                self.packets.move(connection, remote.host)

        self._when_made(connection, move)

    def replace_policies(self, connection: int, spis: tuple[int, ...]) -> None:
        self._when_made(connection, lambda: self._native.replace_policies(connection, list(spis)))

    def grant(self, connection: int, spi: int, limit: int) -> None:
        self._when_made(connection, lambda: self._native.grant(connection, spi, limit))

    def move_fence(self, until: float) -> None:
        """At once, also for connections whose device is being made."""
        self._native.move_fence(FOREVER_NS if until == inf else int(until / NANOSECOND))

    def advance(self, connection: int, spi: int, by: int) -> None:
        self._when_made(connection, lambda: self._native.advance(connection, spi, by))

    def changed_counters(self) -> dict[tuple[Direction, int, int], SaCounters]:
        """Of those SAs that did something since this was last asked, and the last ones of those that were removed."""
        removed, self._last = self._last, []
        rows = (*removed, *self._native.sa_changes())
        return {(_DIRECTIONS[row[0]], row[1], row[2]): SaCounters(*row[3:]) for row in rows}

    def sa_counters(self) -> dict[tuple[Direction, int, int], SaCounters]:
        return {
            (_DIRECTIONS[one["direction"]], one["connection"], one["spi"]): _counters(one)
            for one in self._native.sa_statistics()
        }

    def drop_counters(self) -> dict[tuple[int, str], int]:
        queues = {(connection, QUEUE_FULL): packets for connection, packets in self._queues.nonzero().items()}
        return {(connection, reason): packets for connection, reason, packets in self._native.drops()} | queues

    async def look_at_queues(self) -> None:
        """Counts anew what the kernel dropped before it came to us."""
        await asyncio.to_thread(self._queues.read, dict(self._names))

    # --- TUNs, off the loop -------------------------------------------------------------------------------------

    def expect(self, connection: int) -> None:
        """Its device is going to be made: what is asked for it meanwhile waits."""
        if connection not in self._tuns:
            self._waiting.setdefault(connection, [])

    async def make(self, wanted: Sequence[OpenTunnel]) -> dict[str, TunError]:
        """`add_connection` for many, in a thread; by name what could not be made."""

        def work() -> list[list[int] | TunError]:
            return [self._attempt(one) for one in wanted]

        failed = {}
        for one, outcome in zip(wanted, await asyncio.to_thread(work), strict=True):
            calls = self._waiting.pop(one.connection, [])
            if isinstance(outcome, TunError):
                failed[one.name] = outcome
                continue
            self._tuns[one.connection] = outcome
            for call in calls:
                _carry_out(call, one.name)
        return failed

    async def close_removed(self, delete: Callable[[], Awaitable[None]]) -> None:
        """Closes the queues of removed connections. `delete` deletes their devices at once before: a close that has to
        do it takes 17 ms each."""
        removed, self._removed = self._removed, []
        try:
            await delete()
        finally:
            await asyncio.to_thread(_close, removed)

    @property
    def held(self) -> dict[str, list[int]]:
        """Queues by the name they are kept as, for a process that takes over."""
        return {_kept_as(self._names[connection]): fds for connection, fds in self._tuns.items()}

    def halt(self) -> None:
        """The workers end; then the counters are the last ones. Blocks for a moment."""
        self._native.halt()

    async def leave(self) -> None:
        """Joins the workers and wipes the keys; the TUNs are the next process's."""
        asyncio.get_running_loop().remove_reader(self._native.event_fd())
        await asyncio.to_thread(self._native.stop)
        await asyncio.to_thread(_close, [fd for fds in self._tuns.values() for fd in fds])
        self._tuns.clear()

    async def stop(self, delete: Callable[[Sequence[str]], Awaitable[None]]) -> None:
        """Joins the workers, wipes the keys, deletes the TUNs (named to `delete`): what is left in the kernel is the guard."""
        for name in self._names.values():
            self._store.drop(_kept_as(name))
        asyncio.get_running_loop().remove_reader(self._native.event_fd())
        await asyncio.to_thread(self._native.stop)
        self._removed += [fd for fds in self._tuns.values() for fd in fds]
        self._tuns.clear()
        names = list(self._names.values())
        await self.close_removed(lambda: delete(names))

    def _attempt(self, one: OpenTunnel) -> list[int] | TunError:
        try:
            return self._made(one.connection, one.name, one.mtu)
        except TunError as error:
            return error
        except Exception as error:
            # This one's failure, and not that of those made with it
            log.error("TUN device of %s", one.name, exc_info=error, extra={"event": "tun-failed", "tunnel": one.name})
            return TunError(getattr(error, "errno", None) or errno.EIO, f"TUN device of {one.name}: {error!r}")

    def _made(self, connection: int, name: str, mtu: int) -> list[int]:
        known = self._tuns.get(connection)
        if known is not None:
            if reattach_tun(interface_name(name), known):
                self._native.reopen_connection(connection)
            return known
        fds = self._adopted(interface_name(name))
        if not fds:
            fds = open_tun(interface_name(name), self._workers)
            self._store.keep(_kept_as(interface_name(name)), fds)
        try:
            self._native.add_connection(connection, fds, mtu)
        except Exception:
            self._store.drop(_kept_as(interface_name(name)))
            _close(fds)
            raise
        self._names[connection] = interface_name(name)
        return fds

    def _adopted(self, name: str) -> list[int]:
        """The queues of the process before this one, as many as there are workers now; none where somebody deleted the device."""
        fds = self._inherited.take(_kept_as(name))
        if not fds or not all(map(is_attached, fds)):
            if fds:
                self._store.drop(_kept_as(name))
            _close(fds)
            return []
        if len(fds) > self._workers:
            # The store's copies live on for a moment: nothing may be put into a queue that nobody reads
            detach_queues(fds[self._workers :])
            self._store.drop(_kept_as(name))
            self._store.keep(_kept_as(name), fds[: self._workers])
            _close(fds[self._workers :])
        more = add_queues(name, self._workers - len(fds)) if len(fds) < self._workers else []
        if more:
            self._store.keep(_kept_as(name), more)
        return fds[: self._workers] + more

    def _when_made(self, connection: int, call: Callable[[], None]) -> None:
        waiting = self._waiting.get(connection)
        if waiting is None:
            call()
        else:
            waiting.append(call)

    # --- beside the protocol ------------------------------------------------------------------------------------

    def attach(self, sockets: UdpSockets, made: list[tuple[int, int]]) -> None:
        """Hands new port 4500 sockets, as (worker, fd), to the workers."""
        self.sockets = sockets
        for worker, fd in made:
            self._native.add_socket(worker, fd)

    def attach_packet_sockets(self, mark: int, protocol: int) -> PacketSockets:
        """From now on protocol 50 leaves by them where it can; OSError with a sentence where the host has none."""
        packets = PacketSockets(self._native, self._workers, mark, protocol)
        packets.open()
        self.packets = packets
        return packets

    def detach(self, fd: int) -> None:
        """The workers no longer read this socket: it may be closed."""
        self._native.remove_socket(fd)

    def worker_status(self) -> tuple[WorkerStatus, ...]:
        return tuple(
            WorkerStatus(
                number, one["ticks"], one["cpu_ns"] * NANOSECOND, bool(one["idle"]),
                cpu=self._cpus[number] if self._cpus else None,
                empty_polls=one["empty_polls"],
                packets_in=one["packets_in"],
                packets_out=one["packets_out"],
                bursts_in=one["bursts_in"],
                bursts_out=one["bursts_out"],
                calls={"tun_reads": one["tun_reads"], "tun_writes": one["tun_writes"],
                       "udp_reads": one["udp_reads"], "udp_sends": one["udp_sends"], "packet_sends": one["packet_sends"]},
                fallbacks={"full": one["packets_full"], "refused": one["packets_refused"]},
                queue_octets=one["socket_queue_octets"],
                queue_drops=one["socket_drops"],
                cycles=one["cycles"],
            )
            for number, one in enumerate(self._native.worker_statistics())
        )  # fmt: skip

    def _deliver(self) -> None:
        until = time.monotonic() + TURN
        while self._punted and time.monotonic() < until:
            data, local, remote, _ = self._punted.popleft()
            self._on_ike(data, Endpoint(*local), Endpoint(*remote))
        if self._punted:
            asyncio.get_running_loop().call_soon(self._deliver)

    def _drain(self) -> None:
        under_way = bool(self._punted)
        if len(self._punted) < WAITING_MOST:
            self._punted += self._native.punted()
        elif self.sockets is not None:
            self.sockets.guard()
        if self._punted and not under_way:
            self._deliver()
        for kind, connection, spi, detail in self._native.events():
            self._on_event(DataPlaneEvent(kind, connection, spi, _endpoint(detail) if kind == "peer-moved" else None))


def _carry_out(call: Callable[[], None], name: str) -> None:
    """What waited for a device: one that fails keeps the others from nothing."""
    try:
        call()
    except Exception as error:
        text = "what was asked for while the device of %s was made is not done: %r"
        log.error(text, name, error, exc_info=error, extra={"event": "tun-failed", "tunnel": name})


def _counters(one: _native.SaStatistics) -> SaCounters:
    return SaCounters(
        one["packets"], one["octets"], one["sequence"], one["last_used"],
        one["replay_drops"], one["integrity_failures"], one["selector_drops"],
    )  # fmt: skip


def _kept_as(interface: str) -> str:
    return f"tun-{interface}"


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _endpoint(detail: bytes) -> Endpoint:
    host, port = detail.decode("ascii").split()
    return Endpoint(host, int(port))
