"""Private circuits that carry in clear what a tunnel is the backup for: which of them work, as a probe found out.

The first verdict counts at once, a failure always does; what failed is handed back after it worked for `hold`. What follows
is the FIB's: routes follow the host's own while the circuit works, lead into the tunnel else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.node.effects import Event
from gateway.routing.model import Liveness, ViaCircuit


@dataclass(slots=True)
class _Circuit:
    hold: float
    works: bool | None = None  # None: no verdict yet
    due: float | None = None  # when it is handed back


class Circuits:
    """By connection. `poll` yields what the FIB and people are told."""

    def __init__(self) -> None:
        self._circuits: dict[str, _Circuit] = {}
        self._effects: deque[Liveness | Event] = deque()

    def adopt(self, holds: Mapping[str, float]) -> None:
        """Those there shall be, with the seconds each must work again before it is used."""
        for name in [name for name in self._circuits if name not in holds]:
            if self._circuits.pop(name).works:
                self._effects.append(Liveness(ViaCircuit(name), False))
        for name, hold in holds.items():
            self._circuits.setdefault(name, _Circuit(hold)).hold = hold

    def forget(self, name: str) -> None:
        """Its probe is another one: what the last one found holds no longer."""
        circuit = self._circuits.get(name)
        if circuit is not None and circuit.works:
            self._effects.append(Liveness(ViaCircuit(name), False))
        if circuit is not None:
            circuit.works, circuit.due = None, None

    def verdict(self, name: str, works: bool, now: float) -> None:
        """What the probe says."""
        circuit = self._circuits.get(name)
        if circuit is None:
            return
        if works and circuit.works is False:
            circuit.due = now + circuit.hold if circuit.due is None else circuit.due
            self.handle_deadline(now)
            return
        circuit.due = None
        if works is not circuit.works:
            self._conclude(name, circuit, works)

    def state(self, name: str) -> str:
        """ "up": it carries in clear, "down": the tunnel does; "" without a circuit."""
        circuit = self._circuits.get(name)
        return "" if circuit is None else "up" if circuit.works else "down"

    def poll(self) -> Iterator[Liveness | Event]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        return min((one.due for one in self._circuits.values() if one.due is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        for name, circuit in self._circuits.items():
            if circuit.due is not None and circuit.due <= now:
                circuit.due = None
                self._conclude(name, circuit, works=True)

    def _conclude(self, name: str, circuit: _Circuit, works: bool) -> None:
        circuit.works = works
        self._effects.append(Liveness(ViaCircuit(name), works))
        if works:
            text = "the private circuit answers: its traffic goes there in clear, the tunnel stands by (protection = backup)"
            self._effects.append(Event("warning", "circuit-up", name, text))
        else:
            text = "the private circuit does not answer: its traffic goes into the tunnel"
            self._effects.append(Event("warning", "circuit-down", name, text))
