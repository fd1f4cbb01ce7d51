"""Two leases and a witness node on a virtual clock; what is between them can be lost, late or doubled."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from support.heartbeat_network import SeededRandom

from gateway.contract import Endpoint, Transmit
from gateway.ha.witness import Ask, Lease, LeaseGranted, LeaseLost, LeaseRefused
from gateway.ha.witness_link import Answered, WitnessLink, WitnessSettings
from gateway.ha.witness_node import ClusterSettings, Persist, Record, WitnessNode

SECRET = b"the secret of the witness"
WITNESS = Endpoint("10.0.9.9", 4781)
HOSTS = {"a": Endpoint("10.0.0.4", 4781), "b": Endpoint("10.0.0.5", 4781), "w": WITNESS}
NAMES = {endpoint: name for name, endpoint in HOSTS.items()}
Event = LeaseGranted | LeaseLost | LeaseRefused


class Client:
    """One gateway's lease and its way to the witness."""

    def __init__(self, name: str, seed: int, ttl: float) -> None:
        settings = WitnessSettings(HOSTS[name], WITNESS, f"gw-{name}", SECRET, cluster=7)
        self.lease, self.link = Lease(ttl), WitnessLink(settings, SeededRandom(seed))


class LeaseWorld:
    """`passes(sender, receiver, data)` may drop; `disk` is how long the witness needs to write."""

    def __init__(
        self, ttl: float = 6.0, longest: float = 6.0, break_allowed: bool = False, disk: float = 0.002
    ) -> None:
        self.now, self.ttl, self.disk, self.delay = 1000.0, ttl, disk, 0.001
        self.settings = {7: ClusterSettings((SECRET,), longest, break_allowed)}
        self.events: list[tuple[float, str, Event]] = []
        self.asked: list[tuple[float, str, Ask]] = []
        self.sent: list[tuple[str, str, bytes]] = []
        self.records: dict[int, Record] = {}
        self.disk_full = False
        self.persists: list[Persist] = []
        self.passes: Callable[[str, str, bytes], bool] = lambda sender, receiver, data: True
        self.clients: dict[str, Client] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.witness: WitnessNode | None = None
        self.start_witness(at=self.now - longest)
        for name in "ab":
            self.start(name)

    def start_witness(self, at: float | None = None) -> None:
        self._count += 1
        began = self.now if at is None else at
        self.witness = WitnessNode(WITNESS, self.settings, self.records, SeededRandom(1000 + self._count), began)

    def start(self, name: str) -> Client:
        self._count += 1
        self.clients[name] = Client(name, self._count, self.ttl)
        return self.clients[name]

    def command(self, name: str, command: object) -> None:
        self.clients[name].lease.command(command, self.now)  # type: ignore[arg-type]
        self._drain(name)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            timers = [(client.lease.next_deadline(), name) for name, client in self.clients.items()]
            if self.witness is not None and (due := self.witness.next_deadline()) is not None:
                timers.append((due, "w"))
            at, name = min(timers, default=(end + 1, ""))
            arrival = self._queue[0][0] if self._queue else end + 1
            if min(at, arrival) > end:
                break
            self.now = max(self.now, min(at, arrival))
            if arrival <= at:
                heapq.heappop(self._queue)[2]()
            elif name == "w":
                assert self.witness is not None
                self.witness.handle_deadline(self.now)
                self._drain_witness()
            else:
                self.clients[name].lease.handle_deadline(self.now)
                self._drain(name)
        self.now = end

    def jump(self, seconds: float) -> None:
        """Everything stands still, and the clock goes on."""
        self.now += seconds

    def inject(self, data: bytes, sender: str = "a") -> None:
        """To the witness."""
        assert self.witness is not None
        self.witness.receive(data, HOSTS[sender], self.now)
        self._drain_witness()

    def said(self, name: str) -> list[Event]:
        return [event for _, who, event in self.events if who == name]

    def holders(self) -> list[str]:
        return [name for name, client in self.clients.items() if client.lease.valid(self.now)]

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, action))

    def _drain(self, name: str) -> None:
        client = self.clients[name]
        for effect in client.lease.poll():
            if isinstance(effect, Ask):
                self.asked.append((self.now, name, effect))
                client.link.ask(effect)
            else:
                self.events.append((self.now, name, effect))
        answers = []
        for out in client.link.poll():
            if isinstance(out, Transmit):
                self._send(name, out)
            else:
                answers.append(out)
        for answer in answers:
            if isinstance(answer, Answered):
                client.lease.answered(answer.ticket, answer.answer, self.now)
            else:
                client.lease.noticed(self.now)
        if answers:
            self._drain(name)

    def _drain_witness(self) -> None:
        assert self.witness is not None
        for effect in self.witness.poll():
            if isinstance(effect, Persist):
                self.persists.append(effect)
                self.later(self.disk, lambda effect=effect, node=self.witness: self._written(node, effect))  # type: ignore[misc]
            else:
                self._send("w", effect)

    def _written(self, node: WitnessNode, effect: Persist) -> None:
        if node is self.witness and self.disk_full:
            node.not_persisted(effect.ticket, "the disk is full", self.now)
            self._drain_witness()
        elif node is self.witness:
            self.records[effect.cluster] = effect.record
            node.persisted(effect.ticket, self.now)
            self._drain_witness()

    def _send(self, sender: str, out: Transmit) -> None:
        receiver = NAMES[out.remote]
        self.sent.append((sender, receiver, out.data))
        if self.passes(sender, receiver, out.data):
            self.later(self.delay, lambda: self._arrive(sender, receiver, out.data))

    def _arrive(self, sender: str, receiver: str, data: bytes) -> None:
        if receiver == "w":
            if self.witness is not None:
                self.inject(data, sender)
        elif receiver in self.clients:
            self.clients[receiver].link.receive(data)
            self._drain(receiver)
