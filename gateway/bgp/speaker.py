"""The BGP speaker: ExaBGP's lines in, loc-RIB changes and commands for ExaBGP out.

    line -> messages.parse_line -> adj-RIB-in -> policy -> decision -> loc-RIB -> BestChanged
                                                                          |-> policy -> adj-RIB-out -> SendLine

ExaBGP keeps the sessions; this keeps everything RFC 4271 9 describes. It is not a session state machine.
Whenever the relay connects, both sides are compared: `show neighbor json`, then ExaBGP's adj-RIB-in (which
confirms or sweeps ours), then its adj-RIB-out (whatever it announces that we do not want is withdrawn).
Paths outlive their session as stale for `stale_time`, until confirmed, or swept by an End-of-RIB (RFC 4724 4.2).
Prefixes that wait to be decided are taken in slices, so that a table of ten thousand never holds anybody up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from gateway.bgp import messages, views
from gateway.bgp.decision import select
from gateway.bgp.events import (
    AnswersMissing,
    BestChanged,
    Close,
    Command,
    CommandRefused,
    Drained,
    Effect,
    Forwarding,
    LimitCrossed,
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
from gateway.bgp.limits import watch_in, watch_out
from gateway.bgp.link import Command as LinkCommand
from gateway.bgp.link import Kind, Link
from gateway.bgp.outbound import Outbound
from gateway.bgp.path import Attributes, Path
from gateway.bgp.peer import STATES, Dump, Peer
from gateway.bgp.policy import MAX_PREFIXES, accept
from gateway.bgp.rib import Candidate, LocRib
from gateway.bgp.settings import Address, NeighborSettings, OverLimit, Prefix, Role, SpeakerSettings

STATUS_INTERVAL = 10.0  # between two `show neighbor json`, for counters and as a check of the session states
DUMP_TRUSTED_AFTER = 5  # seconds a session must have been up for ExaBGP's adj-RIB-in to count as complete
SLICE = 128  # prefixes decided in one go
# RFC 4724 4.1: how long after a start we wait for the others' tables before we say that ours is complete, in seconds
SELECTION_DEFERRAL = 30.0


class Speaker:
    """See the module. Counters: `malformed`, `unknown-peer`, `surplus-answers`, `errors`, and rejection reasons."""

    def __init__(self, settings: SpeakerSettings) -> None:
        self.settings = settings
        self.counters: Counter[str] = Counter()
        self.loc_rib = LocRib()
        self._link = Link()
        self._peers: dict[str, Peer] = {}
        self._unread: deque[messages.Message] = deque()
        self._undecided: dict[Prefix, None] = {}  # a set in order of insertion
        self._closed: set[Prefix] = set()  # to which only paths in tunnels are used
        self._untold: set[Prefix] = set()  # of those: what is announced may differ though the best path does not
        self._pumped_at = 0.0
        self._by_address: dict[Address, Peer] = {}
        self._effects: deque[Effect] = deque()
        self._status_at = 0.0
        self._draining = False
        self._drained = False
        self._adopt(settings, 0.0)

    # ---- the contract ----

    def receive(self, line: str, now: float) -> None:
        """One line of ExaBGP's output."""
        self._unread.extend(messages.in_parts(messages.parse_line(line), SLICE))
        self._read(now)
        self._pump(now)

    def _read(self, now: float) -> None:
        """In order, and at most one message more than SLICE prefixes."""
        prefixes = 0
        while self._unread and prefixes < SLICE:
            message = self._unread.popleft()
            prefixes += len(message.announced) + len(message.withdrawn) if isinstance(message, messages.Update) else 1
            self._take(message, now)

    def _take(self, message: messages.Message, now: float) -> None:
        if isinstance(message, messages.Malformed):
            self.counters["malformed"] += 1
        elif isinstance(message, messages.Ack):
            self._answered(message.ok, now)
        elif isinstance(message, messages.NeighborList):
            self._neighbors_listed(message.rows, now)
        elif not isinstance(message, messages.Ignored):
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
        elif isinstance(command, Close):
            self._close(command)
        elif isinstance(command, Shutdown):
            self._draining = True
            self._tell_again()
        elif isinstance(command, Forwarding) and command.name in self._peers:
            self._forwarding(self._peers[command.name], command.works)
        self._pump(now)

    def poll(self) -> Iterator[Effect]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        deadlines = [peer.stale_deadline for peer in self._peers.values()]
        deadlines += [peer.suspended_until for peer in self._peers.values()]
        if self._undecided or self._unread:
            deadlines.append(self._pumped_at)
        if self._link.up:
            deadlines.append(self._link.deadline())
        if self._link.synced:
            deadlines.append(self._status_at)
            for peer in self._peers.values():
                if peer.up and not peer.adj_out.settled:
                    deadlines += [peer.ready_at or None, peer.adj_out.next_release()]
                elif peer.up and peer.owes_end_of_rib and peer.established_at is not None:
                    deadlines.append(max(peer.established_at + SELECTION_DEFERRAL, self._pumped_at + 1.0))
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        self._read(now)
        for peer in self._peers.values():
            if peer.stale_deadline is not None and peer.stale_deadline <= now:
                self._sweep(peer)
            if peer.suspended_until is not None and peer.suspended_until <= now:
                peer.suspended_until = None
                self._effects.append(SessionsChanged())
        answer_deadline = self._link.deadline() if self._link.up else None
        if answer_deadline is not None and answer_deadline <= now:
            self._effects.append(AnswersMissing(self._link.missed(now)))
        if self._link.synced and self._status_at <= now:
            self._status_at = now + STATUS_INTERVAL
            if not self._link.asking(Kind.NEIGHBORS):
                self._link.ask(LinkCommand(Kind.NEIGHBORS, messages.SHOW_NEIGHBORS))
        self._pump(now)

    # ---- views ----

    def peers_status(self) -> tuple[PeerStatus, ...]:
        best = Counter(one.path.neighbor for one in self.loc_rib.best.values())
        return tuple(peer.status(best[peer.name]) for peer in self._peers.values())

    def routes_status(self, limit: int | None = None) -> Iterator[RouteStatus]:
        """Every path, with why it is or is not used, see views.py."""
        return views.routes(self._peers.values(), self.loc_rib, self._closed, limit)

    @property
    def session_settings(self) -> SpeakerSettings:
        """The settings with those neighbors only that shall have a session now."""
        suspended = {peer.name for peer in self._peers.values() if peer.suspended_until is not None}
        if not suspended:
            return self.settings
        neighbors = tuple(one for one in self.settings.neighbors if one.name not in suspended)
        return replace(self.settings, neighbors=neighbors)

    # ---- synchronisation with ExaBGP ----

    def _synchronize(self, generation: int, now: float) -> None:
        self._unread.clear()
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
        peer.messages_sent, peer.messages_received = row.sent, row.received
        peer.router_id = row.router_id or peer.router_id
        if row.up:
            if not peer.up:
                self._session_up(peer, now - row.seconds, now)
            if first:
                peer.established_at = now - row.seconds
                peer.dump = Dump.COMPLETE if row.seconds >= DUMP_TRUSTED_AFTER else Dump.MERGE
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
            if peer.wants_refresh:
                self._ask_refresh(peer)
            elif peer.dump is Dump.COMPLETE and peer.up:
                peer.heard_end_of_rib = True  # or it was said before our time
                self._sweep(peer)
            peer.dump = Dump.IGNORE
            peer.touched.clear()

    def _ask_refresh(self, peer: Peer) -> None:
        peer.wants_refresh = False
        text = messages.render_refresh(peer.settings.address, peer.settings.address.version)
        self._link.ask(LinkCommand(Kind.REFRESH, text, peer.name))

    def _row(self, peer: Peer, row: messages.RibRow, now: float) -> None:
        self._link.body(now)
        if self._link.answering is Kind.DUMP_OUT:
            peer.adj_out.found(row.prefix)
        elif self._link.answering is Kind.DUMP_IN and peer.dump is not Dump.IGNORE and row.prefix not in peer.touched:
            self._merge(peer, row, now)

    def _merge(self, peer: Peer, row: messages.RibRow, now: float) -> None:
        """Interop: of two IPv6 next hops ExaBGP 5.0.15 dumps the link-local one; only the peer can tell the other."""
        known = peer.adj_in.entries.get(row.prefix)
        if not row.next_hop.is_link_local:
            self._learn(peer, row.prefix, row.next_hop, row.attributes, now)
        elif known is not None and known.path.attributes == row.attributes:
            peer.adj_in.confirm(row.prefix)
        else:
            peer.wants_refresh = True
        self._recompute([row.prefix])

    # ---- sessions ----

    def _state(self, peer: Peer, message: messages.SessionState, now: float) -> None:
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

    def _fsm(self, peer: Peer, message: messages.FsmState, _now: float) -> None:
        if not peer.up and message.state != "ESTABLISHED":
            peer.state = STATES.get(message.state, peer.state)

    def _opened(self, peer: Peer, message: messages.Opened, _now: float) -> None:
        peer.router_id = message.router_id

    def _notified(self, peer: Peer, message: messages.Notified, _now: float) -> None:
        direction = "sent" if message.sent else "received"
        text = f": {message.text}" if message.text.isprintable() and message.text else ""
        peer.last_error = f"NOTIFICATION {direction} {message.code}/{message.subcode}{text}"

    def _session_up(self, peer: Peer, established_at: float, now: float) -> None:
        peer.went_up(established_at, now)
        if peer.adj_in.stale:
            peer.stale_deadline = now + self.settings.stale_time
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
            self._recompute(peer.adj_in.stale)

    def _forwarding(self, peer: Peer, works: bool) -> None:
        """RFC 5882 4.2: what it taught us is as if its session were down, and is told to nobody. The session is left alone: it
        ends by itself or by the peer, and if neither, all it taught us holds as soon as packets pass again."""
        if peer.adj_in.unreachable is works:
            peer.adj_in.unreachable = not works
            self._recompute(peer.adj_in.entries)
            self._untold.update(peer.adj_in.entries)

    def _start_stale_timer(self, peer: Peer, now: float) -> None:
        if not peer.adj_in.stale:
            peer.stale_deadline = None
        elif peer.stale_deadline is None:
            peer.stale_deadline = now + self.settings.stale_time

    def _sweep(self, peer: Peer) -> None:
        peer.stale_deadline = None
        self._recompute(peer.adj_in.sweep())

    # ---- routes in ----

    def _update(self, peer: Peer, message: messages.Update, now: float) -> None:
        if not peer.up:  # only an Established session has UPDATEs: its `up` was before our time
            self._session_up(peer, now, now)
        for prefix in message.withdrawn:
            peer.adj_in.remove(prefix)
        for prefix, next_hop in message.announced:
            self._learn(peer, prefix, next_hop, message.attributes, now)
        prefixes = [*message.withdrawn, *(prefix for prefix, _ in message.announced)]
        if not self._link.listed or peer.dump is not Dump.IGNORE:
            peer.touched.update(prefixes)
        self._recompute(prefixes)

    def _learn(self, peer: Peer, prefix: Prefix, next_hop: Address, attributes: Attributes, now: float) -> None:
        neighbor = peer.settings
        external = not self.settings.internal(neighbor)
        if external and attributes.local_preference is not None:
            # RFC 4271 5.1.5: LOCAL_PREF from another AS is ignored
            attributes = replace(attributes, local_preference=None)
        path = Path(
            prefix, neighbor.name, neighbor.connection, next_hop, attributes, neighbor.address, neighbor.remote_as,
            external, peer.router_id, now,
        )  # fmt: skip
        used, reason = accept(self.settings, neighbor, path)
        known = peer.adj_in.entries.get(prefix)
        replaces = known is not None and not known.rejected
        if not reason and not replaces and peer.adj_in.accepted >= neighbor.max_prefixes:
            reason = self._over_limit(peer, prefix, now)
        if reason != MAX_PREFIXES:
            peer.adj_in.put(path, used, reason)
        self._say(watch_in(peer))
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

    def _suspend(self, peer: Peer, now: float) -> None:
        """RFC 4486 4, RFC 4271 6.7: the session ends, and is not begun again before a while."""
        self._say(watch_in(peer))
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

    def _say(self, crossed: LimitCrossed | None) -> None:
        if crossed is not None:
            self._effects.append(crossed)

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
            self._sweep(peer)

    # ---- decision and routes out ----

    def _recompute(self, prefixes: Iterable[Prefix]) -> None:
        self._undecided.update(dict.fromkeys(prefixes))

    def _tell_again(self) -> None:
        """What is announced may be other than it was for every prefix there is: own ones first, then what has been told
        before what has not, so that a full budget is filled as it was."""
        known: dict[Prefix, None] = {}
        for peer in self._peers.values():
            known.update(dict.fromkeys((*peer.outbound.standing(), *peer.adj_out.wanted, *peer.adj_out.held)))
        known.update(dict.fromkeys(self.loc_rib.best))
        self._recompute(known)
        self._untold.update(known)

    def _decide_some(self) -> None:
        for prefix in list(islice(self._undecided, SLICE)):
            del self._undecided[prefix]
            best = select(self._candidates(prefix), self.settings.max_paths)
            another, changed = self.loc_rib.replace(prefix, best)
            if changed and best is None:
                self._effects.append(BestChanged(prefix, None))
            elif changed and best is not None:
                self._effects.append(BestChanged(prefix, best.path, best.others, best.backup))
            if another or prefix in self._untold:
                self._untold.discard(prefix)
                self._announce(prefix)

    def _candidates(self, prefix: Prefix) -> list[Candidate]:
        found = (peer.adj_in.candidate(prefix) for peer in self._peers.values())
        closed = prefix in self._closed
        return [one for one in found if one is not None and (one.path.connection or not closed)]

    def _announce(self, changed: Prefix) -> None:
        for peer in self._peers.values():
            if peer.outbound.version != changed.version:
                continue  # the session carries one family
            for prefix in (changed,) if peer.outbound.plain else peer.outbound.about(changed):
                wanted = None if self._draining else peer.outbound.told(prefix)
                peer.adj_out.want(prefix, wanted, essential=peer.outbound.essential(prefix))
            if peer.adj_out.budget or peer.level_out:
                self._say(watch_out(peer))

    def _close(self, command: Close) -> None:
        change = self._closed.update if command.closed else self._closed.difference_update
        change(command.prefixes)
        self._recompute(command.prefixes)

    def _best_of(self, prefix: Prefix) -> tuple[Path | None, Role | None]:
        best = self.loc_rib.best.get(prefix)
        # Not yet decided anew, it may be of a neighbor that is configured no longer
        peer = self._peers.get(best.path.neighbor) if best is not None else None
        if best is None or peer is None or peer.adj_in.unreachable:
            return None, None
        return best.path, peer.role

    # ---- commands out ----

    def _pump(self, now: float) -> None:
        self._pumped_at = now
        self._decide_some()
        while self._link.credit > 0 and (command := self._link.next_waiting()) is not None:
            self._send(command, now)
        if self._link.synced:
            ready = [peer for peer in self._peers.values() if peer.up and peer.ready_at <= now]
            for peer in ready:
                peer.ready_at = 0.0
                peer.adj_out.release(now)
            while ready and self._link.credit > 0:
                ready = [peer for peer in ready if self._send_next(peer, now)]
            self._end_ribs(now)
        self._note_drained()

    def _end_ribs(self, now: float) -> None:
        """RFC 4724 4.1: the marker follows the routes, and these follow what the others have to tell."""
        if self._undecided or not any(peer.owes_end_of_rib for peer in self._peers.values()):
            return
        complete = all(peer.heard_end_of_rib for peer in self._peers.values() if peer.up)
        for peer in self._peers.values():
            if not (peer.up and peer.owes_end_of_rib and not peer.ready_at and peer.adj_out.settled):
                continue
            if complete or now >= (peer.established_at or 0.0) + SELECTION_DEFERRAL:
                peer.owes_end_of_rib = False
                address = peer.settings.address
                text = messages.render_end_of_rib(address, address.version)
                self._send(LinkCommand(Kind.SESSION, text, peer.name), now)

    def _send_next(self, peer: Peer, now: float) -> bool:
        item = peer.adj_out.next() if self._link.credit > 0 else None
        if item is None:
            return False
        prefix, announcement = item
        address = peer.settings.address
        if announcement is None:
            text = messages.render_withdraw(address, prefix)
        else:
            text = messages.render_announce(address, prefix, announcement)
        self._send(LinkCommand(Kind.ROUTE, text, peer.name, prefix), now)
        return True

    def _send(self, command: LinkCommand, now: float) -> None:
        self._link.sent(command, now)
        self._effects.append(SendLine(command.text))

    def _note_drained(self) -> None:
        if not self._draining or self._drained:
            return
        pending = self._link.up and (
            not self._link.synced
            or self._undecided
            or any(peer.up and not peer.adj_out.settled for peer in self._peers.values())
        )
        if not pending:
            self._drained = True
            self._effects.append(Drained())

    # ---- configuration ----

    def _adopt(self, settings: SpeakerSettings, now: float) -> None:
        """Take new settings over; what did not change of a neighbor keeps its session and its paths."""
        old_settings, self.settings = self.settings, settings
        old_peers, self._peers = self._peers, {}
        affected = {prefix for peer in old_peers.values() for prefix in peer.adj_in.entries} | set(self.loc_rib.best)
        for neighbor in settings.neighbors:
            outbound = Outbound(settings, neighbor, self._best_of)
            peer = old_peers.get(neighbor.name)
            if peer is None or _identity(old_settings, peer.settings) != _identity(settings, neighbor):
                peer = Peer(neighbor, settings.role(neighbor), outbound)
            elif _session_settings(peer.settings) != _session_settings(neighbor):
                peer.adj_out.doubt_sent()  # ExaBGP builds the session anew
            if (neighbor.max_prefixes, neighbor.over_limit) != (peer.settings.max_prefixes, peer.settings.over_limit):
                peer.suspended_until = None
            peer.settings, peer.role, peer.outbound = neighbor, settings.role(neighbor), outbound
            peer.adj_out.limit(neighbor.budget)
            self._peers[neighbor.name] = peer
            self._judge_again(peer)
        self._by_address = {peer.settings.address: peer for peer in self._peers.values()}
        self._recompute(affected)
        self._tell_again()
        for peer in self._peers.values():
            self._start_stale_timer(peer, now)

    def _judge_again(self, peer: Peer) -> None:
        peer.adj_in.judge_again(lambda path: accept(self.settings, peer.settings, path))


def _identity(settings: SpeakerSettings, neighbor: NeighborSettings) -> tuple[object, ...]:
    """What makes it another session altogether: nothing learned or told before holds."""
    return (
        settings.local_as, settings.router_id, neighbor.address, neighbor.local_address, neighbor.remote_as,
        neighbor.connection,
    )  # fmt: skip


def _session_settings(neighbor: NeighborSettings) -> NeighborSettings:
    """The settings without those that are only ours, not ExaBGP's."""
    return replace(
        neighbor, advertise=None, max_prefixes=1, accept_default=False, allow_own_as=0, import_policy=None,
        export_policy=None, transit=False, aggregate=(), more_specific=(), default_always=False, default_while=None,
        over_limit=OverLimit.DISCARD, restart_after=0.0, budget=0,
    )  # fmt: skip


_HANDLERS: dict[type[Any], Callable[[Speaker, Peer, Any, float], None]] = {
    messages.SessionState: Speaker._state,
    messages.FsmState: Speaker._fsm,
    messages.Opened: Speaker._opened,
    messages.Notified: Speaker._notified,
    messages.Update: Speaker._update,
    messages.EndOfRib: Speaker._end_of_rib,
    messages.Refresh: Speaker._refresh,
    messages.RibRow: Speaker._row,
}
