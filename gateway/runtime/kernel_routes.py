"""Between the node's FIB and netlink: operations in order, answers back, changes by others reported."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface, ip_network
from typing import Any, Protocol

from gateway.node.effects import CloseTunnel, OpenTunnel, SetInstances, SetTunnelMtu
from gateway.node.inputs import TablesLeft, TunnelFailed, TunnelReady, Underlay
from gateway.node.instances import InstanceSettings
from gateway.routing import model as routing
from gateway.runtime.kernel import LinkSettings
from gateway.runtime.netlink import AddressGone, Change, LinkGone, LinkUp, Netlink, OursRemoved, UnderlayChanged
from gateway.runtime.rtlinks import Interface
from gateway.runtime.rtnetlink import NetlinkError
from gateway.runtime.rules import Entry
from gateway.runtime.tun import interface_name
from gateway.runtime.turns import Failures, turns

DUMP_RETRY = 1.0
BATCH = 64
"""TUNs made, changed or closed in one go: routes asked for meanwhile wait no longer than that takes."""
TUN_MTU_MAX = 65535
"""Where DF is disregarded: the data plane cuts to the MTU, and the kernel must not refuse before."""
SHOWN = 20
log = logging.getLogger(__name__)


class Devices(Protocol):
    """Who makes and unmakes TUNs."""

    async def make(self, wanted: Sequence[OpenTunnel]) -> Sequence[OpenTunnel]:
        """Those that exist now; the node has been told of the others."""

    async def close(self, names: Sequence[str]) -> None: ...


@dataclass(slots=True)
class _Batch:
    kind: Callable[[Sequence[Any]], Coroutine[Any, Any, None]]
    wanted: dict[str, object] = field(default_factory=dict)  # by interface


class KernelRoutes:
    """Carries out one netlink job after the other, in the order the node asked."""

    def __init__(self, netlink: Netlink, command: Callable[[object], None], devices: Devices | None = None) -> None:
        self._netlink = netlink
        self._node = command
        self._refused = Failures("news of the kernel is lost to the node")
        self._devices = devices
        self._tail: _Batch | None = None  # the last of the jobs, while more may be put into it
        self._underlay_due = False
        self._jobs: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue()
        working = turns(
            self._work, "a job of the kernel's routes, links or rules is not done to its end", after_failure=0.0
        )
        self.worker = asyncio.create_task(working, name="kernel-routes")
        self._links: dict[int, str] = {}
        self._indexes: dict[str, int] = {}  # the reverse
        self._entries: dict[str, Entry] = {}
        self._ensured: dict[str, Entry] | None = None
        self._configured: dict[str, LinkSettings] = {}  # by interface
        self._instances: tuple[InstanceSettings, ...] = ()
        self._members: dict[str, str] = {}  # instances by interface
        self._removing = False  # whether rules that nobody wants may go: not before the guard stands

    async def prepare(self, instances: tuple[InstanceSettings, ...] = ()) -> None:
        """Rules and underlay, before the node starts.

        Nothing is removed yet: where the configuration names another table now, the old one holds the only guard until
        ours is in. As soon as it is, and before the first TUN is opened, rules nobody wants any more go: `set_instances`.
        """
        self._instances = instances
        changes = await self._netlink.ensure_rules(remove=False, instances=instances)
        _log_changes(changes, logging.INFO, "ip-rule")
        if left := await self._netlink.tables_of_instances() - {one.table for one in instances}:
            self._command(TablesLeft(tuple(sorted(left))))
        await self._report_underlay()
        self._netlink.monitor(self._changed)

    async def close(self) -> None:
        self._netlink.unmonitor()
        self.worker.cancel()
        await asyncio.gather(self.worker, return_exceptions=True)

    async def idle(self) -> None:
        """Until every job asked for so far is done."""
        await self._jobs.join()

    # --- effects of the node ------------------------------------------------------------------------------------

    def apply(self, ops: routing.RouteOps) -> None:
        async def job() -> None:
            try:
                errors = await self._netlink.apply(ops.ops, ops.table)
            except Exception as error:
                # The FIB waits for an answer: all failed, to be tried again from a fresh dump
                if not isinstance(error, OSError):
                    _log_failure(error, "routes are not applied")
                failure = routing.OpError(getattr(error, "errno", None) or errno.EIO, str(error))
                errors = dict.fromkeys(range(len(ops.ops)), failure)
            self._command(routing.Applied(ops.ticket, errors, ops.table))

        self._put(job)

    def dump(self, request: routing.DumpRequest) -> None:
        async def job() -> None:
            while True:
                try:
                    held = await self._netlink.dump(request.table)
                    break
                except Exception as error:
                    _log_failure(error, "reading our routes failed")
                    await asyncio.sleep(DUMP_RETRY)
            self._command(routing.Reconcile(request.ticket, held, request.table))

        self._put(job)

    def resolve(self, request: routing.Resolve) -> None:
        async def job() -> None:
            try:
                found = await self._netlink.interface_for(request.address)
            except Exception as error:
                # The FIB waits for an answer; it asks again at the next change of a link or route
                _log_failure(error, f"the way to {request.address}")
                found = None
            self._command(routing.NextHopResolved(request.address, found))

        self._put(job)

    def set_instances(self, effect: SetInstances) -> None:
        """What belongs to which table."""
        self._members = {interface_name(name): instance for name, instance in effect.members.items()}
        # A TUN of nobody is about to be closed: until then it belongs where it did
        entries = {
            name: replace(one, instance=self._members.get(name, one.instance)) for name, one in self._entries.items()
        }
        if (self._instances, self._entries, self._removing) != (effect.instances, entries, effect.guarded):
            self._instances, self._entries, self._removing = effect.instances, entries, effect.guarded
            self._ensured = None
            self._put(self._follow_entries)

    def _instance(self, interface: str) -> str:
        return self._members.get(interface, "")

    def open_tunnel(self, effect: OpenTunnel) -> None:
        """The device, unless somebody made it already; rules, addresses, MTU, up, and the node learns its index."""
        interface = interface_name(effect.name)
        self._entries[interface] = self._entry(interface, effect.local_destinations, effect.addresses)
        # The device has a new index; news of its predecessor's end may still be on the way.
        self._links.pop(self._indexes.pop(effect.name, 0), None)
        self._collect(self._open, interface, effect)

    def set_mtu(self, effect: SetTunnelMtu, addresses: tuple[str, ...]) -> None:
        interface = interface_name(effect.name)
        known = self._entries.get(interface)
        destinations = effect.local_destinations
        if destinations is not None:
            self._entries[interface] = self._entry(interface, destinations, addresses)
        elif known is not None:
            addressed = self._entry(interface, (), addresses)
            self._entries[interface] = replace(known, addresses=addressed.addresses)
        mtu = TUN_MTU_MAX if effect.clear_df else effect.mtu
        opening = self._tail.wanted.get(interface) if self._tail is not None else None
        if self._tail is not None and isinstance(opening, OpenTunnel):
            self._tail.wanted[interface] = replace(opening, mtu=mtu, addresses=addresses)
        else:
            self._collect(self._change, interface, LinkSettings(interface, mtu, _interfaces(addresses)))

    def close_tunnel(self, effect: CloseTunnel) -> None:
        """The data plane has let go of the device."""
        self._collect(self._close, interface_name(effect.name), effect)

    async def _open(self, wanted: Sequence[OpenTunnel]) -> None:
        made = wanted
        try:
            made = await self._devices.make(wanted) if self._devices is not None else wanted
            outcomes = await self._configure(
                [
                    LinkSettings(interface_name(one.name), one.mtu, _interfaces(one.addresses), fresh=True)
                    for one in made
                ]
            )
        except Exception:
            for one in made:
                self._command(TunnelFailed(one.name))
            raise
        for one, outcome in zip(made, outcomes, strict=True):
            if isinstance(outcome, NetlinkError):
                _log_failure(outcome)
                self._command(TunnelFailed(one.name))
            else:
                self._links[outcome] = one.name
                self._indexes[one.name] = outcome
                self._command(TunnelReady(one.name, outcome))
                await asyncio.sleep(0)  # others have their turn

    async def _change(self, wanted: Sequence[LinkSettings]) -> None:
        for outcome in await self._configure(wanted):
            if isinstance(outcome, NetlinkError):
                _log_failure(outcome)

    async def _configure(self, links: Sequence[LinkSettings]) -> list[int | NetlinkError]:
        """Nothing may come out of a TUN before its entry guard stands: without the rules it stays down."""
        await self._follow_entries()
        self._configured.update({link.name: replace(link, fresh=False) for link in links})
        return await self._netlink.configure_links(links)

    async def _close(self, going: Sequence[CloseTunnel]) -> None:
        names = [interface_name(one.name) for one in going]
        if self._devices is None:
            await self._netlink.delete_links(names)
        else:
            await self._devices.close(names)

    async def _follow_entries(self) -> None:
        """Rules for the TUNs there are now; at a start one call covers them all."""
        if self._ensured != self._entries:
            await self._ensure_rules(logging.INFO, "ip-rule")

    async def _ensure_rules(self, level: int, event: str) -> None:
        wanted, self._ensured = dict(self._entries), None
        changes = await self._netlink.ensure_rules(wanted, self._removing, self._instances)
        _log_changes(changes, level, event)
        self._ensured = wanted

    # --- the kernel's news --------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        match change:
            case LinkGone(index=index, deleted=deleted):
                if deleted and index in self._links:
                    # Before the node hears of it: it may make the TUN again at once.
                    name = self._links.pop(index)
                    self._indexes.pop(name, None)
                    self._entries.pop(interface_name(name), None)
                    self._put(self._follow_entries)
                self._command(routing.InterfaceGone(index))
            case LinkUp(index=index, mtu=mtu) if index in self._links:
                if mtu != self._configured_of(index).mtu:
                    self._repair(index, f"MTU {mtu}")
                self._command(routing.ConnectionAdded(self._links[index], index))
            case AddressGone(index=index, address=address) if index in self._links:
                if address in self._configured_of(index).addresses:
                    self._repair(index, f"without address {address}")
            case UnderlayChanged() | LinkUp() | AddressGone():
                if not self._underlay_due:
                    self._underlay_due = True
                    self._put(self._report_underlay)
                self._command(routing.InterfaceChanged())
            case OursRemoved(lost_messages=lost):
                if lost:
                    self._put(self._look_at_links)
                self._put(self._restore_rules)
                self._command(routing.Resync())

    def _configured_of(self, index: int) -> LinkSettings:
        return self._configured[interface_name(self._links[index])]

    def _repair(self, index: int, found: str) -> None:
        async def job() -> None:
            if index in self._links:  # a device that is deleted loses its addresses first
                interface = interface_name(self._links[index])
                (outcome,) = await self._netlink.configure_links([self._configured[interface]])
                if isinstance(outcome, NetlinkError):
                    raise outcome
                log.warning("%s was %s: restored", interface, found, extra={"event": "tun-restored"})

        self._put(job)

    async def _look_at_links(self) -> None:
        """What became of our TUNs nobody said: one that went is news now, and the others are made as they shall be."""
        standing = []
        for index, name in list(self._links.items()):
            if await self._netlink.link_index(interface_name(name)) == index:
                standing.append(self._configured[interface_name(name)])
            elif index in self._links:
                self._changed(LinkGone(index, interface_name(name), deleted=True))
        for outcome in await self._netlink.configure_links(standing):
            if isinstance(outcome, NetlinkError):
                _log_failure(outcome)
            elif outcome in self._links:
                self._command(routing.ConnectionAdded(self._links[outcome], outcome))

    async def _report_underlay(self) -> None:
        self._underlay_due = False
        self._command(Underlay(frozenset(await self._netlink.connected_prefixes())))

    async def _restore_rules(self) -> None:
        await self._ensure_rules(logging.WARNING, "ip-rule-restored")

    def _entry(self, interface: str, destinations: tuple[str, ...], addresses: tuple[str, ...]) -> Entry:
        own = tuple(one.ip for one in _interfaces(addresses))
        return Entry(tuple(ip_network(text) for text in destinations), own, self._instance(interface))

    def _command(self, command: object) -> None:
        """What the node fails to make of one keeps no other from it: a job has dozens of them."""
        try:
            self._node(command)
        except Exception as error:
            self._refused.say(error)

    def _put(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tail = None
        self._jobs.put_nowait(job)

    def _collect(
        self, kind: Callable[[Sequence[Any]], Coroutine[Any, Any, None]], interface: str, wanted: object
    ) -> None:
        """Many of one kind, asked for one after the other, are one job; a job of another kind in between is not overtaken."""
        batch = self._tail
        if batch is None or batch.kind != kind or interface in batch.wanted or len(batch.wanted) >= BATCH:
            batch = _Batch(kind)

            async def job(batch: _Batch = batch) -> None:
                if self._tail is batch:
                    self._tail = None
                await batch.kind(list(batch.wanted.values()))

            self._put(job)
            self._tail = batch
        batch.wanted[interface] = wanted

    async def _work(self) -> None:
        job = await self._jobs.get()
        try:
            await job()
        except (NetlinkError, OSError) as error:
            _log_failure(error)
        finally:
            self._jobs.task_done()


def _interfaces(texts: tuple[str, ...]) -> tuple[Interface, ...]:
    return tuple(ip_interface(text) for text in texts)


def _log_failure(error: Exception, what: str = "netlink") -> None:
    """With its traceback where the kernel did not say it."""
    said = isinstance(error, OSError)
    text, trace = (str(error), None) if said else (repr(error), error)
    log.error("%s: %s", what, text, exc_info=trace, extra={"event": "netlink-failed"})


def _log_changes(changes: Sequence[str], level: int, event: str) -> None:
    for change in changes[:SHOWN]:
        log.log(level, "%s", change, extra={"event": event})
    if len(changes) > SHOWN:
        log.log(level, "and %d more ip rules", len(changes) - SHOWN, extra={"event": event})
