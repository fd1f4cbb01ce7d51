"""The BGP speaker: ExaBGP's lines in, loc-RIB changes and commands for ExaBGP out.

    line -> messages.parse_line -> adj-RIB-in -> policy -> decision -> loc-RIB -> BestChanged
                                                                          |-> policy -> adj-RIB-out -> SendLine

ExaBGP keeps the sessions; this keeps everything RFC 4271 9 describes. It is not a session state machine.
Whenever the relay connects, both sides are compared: `show neighbor json`, then ExaBGP's adj-RIB-in (which confirms or
sweeps ours), then its adj-RIB-out (what we do not want is withdrawn: after a start, once all have told what they know).
Paths outlive their session as stale for `stale_time`, until confirmed, or swept by an End-of-RIB (RFC 4724 4.2).
Prefixes that wait to be decided are taken in slices, so that a table of ten thousand never holds anybody up.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

from gateway.bgp import messages
from gateway.bgp.events import (
    AnswersMissing,
    Attract,
    BestChanged,
    Close,
    Command,
    CommandRefused,
    Drained,
    Effect,
    EpochHeard,
    Forwarding,
    NextHop,
    PeerDown,
    PeerStatus,
    PeerUp,
    ProcessDown,
    ProcessUp,
    Reconfigure,
    Rejected,
    Resynchronized,
    RouteStatus,
    SendLine,
    SessionsChanged,
    Shutdown,
)
from gateway.bgp.inbox import SLICE, Inbox
from gateway.bgp.instance import Instance, regrouped
from gateway.bgp.limits import watch_in
from gateway.bgp.link import Command as LinkCommand
from gateway.bgp.link import Kind, Link
from gateway.bgp.outbound import Outbound
from gateway.bgp.path import Attributes, told
from gateway.bgp.peer import DUMP_TRUSTED_AFTER, REFILL, STATES, Dump, Peer, identity, session_settings
from gateway.bgp.policy import MALFORMED, MAX_PREFIXES, accept
from gateway.bgp.prefixes import parse_address
from gateway.bgp.rib import LocRib
from gateway.bgp.settings import Address, OverLimit, Prefix, SpeakerSettings

STATUS_INTERVAL = 10.0  # between two `show neighbor json`, for counters and as a check of the session states
# RFC 4724 4.1: how long after a start we wait for the others' tables before we say that ours is complete, in seconds
SELECTION_DEFERRAL = 30.0


class Speaker:
    """See the module. Counters: `malformed`, `unknown-peer`, `surplus-answers`, `errors`, and rejection reasons."""

    def __init__(self, settings: SpeakerSettings) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.instances: dict[str, Instance] = {}
        self._link = Link()
        self._peers: dict[str, Peer] = {}
        self._unread = Inbox()
        self._pumped_at = 0.0
        self._by_address: dict[Address, Peer] = {}
        self._effects: deque[Effect] = deque()
        self._status_at = 0.0
        self._draining = False
        self._drained = False
        self._taking_over: float | None = math.inf  # until when at most; None: done
        self._adopt(settings, 0.0)

    # ---- the contract ----

    def receive(self, lines: str, now: float) -> None:
        """One line of ExaBGP's output, or several: what follows from them is done once for all."""
        self._unread.put(lines)
        self._read(now)
        self._pump(now)

    def _read(self, now: float) -> None:
        for message in self._unread.some():
            self._take(message, now)

    def _take(self, message: messages.Message, now: float) -> None:
        if isinstance(message, messages.Update):  # nearly all there are
            self._of_peer(message, now)
        elif isinstance(message, messages.Malformed):
            self.counters["malformed"] += 1
        elif isinstance(message, messages.Ack):
            self._answered(message.ok, now)
        elif isinstance(message, messages.NeighborList):
            self._neighbors_listed(message.rows, now)
        elif not isinstance(message, messages.Ignored):
            self._of_peer(message, now)

    def _of_peer(self, message: messages.FromPeer, now: float) -> None:
        peer = self._by_address.get(message.peer)
        if peer is None:
            self.counters["unknown-peer"] += 1
        elif peer.suspended_until is None:  # else what was under way when its session was torn down
            _HANDLERS[type(message)](self, peer, message, now)

    def command(self, command: Command, now: float) -> None:
        if isinstance(command, ProcessUp):
            self._synchronize(command.generation, now)
        elif isinstance(command, ProcessDown):
            self._process_down(now)
        elif isinstance(command, Reconfigure):
            self._adopt(command.settings, now)
        elif isinstance(command, Close | NextHop) and command.instance in self.instances:
            self.instances[command.instance].command(command)
        elif isinstance(command, Shutdown | Attract):
            self._draining = self._draining or isinstance(command, Shutdown)
            for instance in self.instances.values():
                instance.command(command)
        elif isinstance(command, Forwarding) and command.name in self._peers:
            self._forwarding(self._peers[command.name], command.works)
        self._pump(now)

    def poll(self) -> Iterator[Effect]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        deadlines = [due for peer in self._peers.values() for due in (peer.stale_deadline, peer.suspended_until)]
        if self._undecided or self._unread:
            deadlines.append(self._pumped_at)
        if self._link.up:
            deadlines.append(self._link.deadline())
        if self._link.synced:
            deadlines += [self._status_at, self._taking_over]
            for peer in self._peers.values():
                deadlines += peer.deadlines(SELECTION_DEFERRAL, self._pumped_at)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        self._read(now)
        for peer in self._peers.values():
            if peer.stale_deadline is not None and peer.stale_deadline <= now:
                self._sweep(peer)
            if peer.suspended_until is not None and peer.suspended_until <= now:
                peer.suspended_until = None
                self._effects.append(SessionsChanged())
            if peer.refill_at is not None and peer.refill_at <= now and self._link.synced:
                self._refill(peer)
            if peer.dump_at is not None and peer.dump_at <= now and self._link.synced:
                self._dump_again(peer)
        answer_deadline = self._link.deadline() if self._link.up else None
        if answer_deadline is not None and answer_deadline <= now:
            self._effects.append(AnswersMissing(self._link.missed(now)))
        if self._link.synced and self._status_at <= now:
            self._status_at = now + STATUS_INTERVAL
            if not self._link.asking(Kind.NEIGHBORS):
                self._link.ask(LinkCommand(Kind.NEIGHBORS, messages.SHOW_NEIGHBORS))
        self._pump(now)

    @property
    def loc_rib(self) -> LocRib:
        """Of the neighbors that belong to no instance."""
        return self.instances[""].loc_rib

    @property
    def _undecided(self) -> bool:
        return any(instance.undecided for instance in self.instances.values())

    @property
    def _decided(self) -> bool:
        return all(instance.settled for instance in self.instances.values())

    @property
    def _all_heard(self) -> bool:
        return all(peer.heard_end_of_rib for peer in self._peers.values() if peer.up)

    def _instance_of(self, peer: Peer) -> Instance:
        return self.instances[peer.settings.instance]

    @property
    def all_told(self) -> bool:
        """Whether every neighbor with a session has been told everything, in ExaBGP's word."""
        told = self._link.synced and self._taking_over is None and self._decided
        return told and all(peer.adj_out.settled for peer in self._peers.values() if peer.up)

    @property
    def connections(self) -> Iterator[str]:
        """Those in which a session stands."""
        return (peer.settings.connection for peer in self._peers.values() if peer.up)

    # ---- views ----

    def best(self) -> Iterator[BestChanged]:
        """Every best path there is, as if it were new."""
        return chain.from_iterable(instance.best() for instance in self.instances.values())

    def peers_status(self) -> tuple[PeerStatus, ...]:
        best = Counter(one.path.neighbor for each in self.instances.values() for one in each.loc_rib.best.values())
        local_as = self.settings.local_as
        return tuple(
            peer.status(best[peer.name], local_as, self._instance_of(peer).carried(peer))
            for peer in self._peers.values()
        )

    def routes_status(self, limit: int | None = None) -> Iterator[RouteStatus]:
        """Every path of every instance, with why it is or is not used."""
        return chain.from_iterable(instance.routes_status(limit) for instance in list(self.instances.values()))

    @property
    def session_settings(self) -> SpeakerSettings:
        """The settings with those neighbors only that shall have a session now."""
        suspended = {peer.name for peer in self._peers.values() if peer.suspended_until is not None}
        return self.settings.without(suspended)

    # ---- synchronisation with ExaBGP ----

    def _synchronize(self, generation: int, now: float) -> None:
        self._unread.clear()
        if self._taking_over == math.inf:
            self._taking_over = now + SELECTION_DEFERRAL
        self._link.open(generation)
        for peer in self._peers.values():
            peer.adj_in.mark_stale(lost=False)
            peer.adj_out.forget_sent()
            peer.touched.clear()
            peer.dump = Dump.IGNORE
            peer.wants_refresh = False
            self._start_stale_timer(peer, now)
        self._link.ask(LinkCommand(Kind.NEIGHBORS, messages.SHOW_NEIGHBORS))
        self._link.ask(LinkCommand(Kind.DUMP_IN, messages.SHOW_ADJ_RIB_IN))
        self._link.ask(LinkCommand(Kind.DUMP_OUT, messages.SHOW_ADJ_RIB_OUT))

    def _process_down(self, now: float) -> None:
        """Whether the sessions live on is not known; the paths are kept either way."""
        self._unread.clear()
        self._link.close()
        for peer in self._peers.values():
            peer.adj_in.mark_stale(lost=False)
            self._start_stale_timer(peer, now)

    def _neighbors_listed(self, rows: Iterable[messages.NeighborRow], now: float) -> None:
        if self._link.answering is not Kind.NEIGHBORS:
            return  # asked for by the link before this one
        self._link.body(now)
        first = not self._link.listed
        self._link.listed = True
        for row in rows:
            peer = self._by_address.get(row.peer)
            if peer is not None and peer.suspended_until is None:
                self._neighbor_listed(peer, row, first, now)

    def _neighbor_listed(self, peer: Peer, row: messages.NeighborRow, first: bool, now: float) -> None:
        peer.counted(row)
        if row.up:
            if not peer.up:
                self._session_up(peer, now - row.seconds, now)
            if first:
                peer.listed(row.seconds, now)
            return
        if peer.up:
            self._session_down(peer, "session lost meanwhile", now)
        peer.state = STATES.get(row.fsm, "Idle")

    def _answered(self, ok: bool, now: float) -> None:
        command = self._link.answered(now)
        if command is None:
            self.counters["surplus-answers"] += 1
            return
        if not ok:
            self.counters["errors"] += 1
            self._effects.append(CommandRefused(command.text))
        if command.kind is Kind.ROUTE and command.prefix is not None:
            peer = self._peers.get(command.neighbor)
            if peer is not None:
                peer.adj_out.answered(command.prefix, now)
        elif command.kind is Kind.DUMP_IN:
            self._adj_rib_in_read()
        elif command.kind is Kind.DUMP_OUT:
            self._link.synced = True
            self._status_at = now + STATUS_INTERVAL
            self._effects.append(Resynchronized(self._link.generation))

    def _adj_rib_in_read(self) -> None:
        for peer in self._peers.values():
            # The End-of-RIB of a young session may have been said to the speaker before this one: that of a refresh will not
            doubtful = peer.dump is Dump.MERGE and self._taking_over is not None and not peer.heard_end_of_rib
            if peer.wants_refresh or doubtful:
                self._ask_refresh(peer)
            elif peer.dump is Dump.COMPLETE and peer.up:
                peer.heard_end_of_rib = True  # or it was said before our time
                self._sweep(peer)
            elif peer.dump is Dump.MERGE and peer.established_at is not None:
                peer.dump_at = peer.established_at + DUMP_TRUSTED_AFTER
            peer.dump = Dump.IGNORE
            peer.touched.clear()

    def _dump_again(self, peer: Peer) -> None:
        """The session was young when the link was made; by now ExaBGP has its table, though no End-of-RIB may have come."""
        peer.dump_at = None
        # what is stale since the session went waits for its End-of-RIB instead
        if peer.up and peer.adj_in.stale and not peer.adj_in.lost:
            peer.dump = Dump.COMPLETE
            self._link.ask(LinkCommand(Kind.DUMP_IN, messages.SHOW_ADJ_RIB_IN))

    def _ask_refresh(self, peer: Peer) -> None:
        peer.wants_refresh = False
        if not peer.refreshes:
            return
        text = messages.render_refresh(peer.settings.address, peer.settings.address.version)
        self._link.ask(LinkCommand(Kind.REFRESH, text, peer.name))

    def _row(self, peer: Peer, row: messages.RibRow, now: float) -> None:
        self._link.body(now)
        if self._link.answering is Kind.DUMP_OUT:
            peer.adj_out.found(row.prefix, told(row.next_hop, row.attributes))
        elif self._link.answering is Kind.DUMP_IN and peer.dump is not Dump.IGNORE and row.prefix not in peer.touched:
            self._merge(peer, row, now)

    def _merge(self, peer: Peer, row: messages.RibRow, now: float) -> None:
        """Interop: of two IPv6 next hops ExaBGP 5.0.15 dumps the link-local one; only the peer can tell the other."""
        known = peer.adj_in.entries.get(row.prefix)
        if row.fault:
            peer.adj_in.remove(row.prefix)
        elif row.next_hop.version == 4 or not row.next_hop.is_link_local:
            self._learn(peer, row.prefix, row.next_hop, row.attributes, now)
            self._effects.extend(watch_in(peer))
        elif known is not None and known.path.attributes == row.attributes:
            peer.adj_in.confirm(row.prefix)
        else:
            peer.wants_refresh = True
        self._instance_of(peer).recompute([row.prefix])

    # ---- sessions ----

    def _state(self, peer: Peer, message: messages.SessionState, now: float) -> None:
        if message.state == "down":
            peer.ended(message.reason, now)
        if message.state == "up":
            if peer.up:
                self._session_down(peer, "session replaced", now)
            self._session_up(peer, now, now)
        elif message.state == "down" and peer.up:
            self._session_down(peer, message.reason or "session closed", now)
        elif message.state == "down":
            peer.state = "Idle"
            peer.last_error = message.reason or peer.last_error
        elif not peer.up:
            peer.state = "Connect"

    def _session_up(self, peer: Peer, established_at: float, now: float) -> None:
        peer.went_up(established_at, now)
        if peer.adj_in.stale:
            peer.stale_deadline = now + peer.patience(self.settings.stale_time)
        self._effects.append(PeerUp(peer.name))

    def _session_down(self, peer: Peer, reason: str, now: float) -> None:
        peer.went_down(reason)
        self._effects.append(PeerDown(peer.name, reason))
        # RFC 4724 4.2: retain the routes and mark them stale
        peer.adj_in.mark_stale(lost=True)
        self._start_stale_timer(peer, now)
        if self.settings.stale_time == 0:
            self._sweep(peer)
        else:
            self._instance_of(peer).recompute(peer.adj_in.stale)

    def _forwarding(self, peer: Peer, works: bool) -> None:
        """RFC 5882 4.2: what it taught us is as if its session were down, and is told to nobody. The session is left alone: it
        ends by itself or by the peer, and if neither, all it taught us holds as soon as packets pass again."""
        if peer.adj_in.unreachable is works:
            peer.adj_in.unreachable = not works
            self._instance_of(peer).tell_anew(peer.adj_in.entries)

    def _start_stale_timer(self, peer: Peer, now: float) -> None:
        if not peer.adj_in.stale:
            peer.stale_deadline = None
        elif peer.stale_deadline is None:
            peer.stale_deadline = now + self.settings.stale_time

    def _sweep(self, peer: Peer) -> None:
        peer.stale_deadline = None
        self._instance_of(peer).recompute(peer.adj_in.sweep())

    # ---- routes in ----

    def _update(self, peer: Peer, message: messages.Update, now: float) -> None:
        if not peer.up:  # only an Established session has UPDATEs: its `up` was before our time
            self._session_up(peer, now, now)
        for prefix in message.withdrawn:
            peer.adj_in.remove(prefix)
        if peer.stale_deadline is not None and not peer.tells_end:
            peer.stale_deadline = max(peer.stale_deadline, now + peer.patience(self.settings.stale_time))
        if peer.discarded and message.withdrawn and peer.refill_at is None:
            peer.refill_at = now + REFILL
        for prefix, next_hop in message.announced:
            if peer.suspended_until is not None:
                break  # the first too many has ended the session: nothing it taught us stays
            self._learn(peer, prefix, next_hop, message.attributes, now)
        self._effects.extend(watch_in(peer))
        if message.fault and message.withdrawn:
            # RFC 7606 2: treat-as-withdraw
            self._complain(peer, message.withdrawn[-1], MALFORMED)
        peer.partial = peer.partial or message.partial
        prefixes = [prefix for prefix, _ in message.announced]
        prefixes += message.withdrawn
        if not self._link.listed or peer.dump is not Dump.IGNORE:
            peer.touched.update(prefixes)
        self._instance_of(peer).recompute(prefixes)

    def _learn(self, peer: Peer, prefix: Prefix, next_hop: Address, attributes: Attributes, now: float) -> None:
        neighbor = peer.settings
        path = peer.path(prefix, next_hop, attributes, not self.settings.internal(neighbor))
        if (mark := peer.new_mark(attributes, self.settings.local_as)) is not None:
            self._effects.append(EpochHeard(peer.name, mark))
        used, reason = accept(self.settings, neighbor, path)
        known = peer.adj_in.entries.get(prefix)
        replaces = known is not None and not known.rejected
        if not reason and not replaces and peer.adj_in.accepted >= neighbor.max_prefixes:
            reason = self._over_limit(peer, prefix, now)
        if reason != MAX_PREFIXES:
            peer.adj_in.put(path, used, reason)
        if reason:
            self._complain(peer, prefix, reason)

    def _over_limit(self, peer: Peer, prefix: Prefix, now: float) -> str:
        """One more prefix than the neighbor may teach us."""
        if peer.settings.over_limit is OverLimit.WARN:
            return ""
        peer.adj_in.remove(prefix)
        peer.discarded += 1
        if peer.settings.over_limit is OverLimit.TEARDOWN and peer.up:
            self._suspend(peer, now)
        return MAX_PREFIXES

    def _refill(self, peer: Peer) -> None:
        """There is room again, and what was refused only the neighbor knows (RFC 2918)."""
        peer.refill_at = None
        if peer.up and peer.adj_in.accepted < peer.settings.max_prefixes:
            peer.discarded = 0
            self._effects.extend(watch_in(peer))
            self._ask_refresh(peer)

    def _suspend(self, peer: Peer, now: float) -> None:
        """RFC 4486 4, RFC 4271 6.7: the session ends, and is not begun again before a while."""
        self._effects.extend(watch_in(peer))
        self._link.ask(LinkCommand(Kind.SESSION, messages.render_teardown(peer.settings.address), peer.name))
        peer.suspended_until = now + peer.settings.restart_after
        self._effects.append(SessionsChanged())
        self._session_down(peer, f"more than {peer.settings.max_prefixes} prefixes", now)
        self._sweep(peer)

    def _complain(self, peer: Peer, prefix: Prefix, reason: str) -> None:
        self.counters[reason] += 1
        if reason not in peer.complained:
            peer.complained.add(reason)
            self._effects.append(Rejected(peer.name, prefix, reason))

    def _end_of_rib(self, peer: Peer, message: messages.EndOfRib, _now: float) -> None:
        if message.version == peer.settings.address.version:
            peer.heard_end_of_rib = True
            self._sweep(peer)

    def _refresh(self, peer: Peer, message: messages.Refresh, now: float) -> None:
        # RFC 7313 4: what is not repeated between the two markers is gone
        if message.version != peer.settings.address.version:
            return
        if message.subtype == "begin":
            peer.adj_in.mark_stale(lost=False)
            self._start_stale_timer(peer, now)
        elif message.subtype == "end":
            peer.heard_end_of_rib = True
            self._sweep(peer)

    # ---- decision and routes out ----

    def _decide_some(self) -> None:
        turns = SLICE
        for instance in self.instances.values():
            now = min(turns, instance.undecided)
            turns -= now
            self._effects.extend(instance.decide_some(now, self.settings.max_paths))

    # ---- commands out ----

    def _pump(self, now: float) -> None:
        self._pumped_at = now
        self._decide_some()
        while self._link.credit > 0 and (command := self._link.next_waiting()) is not None:
            self._send(command, now)
        if self._link.synced:
            if self._taking_over is not None:
                self._take_over(now, self._taking_over)
            ready = [peer for peer in self._peers.values() if peer.up and peer.ready_at <= now]
            for peer in ready:
                peer.ready_at = 0.0
                peer.adj_out.release(now)
            while ready and self._link.credit > 0:
                ready = [peer for peer in ready if self._send_next(peer, now)]
            self._end_ribs(now)
        self._note_drained()

    def _take_over(self, now: float, latest: float) -> None:
        """What ExaBGP announces for the speaker before this one stands until the others' tables are read and decided."""
        if self._draining or now >= latest or (self._all_heard and self._decided and not self._unread):
            self._taking_over = None
            for peer in self._peers.values():
                peer.adj_out.keep(False)

    def _end_ribs(self, now: float) -> None:
        """RFC 4724 4.1: the marker follows the routes, and these follow what the others have to tell."""
        owed = any(peer.owes_end_of_rib for peer in self._peers.values())
        if not owed or self._taking_over is not None or not self._decided:
            return
        complete = self._all_heard
        for peer in self._peers.values():
            if peer.may_end_rib(complete or now >= (peer.established_at or 0.0) + SELECTION_DEFERRAL):
                peer.owes_end_of_rib, address = False, peer.settings.address
                end = LinkCommand(Kind.SESSION, messages.render_end_of_rib(address, address.version), peer.name)
                self._send(end, now)

    def _send_next(self, peer: Peer, now: float) -> bool:
        item = peer.adj_out.next() if self._link.credit > 0 else None
        if item is None:
            return False
        prefix, announcement = item
        text = messages.render_route(peer.settings.address, prefix, announcement)
        self._send(LinkCommand(Kind.ROUTE, text, peer.name, prefix), now)
        return True

    def _send(self, command: LinkCommand, now: float) -> None:
        self._link.sent(command, now)
        self._effects.append(SendLine(command.text))

    def _note_drained(self) -> None:
        if not self._draining or self._drained:
            return
        untold = any(peer.up and not peer.adj_out.settled for peer in self._peers.values())
        if not self._link.up or (self._link.synced and not self._undecided and not untold):
            self._drained = True
            self._effects.append(Drained())

    # ---- configuration ----

    def _adopt(self, settings: SpeakerSettings, now: float) -> None:
        """Take new settings over; what did not change of a neighbor keeps its session and its paths."""
        old_settings, self.settings = self.settings, settings
        old_peers, self._peers = self._peers, {}
        self.instances = regrouped(self.instances, old_peers.values(), settings)
        for neighbor in settings.neighbors:
            instance = self.instances[neighbor.instance]
            outbound = Outbound(settings, neighbor, instance.best_of, instance.underlay, instance.attraction)
            peer = old_peers.get(neighbor.name)
            if peer is None or identity(old_settings, peer.settings) != identity(settings, neighbor):
                peer = Peer(neighbor, settings.role(neighbor), outbound, self._taking_over is not None)
            elif session_settings(peer.settings) != session_settings(neighbor):
                peer.adj_out.doubt_sent()  # ExaBGP builds the session anew
            if peer.settings.instance != neighbor.instance:
                self._move(peer)
            if (neighbor.max_prefixes, neighbor.over_limit) != (peer.settings.max_prefixes, peer.settings.over_limit):
                peer.suspended_until = None
            peer.settings, peer.role, peer.outbound = neighbor, settings.role(neighbor), outbound
            peer.adj_out.limit(neighbor.budget)
            self._peers[neighbor.name] = instance.peers[neighbor.name] = peer
            peer.adj_in.judge_again(partial(accept, settings, neighbor))
        self._by_address = {parse_address(str(peer.settings.address)): peer for peer in self._peers.values()}
        for instance in self.instances.values():
            instance.tell_again()
        for peer in self._peers.values():
            self._start_stale_timer(peer, now)

    def _move(self, peer: Peer) -> None:
        """To another instance. ExaBGP hears nothing of that, and the session goes on: what it taught us is asked for again."""
        peer.moved()
        if peer.up and self._link.up:
            peer.dump = Dump.MERGE
            self._link.ask(LinkCommand(Kind.DUMP_IN, messages.SHOW_ADJ_RIB_IN))
            self._ask_refresh(peer)


_HANDLERS: dict[type[Any], Callable[[Speaker, Peer, Any, float], None]] = {
    messages.SessionState: Speaker._state,
    messages.FsmState: lambda _, peer, message, now: peer.fsm(message),
    messages.Opened: lambda _, peer, message, now: peer.opened(message),
    messages.Notified: lambda _, peer, message, now: peer.told(message, now),
    messages.Update: Speaker._update,
    messages.EndOfRib: Speaker._end_of_rib,
    messages.Refresh: Speaker._refresh,
    messages.RibRow: Speaker._row,
}
