"""Two IKE endpoints on a virtual clock, and everything between them in the test's hands.

    pair = Pair(); pair.establish()          up, over a network that delivers at once
    pair.left.command(Rekey("c", "net"))     what is sent lies in pair.in_flight until the test delivers or drops it
    pair.run(30)                             time passes, whatever is due happens, all is delivered

Nothing is random that a seed does not give; public-key work is done inline, or waits in `in_flight` like a datagram when
`defer` is set. After every step the harness holds the cores to their contract: nothing but PeerError's effects escapes,
and no deadline stays in the past. `DataPlane` is what a data plane would hold after the events so far.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.contract import Compute, Endpoint, Transmit
from gateway.ike import traffic_selector
from gateway.ike.commands import Command, Configure, Initiate
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.errors import PeerError, Violation
from gateway.ike.events import ChildActivate, ChildInstall, ChildRemove
from gateway.ike.key_exchange import ANSWER_OCTETS, PUBLIC_OCTETS, KeyPair
from gateway.ike.keymat import IkeKeys, open_fragment, open_message, seal_message
from gateway.ike.message import Header, Message, emit_message, parse_chain, parse_message
from gateway.ike.payloads import Payload
from gateway.ike.proposal import make_offer
from gateway.ike.registry import ExchangeType, Flags, NotifyType, Protocol
from gateway.ike.sa import IkeSa
from gateway.ike.settings import ChildSettings, ConnectionSettings, Identity

LEFT, RIGHT = "10.0.0.1", "10.0.0.2"
NAME, CHILD = "c", "net"
PSK = b"a shared secret of some length"
IKE_OFFERS = (make_offer(Protocol.IKE, [("aes-gcm-16", 256)], [], ["sha384"], ["ecp384", "x25519"]),)
ESP_OFFERS = (make_offer(Protocol.ESP, [("aes-gcm-16", 256)], [], [], ["ecp256"], [False]),)
ANY = traffic_selector.from_range(bytes(4), b"\xff" * 4)


class Randomness:
    """Seeded octets; `scripted` octets come first, so that a test can choose nonces and SPIs."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.scripted: dict[int, list[bytes]] = {}

    def octets(self, count: int) -> bytes:
        waiting = self.scripted.get(count)
        return waiting.pop(0) if waiting else self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class CheapExchanges:
    """Key exchanges of the right lengths without public-key work; values that begin with 0xff * 8 are "not in the group"."""

    def generate(self, method: int, seed: bytes) -> KeyPair:
        public = hashlib.shake_256(method.to_bytes(2, "big") + seed).digest(PUBLIC_OCTETS[method])
        return KeyPair(method, public, None)

    def answer(self, method: int, peer_public: bytes, seed: bytes) -> tuple[bytes, bytes]:
        public = hashlib.shake_256(method.to_bytes(2, "big") + seed).digest(ANSWER_OCTETS[method])
        return public, self.agree(KeyPair(method, public, None), peer_public)

    def agree(self, pair: KeyPair, peer_public: bytes) -> bytes:
        if peer_public[:8] == b"\xff" * 8:
            raise PeerError(Violation.BAD_KEY_EXCHANGE, "not in the group", NotifyType.INVALID_SYNTAX)
        return hashlib.sha384(b"".join(sorted((pair.public, peer_public)))).digest()


@dataclass(slots=True)
class DataPlane:
    """The SAs a data plane would hold: inbound by SPI, and outbound SPIs with the newest activated first."""

    inbound: dict[int, ChildInstall] = field(default_factory=dict)
    outbound: dict[int, ChildInstall] = field(default_factory=dict)
    active: list[int] = field(default_factory=list)

    def take(self, event: object) -> None:
        match event:
            case ChildInstall(spi_in=spi_in, spi_out=spi_out):
                assert spi_in not in self.inbound, "one SPI installed twice"
                self.inbound[spi_in], self.outbound[spi_out] = event, event
            case ChildActivate(spi_out=spi_out):
                assert spi_out in self.outbound, "activated before it was installed"
                self.active = [spi_out, *(spi for spi in self.active if spi != spi_out)]
            case ChildRemove(spi_in=spi_in, spi_out=spi_out):
                if spi_in:
                    del self.inbound[spi_in]
                if spi_out:
                    del self.outbound[spi_out]
                    self.active = [spi for spi in self.active if spi != spi_out]


class Host:
    """One endpoint with its log of events and its data plane."""

    def __init__(self, pair: Pair, address: str, seed: int, key_exchanges: Any) -> None:
        self.pair, self.address = pair, address
        self.random = Randomness(seed)
        self.core = IkeEndpoint(self.random, key_exchanges)
        self.events: list[object] = []
        self.data_plane = DataPlane()

    def command(self, command: Command) -> None:
        self.core.command(command, self.pair.now)
        self.pair.drain()

    @property
    def sa(self) -> IkeSa:
        """The IKE_SA that carries the connection."""
        found = self.core.primary(NAME)
        assert found is not None
        return found

    @property
    def sas(self) -> list[IkeSa]:
        return self.core.sas(NAME)

    def seen(self, kind: type[Any]) -> list[Any]:
        """Events of one class, oldest first."""
        return [event for event in self.events if type(event) is kind]

    @property
    def rejected(self) -> dict[str, int]:
        return {reason: count for reason, count in self.core.rejected.items() if count}


@dataclass(frozen=True, slots=True)
class Flight:
    """A datagram on its way, or with `run` public-key work under way at `receiver`."""

    receiver: Host
    transmit: Transmit | None = None
    run: Callable[[], None] | None = None

    @property
    def octets(self) -> bytes:
        """The IKE message, without a non-ESP marker."""
        assert self.transmit is not None
        data = self.transmit.data
        return data[4:] if self.transmit.local.port == 4500 and data != b"\xff" else data

    @property
    def message(self) -> Message:
        return parse_message(self.octets)


def connection(address: str, peer: str, **changes: Any) -> ConnectionSettings:
    """Settings of one side; `changes` as in ConnectionSettings, `esp` for the child's offers."""
    esp = changes.pop("esp", ESP_OFFERS)
    child_changes = {name: changes.pop(name) for name in ("child_rekey_time", "child_life_time") if name in changes}
    times = {name.removeprefix("child_"): value for name, value in child_changes.items()}
    child = ChildSettings(CHILD, esp, (ANY,), (ANY,), **times)
    defaults: dict[str, Any] = {"offers": IKE_OFFERS, "children": (child,), "psk": PSK, "dpd_delay": 1e6}
    defaults |= {"local_id": identity(address), "remote_id": identity(peer)}
    return ConnectionSettings(NAME, Endpoint(address, 500), Endpoint(peer, 500), **(defaults | changes))


def identity(text: str) -> Identity:
    return Identity(1, bytes(int(part) for part in text.split(".")), text)


class Pair:
    """Both hosts, the clock and the network."""

    def __init__(self, *, seed: int = 1, key_exchanges: Any = None, defer: bool = False, **changes: Any) -> None:
        self.now = 100.0
        self.defer = defer
        self.in_flight: list[Flight] = []
        self.sent: list[Flight] = []
        self.rewrite: Callable[[Flight], Flight | None] = lambda flight: flight
        exchanges = key_exchanges or CheapExchanges()
        self.left, self.right = Host(self, LEFT, seed, exchanges), Host(self, RIGHT, seed + 1000, exchanges)
        self.configure(self.left, **changes)
        self.configure(self.right, **changes)

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.left, self.right

    def peer_of(self, host: Host) -> Host:
        return self.right if host is self.left else self.left

    def configure(self, host: Host, **changes: Any) -> None:
        host.command(Configure((connection(host.address, self.peer_of(host).address, **changes),)))

    # --- effects ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Takes what the cores say must happen, until they have nothing more to say."""
        busy = True
        while busy:
            busy = False
            for host in self.hosts if hasattr(self, "right") else ():
                for effect in list(host.core.poll()):
                    busy = True
                    self._effect(host, effect)

    def _effect(self, host: Host, effect: object) -> None:
        match effect:
            case Compute():
                work = self._work(host, effect)
                if self.defer:
                    self.in_flight.append(Flight(host, run=work))
                else:
                    work()
            case Transmit():
                flight = Flight(self.peer_of(host), effect)
                self.sent.append(flight)
                changed = self.rewrite(flight)
                if changed is not None:
                    self.in_flight.append(changed)
            case _:
                host.events.append(effect)
                host.data_plane.take(effect)

    def _work(self, host: Host, effect: Compute) -> Callable[[], None]:
        def run() -> None:
            try:
                result: object = effect.job()
            except PeerError as error:
                result = error
            host.core.computed(effect.ticket, result, self.now)

        return run

    # --- the network --------------------------------------------------------------------------------------------

    def deliver(self, index: int = 0, *, remote: Endpoint | None = None, keep: bool = False) -> None:
        """Delivers one; `remote` is the source the receiver sees."""
        flight = self.in_flight[index] if keep else self.in_flight.pop(index)
        if flight.run is not None:
            flight.run()
        else:
            assert flight.transmit is not None
            self.receive(flight.receiver, flight.octets, remote or flight.transmit.local, flight.transmit.remote)
        self.drain()

    def receive(self, host: Host, octets: bytes, remote: Endpoint | None = None, local: Endpoint | None = None) -> None:
        """Any octets from anywhere."""
        remote = remote or Endpoint(self.peer_of(host).address, 500)
        host.core.receive(octets, local or Endpoint(host.address, remote.port), remote, self.now)
        self.drain()

    def drop(self, index: int = 0) -> Flight:
        return self.in_flight.pop(index)

    def settle(self, limit: int = 200) -> None:
        """Delivers everything in order; time stands still."""
        while self.in_flight:
            limit -= 1
            assert limit, "the two never stop talking"
            self.deliver()

    def run(self, seconds: float) -> None:
        """Time passes; everything is delivered at once."""
        self._pass(seconds, self.settle)

    def silence(self, seconds: float) -> None:
        """Time passes and everything that is sent is lost."""
        self._pass(seconds, self.in_flight.clear)

    def hold(self, seconds: float) -> None:
        """Time passes and everything that is sent stays in flight."""
        self._pass(seconds, lambda: None)

    def _pass(self, seconds: float, network: Callable[[], None]) -> None:
        until = self.now + seconds
        network()
        while (due := self._next(until)) is not None:
            self.now = max(self.now, due)
            self.fire()
            network()
        self.now = until

    def _next(self, until: float) -> float | None:
        deadlines = [deadline for host in self.hosts if (deadline := host.core.next_deadline()) is not None]
        due = min(deadlines, default=until + 1)
        return due if due <= until else None

    def fire(self) -> None:
        """Handles what is due now. A deadline that stays in the past would make a shell spin."""
        for host in self.hosts:
            deadline = host.core.next_deadline()
            if deadline is None or deadline > self.now:
                continue
            host.core.handle_deadline(self.now)
            after = host.core.next_deadline()
            assert after is None or after > self.now, f"{host.address} still has a deadline in the past"
        self.drain()

    # --- both sides at rest -------------------------------------------------------------------------------------

    def establish(self) -> None:
        """The left host initiates; afterwards nothing is in flight."""
        self.left.command(Initiate(NAME))
        self.settle()
        self.assert_agreed()

    def assert_agreed(self, children: int = 1) -> None:
        """One IKE_SA, the same on both sides, and CHILD_SAs that carry traffic both ways."""
        for host in self.hosts:
            assert len(host.sas) == 1, [(sa.state, hex(sa.initiator_spi)) for sa in host.sas]
            assert host.sas[0] is host.core.primary(NAME)
            assert host.sa.state.name == "ESTABLISHED"
            assert host.sa.exchange is None
            assert host.sa.window.pending is None
            assert len(host.sa.children) == children
            assert host.core.half_open == 0
        left, right = self.left, self.right
        assert (left.sa.initiator_spi, left.sa.responder_spi) == (right.sa.initiator_spi, right.sa.responder_spi)
        assert left.sa.is_initiator != right.sa.is_initiator
        mirrored = {(child.spi_out, child.spi_in) for child in right.sa.children.values()}
        assert {(child.spi_in, child.spi_out) for child in left.sa.children.values()} == mirrored
        self.assert_flowing()
        for host in self.hosts:
            assert set(host.data_plane.outbound) == {child.spi_out for child in host.sa.children.values()}
            lingering = {entry.spi_in for entry in host.sa.lingering}
            assert set(host.data_plane.inbound) - lingering == set(host.sa.children)

    def assert_flowing(self) -> None:
        """What either side sends now, the other has the keys for."""
        for host in self.hosts:
            assert host.data_plane.active, f"{host.address} has nothing to send on"
            spi = host.data_plane.active[0]
            inbound = self.peer_of(host).data_plane.inbound
            assert spi in inbound, f"{host.address} sends on an SA its peer does not have"
            ours, theirs = host.data_plane.outbound[spi], inbound[spi]
            assert ours.encryption_key_out == theirs.encryption_key_in
            assert ours.integrity_key_out == theirs.integrity_key_in
            assert ours.choice == theirs.choice

    # --- making and reading messages ----------------------------------------------------------------------------

    def opened(self, flight: Flight, sa: IkeSa | None = None) -> Message:
        """A sealed message on its way, read with its receiver's keys."""
        keys = (sa or flight.receiver.sas[-1]).keys
        assert keys is not None
        return open_message(keys, flight.message)

    def opened_pieces(self, flights: list[Flight]) -> Message:
        """A message that came in fragments, read with its receiver's keys."""
        keys = flights[0].receiver.sas[-1].keys
        assert keys is not None
        pieces = [(flight.message, flight.message.fragment) for flight in flights]
        plaintext = b"".join(open_fragment(keys, message, piece) for message, piece in pieces if piece)
        first = pieces[0][1]
        assert first is not None
        return Message(pieces[0][0].header, parse_chain(plaintext, first.first_inner))

    def sealed(
        self,
        sender: Host,
        kind: ExchangeType,
        payloads: tuple[Payload, ...],
        *,
        message_id: int | None = None,
        response: bool = False,
        sa: IkeSa | None = None,
        keys: IkeKeys | None = None,
    ) -> bytes:
        """A message such as `sender` could have sent, the next in its window unless told."""
        sa = sa or sender.sas[-1]
        used = keys or sa.keys
        assert used is not None
        number = sa.window.next_request if message_id is None else message_id
        return seal_message(used, header(sa, kind, number, response), payloads, sender.random)

    def request(
        self, sender: Host, kind: ExchangeType, payloads: tuple[Payload, ...], sa: IkeSa | None = None
    ) -> Message | None:
        """Plays a request of `sender`'s own making and gives the opened answer; keeps the sender's window in step."""
        sa = sa or sender.sas[-1]
        octets = self.sealed(sender, kind, payloads, sa=sa)
        sa.window.next_request += 1
        before = len(self.in_flight)
        self.receive(self.peer_of(sender), octets, sa.local, sa.remote)
        answers = self.in_flight[before:]
        del self.in_flight[before:]
        return self.opened(answers[0], sa) if answers else None


def header(sa: IkeSa, kind: ExchangeType, message_id: int, response: bool = False) -> Header:
    flags = Flags(Flags.INITIATOR * sa.is_initiator | Flags.RESPONSE * response)
    return Header(sa.initiator_spi, sa.responder_spi, kind, flags, message_id)


def in_clear(
    sa: IkeSa, kind: ExchangeType, payloads: tuple[Payload, ...], message_id: int, response: bool = False
) -> bytes:
    """What a stranger who saw the SPIs could send in `sa`'s owner's name."""
    return emit_message(header(sa, kind, message_id, response), payloads)


def snapshot(core: IkeEndpoint) -> object:
    """Everything a core knows except what it counts as rejected, as values that compare."""
    known = {name: value for name, value in vars(core).items() if name not in _NO_KNOWLEDGE}
    deadline = core.next_deadline() if isinstance(core, IkeEndpoint) else None
    return _freeze({**known, "deadline": deadline}, {})


# What is counted or given; and where the core looks again, of which only the outcome matters: the next deadline.
_NO_KNOWLEDGE = ("rejected", "random", "key_exchanges", "_deadlines", "_stirred", "_now")


def _freeze(value: object, known: dict[int, int]) -> object:
    if value is None or isinstance(value, (int, float, str, bytes, type)) or callable(value):
        return value
    if id(value) in known:
        return ("again", known[id(value)])
    known[id(value)] = len(known)
    if isinstance(value, dict):
        return {
            _freeze(key, {}) if not isinstance(key, tuple) else key: _freeze(item, known) for key, item in value.items()
        }
    if isinstance(value, (set, frozenset)):
        return frozenset(value)
    if isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        return [_freeze(item, known) for item in value]  # type: ignore[attr-defined]
    return (
        type(value).__name__,
        {name: _freeze(item, known) for name, item in _fields(value) if name not in ("services", "random")},
    )


def _fields(value: object) -> Iterator[tuple[str, object]]:
    if dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield entry.name, getattr(value, entry.name)
        return
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if hasattr(value, name):
                yield name, getattr(value, name)


def every_schedule(play: Callable[[Callable[[int], int]], None], limit: int) -> tuple[int, bool]:
    """Runs `play` once for every sequence of answers to its questions "which of n?"; depth first, by replaying prefixes.

    Returns how many runs there were, and whether they were all: beyond `limit` it stops.
    """
    script: list[int] = []
    runs = 0
    while True:
        widths: list[int] = []

        def choose(width: int, script: list[int] = script, widths: list[int] = widths) -> int:
            widths.append(width)
            if len(widths) > len(script):
                script.append(0)
            return script[len(widths) - 1]

        play(choose)
        runs += 1
        del script[len(widths) :]
        while script and script[-1] + 1 >= widths[len(script) - 1]:
            script.pop()
        if not script:
            return runs, True
        if runs == limit:
            return runs, False
        script[-1] += 1
