"""Between the node's FIB and netlink: operations in order, answers back, changes by others reported."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from ipaddress import ip_interface, ip_network
from typing import Any

from gateway.node.effects import OpenTunnel, SetTunnelMtu
from gateway.node.inputs import TunnelFailed, TunnelReady, Underlay
from gateway.routing import model as routing
from gateway.runtime.netlink import AddressGone, Change, LinkGone, LinkUp, Netlink, OursRemoved, UnderlayChanged
from gateway.runtime.rtnetlink import NetlinkError
from gateway.runtime.rules import Entry
from gateway.runtime.tun import interface_name

DUMP_RETRY = 1.0
log = logging.getLogger(__name__)


class KernelRoutes:
    """Carries out one netlink job after the other, in the order the node asked."""

    def __init__(self, netlink: Netlink, command: Callable[[object], None]) -> None:
        self._netlink = netlink
        self._command = command
        self._jobs: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue()
        self._worker = asyncio.create_task(self._work(), name="kernel-routes")
        self._links: dict[int, str] = {}
        self._entries: dict[str, Entry] = {}
        self._ensured: dict[str, Entry] | None = None
        self._configured: dict[str, tuple[int, list[Any]]] = {}  # by interface: MTU and addresses

    async def prepare(self) -> None:
        """Rules and underlay, before the node starts.

        Nothing is removed yet: where the configuration names another table now, the old one holds the only guard until
        ours is in. The first TUN is opened after that, and with it rules nobody wants any more go.
        """
        for change in await self._netlink.ensure_rules(remove=False):
            log.info("%s", change, extra={"event": "ip-rule"})
        await self._report_underlay()
        self._netlink.monitor(self._changed)

    async def close(self) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    async def idle(self) -> None:
        """Until every job asked for so far is done."""
        await self._jobs.join()

    # --- effects of the node ------------------------------------------------------------------------------------

    def apply(self, ops: routing.RouteOps) -> None:
        async def job() -> None:
            try:
                errors = await self._netlink.apply(ops.ops)
            except (NetlinkError, OSError) as error:
                # The FIB waits for an answer: all failed, to be tried again from a fresh dump
                failure = routing.OpError(error.errno or errno.EIO, str(error))
                errors = dict.fromkeys(range(len(ops.ops)), failure)
            self._command(routing.Applied(ops.ticket, errors))

        self._jobs.put_nowait(job)

    def dump(self, request: routing.DumpRequest) -> None:
        async def job() -> None:
            while True:
                try:
                    held = await self._netlink.dump()
                    break
                except (NetlinkError, OSError) as error:
                    log.error("reading our routes failed: %s", error, extra={"event": "netlink-failed"})
                    await asyncio.sleep(DUMP_RETRY)
            self._command(routing.Reconcile(request.ticket, held))

        self._jobs.put_nowait(job)

    def resolve(self, request: routing.Resolve) -> None:
        async def job() -> None:
            try:
                found = await self._netlink.interface_for(request.address)
            except (NetlinkError, OSError) as error:
                # The FIB waits for an answer; it asks again at the next change of a link or route
                log.error("the way to %s: %s", request.address, error, extra={"event": "netlink-failed"})
                found = None
            self._command(routing.NextHopResolved(request.address, found))

        self._jobs.put_nowait(job)

    def open_tunnel(self, effect: OpenTunnel) -> None:
        """The TUN exists already (the data plane made it); rules, addresses, MTU, up, and the node learns its index."""
        interface = interface_name(effect.name)
        self._entries[interface] = _entry(effect.local_destinations, effect.addresses)
        # The device has a new index; news of its predecessor's end may still be on the way.
        self._links = {index: name for index, name in self._links.items() if name != effect.name}

        async def job() -> None:
            try:
                index = await self._configure(interface, effect.mtu, effect.addresses)
            except (NetlinkError, OSError):
                self._command(TunnelFailed(effect.name))
                raise
            self._links[index] = effect.name
            self._command(TunnelReady(effect.name, index))

        self._jobs.put_nowait(job)

    def set_mtu(self, effect: SetTunnelMtu, addresses: tuple[str, ...]) -> None:
        interface = interface_name(effect.name)
        known = self._entries.get(interface)
        destinations = effect.local_destinations
        if destinations is not None:
            self._entries[interface] = _entry(destinations, addresses)
        elif known is not None:
            self._entries[interface] = Entry(known.destinations, _entry((), addresses).addresses)

        async def job() -> None:
            await self._configure(interface, effect.mtu, addresses)

        self._jobs.put_nowait(job)

    async def _configure(self, interface: str, mtu: int, addresses: tuple[str, ...]) -> int:
        """Nothing may come out of a TUN before its entry guard stands: without the rules it stays down."""
        await self._follow_entries()
        self._configured[interface] = mtu, _interfaces(addresses)
        return await self._netlink.configure_link(interface, mtu, _interfaces(addresses), True)

    async def _follow_entries(self) -> None:
        """Rules for the TUNs there are now; at a start one call covers them all."""
        if self._ensured != self._entries:
            await self._ensure_rules(logging.INFO, "ip-rule")

    async def _ensure_rules(self, level: int, event: str) -> None:
        wanted, self._ensured = dict(self._entries), None
        for change in await self._netlink.ensure_rules(wanted):
            log.log(level, "%s", change, extra={"event": event})
        self._ensured = wanted

    # --- the kernel's news --------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        match change:
            case LinkGone(index=index, deleted=deleted):
                if deleted and index in self._links:
                    # Before the node hears of it: it may make the TUN again at once.
                    self._entries.pop(interface_name(self._links.pop(index)), None)
                    self._jobs.put_nowait(self._follow_entries)
                self._command(routing.InterfaceGone(index))
            case LinkUp(index=index, mtu=mtu) if index in self._links:
                if mtu != self._configured_of(index)[0]:
                    self._repair(index, f"MTU {mtu}")
                self._command(routing.ConnectionAdded(self._links[index], index))
            case AddressGone(index=index, address=address) if index in self._links:
                if address in self._configured_of(index)[1]:
                    self._repair(index, f"without address {address}")
            case UnderlayChanged() | LinkUp() | AddressGone():
                self._jobs.put_nowait(self._report_underlay)
                self._command(routing.InterfaceChanged())
            case OursRemoved():
                self._jobs.put_nowait(self._restore_rules)
                self._command(routing.Resync())

    def _configured_of(self, index: int) -> tuple[int, list[Any]]:
        return self._configured[interface_name(self._links[index])]

    def _repair(self, index: int, found: str) -> None:
        async def job() -> None:
            if index in self._links:  # a device that is deleted loses its addresses first
                interface = interface_name(self._links[index])
                mtu, addresses = self._configured[interface]
                await self._netlink.configure_link(interface, mtu, addresses, True)
                log.warning("%s was %s: restored", interface, found, extra={"event": "tun-restored"})

        self._jobs.put_nowait(job)

    async def _report_underlay(self) -> None:
        self._command(Underlay(frozenset(await self._netlink.connected_prefixes())))

    async def _restore_rules(self) -> None:
        await self._ensure_rules(logging.WARNING, "ip-rule-restored")

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            try:
                await job()
            except (NetlinkError, OSError) as error:
                log.error("netlink: %s", error, extra={"event": "netlink-failed"})
            finally:
                self._jobs.task_done()


def _entry(destinations: tuple[str, ...], addresses: tuple[str, ...]) -> Entry:
    return Entry(tuple(ip_network(text) for text in destinations), tuple(own.ip for own in _interfaces(addresses)))


def _interfaces(texts: tuple[str, ...]) -> list[Any]:
    return [ip_interface(text) for text in texts]
