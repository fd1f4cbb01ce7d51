"""Every BFD session and every probe of the gateway: which there are, when they can run, and what follows from them.

    tunnel up, device there -> path(True) -> session -> Arm -> effects.ProbeArm -> native/probe.c
    native/probe.c -> packet, expired -> session -> Changed -> routing.Liveness, bgp.Forwarding, ike.CheckLiveness

A session inside a tunnel runs while the tunnel can carry it. Several may watch one tunnel; it fails when one of them does
and none is up. What a verdict means to the FIB, the speaker and IKE is said here; the node carries it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.bfd.echo import Echo, EchoSettings
from gateway.bfd.full_size import Passage
from gateway.bfd.probing import Arm, Changed, Disarm, Effect, LivenessStatus, Passed, Send, Verdict
from gateway.bfd.session import Session, SessionSettings
from gateway.bgp.events import Forwarding
from gateway.contract import RandomSource
from gateway.deadlines import Deadlines
from gateway.ha.roles import VoteChanged
from gateway.ike.commands import CheckLiveness
from gateway.node import effects
from gateway.node.circuits import Circuits
from gateway.node.tunnel import Tunnel
from gateway.node.watches import Watch
from gateway.routing.model import Liveness as Passes
from gateway.routing.model import Single, ViaConnection

FAREWELLS = 3
"""Packets that say administratively down; one may get lost."""
KEY_OCTETS = 4


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """One watch for status; `id` is the probe's."""

    watch: Watch
    id: int
    session: LivenessStatus


@dataclass(slots=True)
class _Watched:
    id: int
    watch: Watch
    session: Session | Echo
    interface: int = 0
    open: bool = False  # the probe has it

    def adopt(self, watch: Watch, now: float) -> None:
        self.watch = watch
        match self.session, watch.settings:
            case Session() as session, SessionSettings() as settings:
                session.adopt(settings, now)
            case Echo() as echo, EchoSettings() as asked:
                echo.adopt(asked, now)

    @property
    def key(self) -> int:
        return self.session.key if isinstance(self.session, Echo) else self.session.discriminator


class Liveness:
    """See the module. `poll` yields probe effects and events for the shell, and commands for the cores. `tunnels` is the
    node's own mapping, as it is at each moment."""

    def __init__(self, tunnels: Mapping[str, Tunnel], random: RandomSource) -> None:
        self._tunnels = tunnels
        self._random = random
        self._watched: dict[str, _Watched] = {}  # by name of the watch
        self._by_id: dict[int, _Watched] = {}
        self._by_target: dict[Single | None, list[_Watched]] = {}  # None: the vote's
        self._deadlines: Deadlines[int] = Deadlines(self._deadline_of)
        self._next_id = 1
        self._reached = 0
        self._effects: deque[object] = deque()
        self.circuits = Circuits()

    def adopt(self, watches: Iterable[Watch], now: float) -> None:
        """What there shall be from now on. New ones wait for their path."""
        wanted = {watch.name: watch for watch in watches}
        for name, known in list(self._watched.items()):
            if name not in wanted or wanted[name].path != known.watch.path:
                self._end(known, now)
                self.circuits.forget(known.watch.circuit)
        self.circuits.adopt({watch.circuit: watch.hold for watch in wanted.values() if watch.circuit})
        for name, watch in wanted.items():
            if name not in self._watched:
                self._begin(watch)
            elif self._watched[name].watch != watch:
                self._watched[name].adopt(watch, now)
        for watched in self._watched.values():
            self._path(watched, now)
            if watched.session.verdict is Verdict.DOWN:
                self._tell(watched, works=False)  # also to a speaker that is new, or has the neighbor anew
        self._count_votes()

    def stop(self, now: float) -> None:
        """Nothing is watched any more. Circuits stay as they were found: what they carry need not stop with us."""
        for known in list(self._watched.values()):
            self._end(known, now)

    def path(self, connection: str, now: float) -> None:
        """Something about this tunnel changed: can it carry what watches it?"""
        for watched in self._by_target.get(ViaConnection(connection), ()):
            self._path(watched, now)

    def moved(self, connection: str, now: float) -> None:
        """The peer is at another address: what passes there is not known."""
        for watched in self._by_target.get(ViaConnection(connection), ()):
            if isinstance(watched.session, Echo):
                watched.session.whole(self._tunnels[connection].mtu, now, moved=True)
                self._drain(watched)

    def passes(self, connection: str) -> bool:
        """Whether what watches this tunnel finds that packets get through, or nothing does."""
        return self._works(ViaConnection(connection))

    def notices(self, connections: Iterable[str]) -> float:
        """Seconds until it is found out that one of these tunnels lets nothing through from now on; 0 where none is watched."""
        sessions = (one.session for name in connections for one in self._by_target.get(ViaConnection(name), ()))
        return max((session.detection for session in sessions), default=0.0)

    def black_hole(self, connection: str) -> LivenessStatus | None:
        """What found that small packets pass the tunnel and long ones vanish."""
        sessions = (one.session.status() for one in self._by_target.get(ViaConnection(connection), ()))
        return next((one for one in sessions if one.passage == Passage.BLACK_HOLE.value), None)

    def packet(self, number: int, octets: bytes, now: float) -> None:
        """The probe met something that it did not expect."""
        self._do(number, lambda session: session.receive(octets, now))

    def expired(self, number: int, generation: int, now: float) -> None:
        self._do(number, lambda session: session.expired(generation, now))

    def established(self, neighbor: str, now: float) -> None:
        """A BGP session proves that the neighbor is there: that its BFD session failed before holds no longer."""
        watched = self._watched.get(f"bfd {neighbor}")
        if watched is not None and isinstance(watched.session, Session):
            watched.session.forgive(now)
            self._drain(watched)

    def poll(self) -> Iterator[object]:
        while self._effects:
            yield self._effects.popleft()
        yield from self.circuits.poll()

    def next_deadline(self) -> float | None:
        due = (self._deadlines.earliest(), self.circuits.next_deadline())
        return min((one for one in due if one is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        self.circuits.handle_deadline(now)
        for number in self._deadlines.due(now):
            self._do(number, lambda session: session.handle_deadline(now))

    def status(self) -> tuple[WatchStatus, ...]:
        return tuple(WatchStatus(one.watch, one.id, one.session.status()) for one in self._watched.values())

    # --- one of them --------------------------------------------------------------------------------------------

    def _path(self, watched: _Watched, now: float) -> None:
        """Outside of all tunnels the host's own routes lead."""
        tunnel = self._tunnels.get(watched.watch.connection)
        interface = tunnel.interface if tunnel is not None and tunnel.usable else 0
        if watched.interface != interface:
            watched.session.path(False, now)
            watched.interface = interface
        watched.session.path(interface != 0 or not watched.watch.connection, now)
        if isinstance(watched.session, Echo):
            watched.session.whole(tunnel.mtu if tunnel is not None and interface else 0, now)
        self._drain(watched)

    def _begin(self, watch: Watch) -> None:
        settings = watch.settings
        session: Session | Echo
        if isinstance(settings, EchoSettings):
            session = Echo(settings, self._key(), self._random)
        else:
            session = Session(settings, self._key(), self._random)
        watched = _Watched(self._next_id, watch, session)
        self._next_id += 1
        self._watched[watch.name] = self._by_id[watched.id] = watched
        self._by_target.setdefault(watch.target, []).append(watched)

    def _key(self) -> int:
        """RFC 5880 6.8.1: unique and not zero; random, so that nobody guesses it."""
        taken = {0, *(watched.key for watched in self._watched.values())}
        while (key := int.from_bytes(self._random.octets(KEY_OCTETS), "big")) in taken:
            continue
        return key

    def _end(self, watched: _Watched, now: float) -> None:
        watched.session.close(now)
        last = b""
        for effect in watched.session.poll():
            self._perform(watched, effect)
            last = effect.octets if isinstance(effect, Arm | Send) else last
        for _ in range(FAREWELLS - 1 if last else 0):
            self._effects.append(effects.ProbeSend(watched.id, last))
        watched.session.path(False, now)
        self._drain(watched)
        del self._watched[watched.watch.name], self._by_id[watched.id]
        self._by_target[watched.watch.target].remove(watched)
        if not self._by_target[watched.watch.target]:
            del self._by_target[watched.watch.target]

    def _do(self, number: int, action: Callable[[Session | Echo], None]) -> None:
        watched = self._by_id.get(number)
        if watched is not None:
            action(watched.session)
            self._drain(watched)

    def _drain(self, watched: _Watched) -> None:
        self._deadlines.touch(watched.id)
        for effect in watched.session.poll():
            self._perform(watched, effect)

    def _perform(self, watched: _Watched, effect: Effect) -> None:
        watch = watched.watch
        match effect:
            case Arm():
                if not watched.open:
                    watched.open = True
                    ends = str(watch.local), str(watch.remote)
                    inside = watched.interface if watch.connection else 0
                    self._effects.append(effects.ProbeOpen(watched.id, watch.kind, watched.key, *ends, inside))
                self._effects.append(effects.ProbeArm(watched.id, effect))
            case Disarm():
                watched.open = False
                self._effects.append(effects.ProbeClose(watched.id))
            case Send(octets):
                self._effects.append(effects.ProbeSend(watched.id, octets))
            case Changed(verdict, before, _, reason) if verdict is not before:
                self._tell(watched, verdict is not Verdict.DOWN)
                self._effects.append(_event(watch, verdict, reason))
            case Passed():
                self._effects.append(_passage(watch, effect))

    def _tell(self, watched: _Watched, works: bool) -> None:
        """RFC 5882 4.2: other ways are used at once, and one message moves all routes; IKE finds out what there is to it."""
        watch = watched.watch
        if watch.circuit:
            verdict, at = watched.session.verdict, watched.session.status().changed_at or 0.0
            if verdict is not Verdict.UNKNOWN:  # as when it ends
                self.circuits.verdict(watch.circuit, verdict is Verdict.UP, at)
            return
        if watch.target is None:
            self._count_votes()
            return
        self._effects.append(Passes(watch.target, self._works(watch.target)))
        if watch.neighbor:
            self._effects.append(Forwarding(watch.neighbor, works))
        if watch.connection and not works:
            self._effects.append(CheckLiveness(watch.connection))

    def _count_votes(self) -> None:
        """A target that never answered is not reached, either."""
        reached = sum(one.session.verdict is Verdict.UP for one in self._by_target.get(None, ()))
        if reached != self._reached:
            self._reached = reached
            self._effects.append(VoteChanged(reached))

    def _works(self, target: Single) -> bool:
        verdicts = {one.session.verdict for one in self._by_target.get(target, ())}
        return Verdict.DOWN not in verdicts or Verdict.UP in verdicts

    def _deadline_of(self, number: int) -> float | None:
        watched = self._by_id.get(number)
        return watched.session.next_deadline() if watched is not None else None


def _event(watch: Watch, verdict: Verdict, reason: str) -> effects.Event:
    what = f"BFD session with {watch.neighbor}" if watch.neighbor else f"probe of {watch.remote}"
    what += ", for the vote," if watch.votes else ""
    kind = "bfd" if watch.neighbor else "probe"
    if verdict is Verdict.UP:
        return effects.Event("info", f"{kind}-up", watch.connection, f"{what} is up")
    level = "warning" if verdict is Verdict.DOWN else "info"
    return effects.Event(level, f"{kind}-down", watch.connection, f"{what} is down: {reason}")


def _passage(watch: Watch, found: Passed) -> effects.Event:
    if found.whole:
        return effects.Event("info", "mtu-passes", watch.connection, f"packets of {found.full_size} octets pass now")
    text = f"small packets pass, those of {found.full_size} octets vanish, the longest that pass have {found.largest}"
    return effects.Event("warning", "mtu-black-hole", watch.connection, text)
