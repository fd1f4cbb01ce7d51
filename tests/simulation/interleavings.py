"""Two exchanges at once, in every order in which their messages can arrive, some lost or late: explored, not sampled.

    begin -> (issue a command | deliver | lose | delay a message)* -> nothing under way -> at rest?

Two whole nodes stand established. From there every move is tried in a process of its own (fork: the world as it is, at
no cost), unless it leads where another order has led before. Inner packets cross before and after every move.
"""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from simulation.links import End, deleting
from simulation.network import Copy, Fate, Network, Passage, Weather
from simulation.scenario import CONNECTION, Plan
from simulation.shell import Shell
from simulation.snapshots import EXCHANGE_AT
from simulation.world import MARKER, World

from gateway.contract import Endpoint
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.registry import ExchangeType
from gateway.ike.sa import IkeSa
from gateway.ike.states import IkeState
from gateway.node import inputs

MAIN, SPARE = "net", "voice"
"""The child that is there, and the one that "new CHILD" makes."""
STEP = 0.006
"""Seconds of a move: probes sent before it arrive after it."""
TOO_MANY = 40
"""Moves of one order: they would talk for ever."""


@dataclass(frozen=True, slots=True)
class Command:
    """One exchange, begun by one node."""

    kind: str
    node: str

    def __str__(self) -> str:
        return f"{self.kind} by {self.node}"


def _operate(verb: str, child: str = "") -> Callable[[World, str], None]:
    return lambda world, name: world.operate(name, verb, child)


def _ask(world: World, name: str) -> None:
    def alive(node: Any, now: float) -> None:
        if (sa := node.ike.primary(CONNECTION)) is not None:
            sa.enqueue(Liveness(), now)
        node.ike._stir(CONNECTION)
        node.command(inputs.Operate("look", CONNECTION), now)

    world.shells[name].feed(alive)


KINDS: dict[str, Callable[[World, str], None]] = {
    "CHILD rekey": _operate("rekey", MAIN),
    "IKE rekey": _operate("rekey"),
    "CHILD delete": _operate("terminate", MAIN),
    "IKE delete": _operate("terminate"),
    "new CHILD": _operate("initiate", SPARE),
    "liveness": _ask,
}
COMMANDS = tuple(Command(kind, node) for kind in KINDS for node in "ab")


def _begins_an_ike_sa(data: bytes) -> bool:
    """The two exchanges belong to one that stands; what comes after its end is another story."""
    ike = data.removeprefix(MARKER)
    return ike[EXCHANGE_AT] in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH)


class HeldNetwork(Network):
    """IKE messages wait for a decision. Probes pass."""

    def begin(self) -> None:
        self.held: list[Passage] = []
        self.late: list[Passage] = []
        self.holding = True

    def send(
        self, sender: str, data: bytes, local: Endpoint, remote: Endpoint, now: float, probe: int = 0
    ) -> Passage:  # fmt: skip
        if probe or not getattr(self, "holding", False) or _begins_an_ike_sa(data):
            return super().send(sender, data, local, remote, now, probe)
        receiver = self._hosts[remote.host]
        passage = Passage(0, now, sender, receiver, local, remote, data, copies=[Copy(Fate.INTACT, now, data)])
        if all((one.data, one.receiver) != (data, receiver) for one in self.held):
            self.held.append(passage)
        return passage

    def take(self, index: int) -> Passage:
        return self.held.pop(index)


@dataclass(slots=True)
class Order:
    """One order of events as far as it has come."""

    world: World
    network: HeldNetwork
    waiting: list[Command]
    faults: dict[str, int]
    """How many messages may still be lost, and how many come late."""
    moves: list[str] = field(default_factory=list)
    issued: list[Command] = field(default_factory=list)

    # --- moves --------------------------------------------------------------------------------------------------

    def choices(self) -> list[tuple[str, int]]:
        """What may happen next; none when it is over."""
        found = [("issue", index) for index in range(len(self.waiting))]
        found += [("deliver", index) for index in range(len(self.network.held))]
        for fault, left in self.faults.items():
            found += [(fault, index) for index in range(len(self.network.held)) if left]
        return found

    def move(self, what: str, index: int) -> None:
        """One choice, and what follows from it without any."""
        world = self.world
        if len(self.moves) > TOO_MANY:
            world.fail("the two never stop talking")
        world.guarded(lambda: world.traffic.send_all(world.now))
        if what == "issue":
            command = self.waiting.pop(index)
            self.issued.append(command)
            self._note(str(command))
            KINDS[command.kind](world, command.node)
        else:
            passage = self.network.take(index)
            self._note(f"{what} {passage.sender}>{passage.receiver}")
            self._carry(what, passage)
        world.run(STEP)
        self._pass_time()

    def _carry(self, what: str, passage: Passage) -> None:
        copy = passage.copies[0]
        if what == "deliver":
            self.world.guarded(lambda: self.network.arrive(passage, copy))
            return
        self.faults[what] -= 1
        if what == "delay":
            self.network.late.append(passage)
        else:
            copy.fate = Fate.LOST

    def _note(self, text: str) -> None:
        self.moves.append(text)
        self.world.trace.note(self.world.now, "", f"--- {text}")

    def _pass_time(self) -> None:
        """Nothing is on its way, but somebody waits: until it is repeated. What was late comes beside that."""
        network = self.network
        while not network.held and not self.waiting and (network.late or self._under_way()):
            before = self.world.now
            self.world.run_until(lambda: bool(network.held), 2.0)
            network.held += network.late
            network.late = []
            if self.world.now - before >= 2.0 and not network.held and not self._under_way():
                return

    def _under_way(self) -> bool:
        return any(_busy(sa) for end in self.world.link.ends for sa in end.shell.node.ike.sas(CONNECTION))

    # --- where it has come --------------------------------------------------------------------------------------

    def fingerprint(self) -> bytes:
        """Equal for orders between which no later event can tell."""
        nodes = [_state_of(end.shell) for end in self.world.link.ends]
        held = sorted((one.sender, one.receiver, one.data) for one in self.network.held)
        late = sorted((one.sender, one.receiver, one.data) for one in self.network.late)
        whole = (nodes, held, late, [str(one) for one in self.waiting], self.faults.items())
        return blake2b(repr(whole).encode(), digest_size=12).digest()


def _busy(sa: IkeSa) -> bool:
    return sa.exchange is not None or bool(sa.queue) or sa.window.pending is not None


def _state_of(shell: Shell) -> object:
    """Without times."""
    ike, tunnel = shell.node.ike, shell.node.tunnels[CONNECTION]
    primary = ike.primary(CONNECTION)
    sas = [
        (
            sa.spis, sa.state, sa.standing, sa.quiet, sa.close_at is None, sa.give_up_at is None,
            (sa.window.next_request, sa.window.expected, sa.window.answering, sa.window.cached_response),
            sa.window.pending.datagrams if sa.window.pending is not None else (),
            [_of_exchange(one) for one in (sa.exchange, *sa.queue)],
            [
                (child.name, child.spi_in, child.spi_out, child.state, child.active, child.proven,
                 child.successor.spi_in if child.successor is not None else 0)
                for child in sa.children.values()
            ],
            [one.spi_in for one in sa.lingering],
            sa.predecessor.spis if sa.predecessor is not None else b"",
        )
        for sa in ike.sas(CONNECTION)
    ]  # fmt: skip
    return sas, primary.spis if primary is not None else b"", tunnel.active, sorted(tunnel.held), tunnel.wanted


def _of_exchange(exchange: Any) -> object:
    old, child = getattr(exchange, "old", None), getattr(exchange, "child", None)
    rival = getattr(exchange, "rival", None)
    named = old.spi_in if old is not None else child.spi_in if child is not None else 0
    return (type(exchange).__name__, named, rival[1:] if rival is not None else (), getattr(exchange, "ni", b""))


# --- exploring ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Explored:
    """What came of it: places reached, orders played to their end, and the first failure."""

    places: set[bytes] = field(default_factory=set)
    orders: int = 0
    failure: str = ""


def explore(
    commands: tuple[Command, ...], lose: int = 0, delay: int = 0, plan: Plan | None = None, seed: int = 1
) -> Explored:
    """Every order of the commands' messages, with up to so many of them lost or late."""
    order = established(commands, {"lose": lose, "delay": delay}, plan or Plan(children=(MAIN, SPARE)), seed)
    found = Explored()
    gc.collect()
    gc.freeze()  # what exists now is not looked at, so that the processes below share it
    try:
        _apart(found, lambda report: _visit(order, report))
    finally:
        gc.unfreeze()
    return found


def established(commands: tuple[Command, ...], faults: dict[str, int], plan: Plan, seed: int) -> Order:
    """Two nodes at rest with one CHILD_SA, from now on in our hands."""
    world = World(seed, plan, Weather(delay=(STEP - 0.002, STEP - 0.002)), network=HeldNetwork)
    world.start().converge(60)
    world.run(12)
    if SPARE in plan.children:
        for name in "ab":
            world.operate(name, "terminate", SPARE)
        world.link.children = (MAIN,)
    world.run(8)
    world.link.wanted = True
    world.link.excuse(world.now, "the exploration begins")
    world.converge(1)
    if any(command.kind.endswith("delete") for command in commands):
        world.link.wanted = False
    network = world.network
    assert isinstance(network, HeldNetwork)
    network.begin()
    return Order(world, network, list(commands), faults)


def _visit(order: Order, found: Explored) -> None:
    """Every move from here; the last one in this very process, which nobody needs afterwards."""
    try:
        choices = order.choices()
        for what, index in choices[:-1]:
            _apart(found, lambda report, what=what, index=index: _try(order, what, index, report))  # type: ignore[misc]
            if found.failure:
                return
        if choices:
            _try(order, *choices[-1], found)
        else:
            found.orders += 1
            _end(order)
    except Exception as error:
        found.failure = f"{' | '.join(order.moves)}\n{type(error).__name__}: {error}"


def _try(order: Order, what: str, index: int, found: Explored) -> None:
    """One move, and all that comes after it, unless that is known."""
    order.move(what, index)
    place = order.fingerprint()
    if place not in found.places:
        found.places.add(place)
        _visit(order, found)


def _apart(found: Explored, work: Callable[[Explored], None]) -> None:
    """In a process of its own, from the world as it is now; `found` is then as if it had been done here."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        report = Explored(set(found.places))
        try:
            gc.disable()
            work(report)
        except BaseException as error:
            report.failure = f"{type(error).__name__}: {error}"
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump((report.places - found.places, report.orders, report.failure), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        places, orders, failure = pickle.load(pipe)
    os.waitpid(child, 0)
    found.places |= places
    found.orders += orders
    found.failure = found.failure or failure


# --- the end --------------------------------------------------------------------------------------------------------


def _end(order: Order) -> None:
    """Nothing is under way any more: a good network from here on. Both ends must agree, and hold what is wanted."""
    world = order.world
    order.network.holding = False
    wanted = expected(order.issued)
    if not world.run_until(lambda: not _reason(world, wanted), 60):
        world.fail(f"not at rest after 60 s: {_reason(world, wanted)}")
    before = world.traffic.delivered
    world.run(0.5)
    if MAIN in (wanted or ()) and world.traffic.delivered < before + 2:
        world.fail("at rest, but no traffic passes")


def expected(commands: list[Command]) -> set[str] | None:
    """The CHILD_SAs at rest, after commands in that order; None where there is no IKE_SA either.

    Who wants the connection (`a` at first) starts it again. A new IKE_SA comes with every child; on one that stays, each end
    asks for what it misses and did not end itself.
    """
    wanting, children, ended = {"a"}, {MAIN}, set[str]()
    for command in commands:
        if command.kind == "IKE delete":
            wanting.discard(command.node)
            children = {MAIN, SPARE}
        elif command.kind == "new CHILD":
            wanting.add(command.node)
            children.add(SPARE)
        elif command.kind == "CHILD delete":
            ended.add(command.node)
    if not wanting:
        return None
    return children - {MAIN} if ended == {"a", "b"} else children


def _reason(world: World, wanted: set[str] | None) -> str:
    return next(_reasons(world, wanted), "")


def _reasons(world: World, wanted: set[str] | None) -> Iterator[str]:
    ends = world.link.ends
    for end in ends:
        name, sas = end.shell.name, end.shell.node.ike.sas(CONNECTION)
        expected_states = [IkeState.ESTABLISHED] if wanted is not None else []
        if [sa.state for sa in sas] != expected_states:
            yield f"{name} has IKE_SAs {[sa.state.value for sa in sas]}"
        if any(_busy(sa) or sa.lingering for sa in sas) or deleting(end):
            yield f"{name}: something is under way"
        children = [child.name for sa in sas for child in sa.children.values()]
        if sorted(children) != sorted(wanted or ()):
            yield f"{name} has CHILD_SAs {children}, expected {sorted(wanted or ())}"
        if len(end.shell.sad) != 2 * len(children):
            yield f"{name}: {len(end.shell.sad)} ESP SAs for {len(children)} CHILD_SAs"
        yield from world.watches[name].leaks()
    if _pairs(ends[0]) != {(outbound, inbound) for inbound, outbound in _pairs(ends[1])}:
        yield "the two ends hold different CHILD_SAs"
    if [sa.spis for sa in ends[0].shell.node.ike.sas(CONNECTION)] != [
        sa.spis for sa in ends[1].shell.node.ike.sas(CONNECTION)
    ]:
        yield "the two ends hold different IKE_SAs"


def _pairs(end: End) -> set[tuple[int, int]]:
    return {
        (child.spi_in, child.spi_out)
        for sa in end.shell.node.ike.sas(CONNECTION)
        for child in sa.children.values()
    }  # fmt: skip
