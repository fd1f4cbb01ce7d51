"""The shared addresses in a cloud, as a core: which calls bring them to this gateway's network interfaces while it is the active one.

    activate(epoch, until) / deactivate / configure --> AddressFabric --> AddressCall(ticket, interface, operation)
    computed(ticket, outcome, now)                  -->               --> Moved, Strayed, Hindered

A cloud does not learn from what is announced on a link where an address is: somebody has to tell it. Interfaces are independent of
each other, and their calls go in parallel. While we are not active each is looked at now and then, so that a takeover knows where
the addresses are and writes at once; and nothing is written.

The fence is the lease: nothing begins to be written after it is over, whatever the role was said to be. What the other gateway began
before its own was over may still take effect after ours did; so the first minutes after a move are looked at more often.

Not the election, and not the kernel's part of an address: that is told at the same moment (`runtime/shared_addresses.py`). Not the
cloud: `runtime/addresses_aws.py`, `addresses_azure.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.contract import RandomSource
from gateway.ha.address_interface import SharedInterface, Standing
from gateway.ha.address_values import AddressCall, AddressFabricView, AddressSettings, Event, Operation, Outcome, Places
from gateway.ha.fabric_values import Done, Failed, Why

TICKET_OCTETS = 6


class AddressFabric:
    """All shared addresses of one gateway, by the contract of `gateway/contract.py`."""

    def __init__(self, settings: AddressSettings, random: RandomSource, now: float) -> None:
        self.settings = settings
        self._random = random
        self._standing = Standing(False, 0, now)
        self._until = 0.0
        self._interfaces = {one.name: SharedInterface(settings, one, random, now) for one in settings.interfaces}
        self._tickets: dict[int, tuple[SharedInterface, Operation]] = {}
        # None is that of a call which a core before this one made, and which is still under way
        self._ticket = int.from_bytes(random.octets(TICKET_OCTETS), "big")
        self._effects: deque[AddressCall | Event] = deque()
        self._advance(now)

    def activate(self, epoch: int, until: float, now: float) -> None:
        """The addresses are ours, under a lease that lasts so long; again where it was renewed."""
        self._until = until
        if (self._standing.active, self._standing.epoch) != (True, epoch):
            self._standing = Standing(True, epoch, now)
            for interface in self._interfaces.values():
                interface.activated(now, self._standing)
        self._advance(now)

    def deactivate(self, now: float) -> None:
        self._until = 0.0
        self._standing = Standing(False, self._standing.epoch, now)
        for interface in self._interfaces.values():
            interface.deactivated(now, self._standing)
        self._advance(now)

    def configure(self, settings: AddressSettings, now: float) -> None:
        """Other settings from now on; what is known of an interface that stays is kept."""
        kept: dict[str, SharedInterface] = {}
        for one in settings.interfaces:
            known = self._interfaces.get(one.name)
            if known is not None and (known.interface.ours, known.interface.theirs) == (one.ours, one.theirs):
                known.configure(settings, one)
                kept[one.name] = known
            else:
                made = kept[one.name] = SharedInterface(settings, one, self._random, now)
                made.activated(now, self._standing)
        # Answers for an interface that is gone still come; nothing listens to it any more.
        self.settings, self._interfaces = settings, kept
        self._advance(now)

    def computed(self, ticket: int, result: object, now: float) -> None:
        """How a call ended: an Outcome; anything else is a defect of the shell, and as good as no answer."""
        if ticket not in self._tickets:
            return  # of a core that was here before
        interface, operation = self._tickets.pop(ticket)
        unknown = Failed(Why.AMBIGUOUS, "the call ended without an answer")
        outcome: Outcome = result if isinstance(result, Places | Done | Failed) else unknown
        interface.answered(operation, outcome, now, self._standing)
        self._advance(now)

    def poll(self) -> Iterator[AddressCall | Event]:
        while self._effects:
            yield self._effects.popleft()

    @property
    def has_effects(self) -> bool:
        return bool(self._effects)

    def next_deadline(self) -> float | None:
        times = [at for one in self._interfaces.values() if (at := one.deadline()) is not None]
        return min(times, default=None)

    def handle_deadline(self, now: float) -> None:
        if (due := self.next_deadline()) is not None and now >= due:
            self._advance(now)

    def view(self) -> AddressFabricView:
        """The picture for people."""
        standing = self._standing
        return AddressFabricView(
            active=standing.active,
            epoch=standing.epoch,
            dry_run=self.settings.dry_run,
            interfaces=tuple(one.view(standing) for one in self._interfaces.values()),
        )

    def _advance(self, now: float) -> None:
        writes = self._standing.active and now < self._until
        for interface in self._interfaces.values():
            self._effects.extend(interface.poll())
            if (operation := interface.next_operation(now, writes)) is not None:
                self._ticket += 1
                self._tickets[self._ticket] = (interface, operation)
                self._effects.append(AddressCall(self._ticket, interface.interface, operation))
