"""One network interface and its shared addresses: where the cloud was last seen to have them, what is to be called next, and when.

Not a clock and not a cloud: `next_operation` says what to call, `answered` takes how it went. One call at a time. What was written
counts as seen, so that a takeover needs no reading; a read afterwards shows whether it is so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.contract import RandomSource
from gateway.ha.address_values import (
    AddressSettings,
    AddressView,
    Assign,
    Event,
    Free,
    Hindered,
    Interface,
    InterfaceView,
    Moved,
    Operation,
    Outcome,
    Place,
    Placed,
    Places,
    Strayed,
)
from gateway.ha.fabric_patience import Patience
from gateway.ha.fabric_values import Done, Failed, Read, Why

LOOKS = (5.0, 15.0, 30.0, 60.0, 100.0)
"""Seconds after a move at which it is looked at again: a call of the other gateway's that was under way may take 90 s."""
DRY_RUN = "dry_run = true in [ha.fabric]: the cloud is not told; set it to false"
_STUCK = (Place.FOREIGN, Place.FIXED)


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the addresses are ours, and under which epoch. `since`: when that began."""

    active: bool
    epoch: int
    since: float


class SharedInterface:
    """The state of one interface. `poll()` what happened."""

    def __init__(self, settings: AddressSettings, interface: Interface, random: RandomSource, now: float) -> None:
        self.interface = interface
        self._settings = settings
        self._random = random
        self._patience = Patience(random, now)
        self._events: list[Event] = []
        self._placed: dict[str, Placed] = {}
        self._remarks: tuple[str, ...] = ()
        self._read_at: float | None = None
        self._read_due = self._read_began = self._now = now
        self._must_read = True
        self._doubted = False  # addresses are believed to be ours from a time when we were not the active one
        self._one_by_one = False  # several at once were refused: which of them, shows when each is tried
        self._running: Operation | None = None
        self._looks: list[float] = []
        self._settled_for: Standing | None = None
        self._moved_for: Standing | None = None
        self._move_seconds: float | None = None
        self._trouble = self._call_error = self._last_call = ""
        self._last_call_at: float | None = None
        self.drift = self.calls = self.failures = 0

    # --- intent -----------------------------------------------------------------------------------------------

    def configure(self, settings: AddressSettings, interface: Interface) -> None:
        self._settings, self.interface = settings, interface
        self._must_read = True
        self._patience.again()
        self._settled_for = None

    def activated(self, now: float, standing: Standing) -> None:
        """A new epoch: whatever kept us waiting is tried at once."""
        self._patience.at_once(now)
        self._one_by_one = False
        # The other gateway may have been active since the last look. What is elsewhere needs no look to be fetched.
        self._doubted = any(self._place(address) is Place.OURS for address in self.interface.addresses)
        self._judge(now, standing)

    def deactivated(self, now: float, standing: Standing) -> None:
        """What was refused is the other gateway's to try, and nobody knows whether it still would be."""
        self._patience.again()
        self._judge(now, standing)

    # --- what to do -------------------------------------------------------------------------------------------

    def next_operation(self, now: float, writes: bool) -> Operation | None:
        """The next call that may start now. `writes`: the lease is ours at this moment."""
        self._now = now
        if self._running is not None or now < self._patience.retry_at:
            return None
        write = self._next_write(now) if writes and not self._must_read and not self._settings.dry_run else None
        if write is not None:
            return self._start(write, now)
        if self._must_read or self._doubted or now >= self._read_due:
            return self._start(Read(), now)
        return None

    def deadline(self) -> float | None:
        """When `next_operation` may say something, with nothing new being told."""
        if self._running is not None:
            return None
        times = [max(self._read_due, self._patience.retry_at)]
        return min([*times, *(at for at in self._patience.waits if at > self._now)])

    def planned(self) -> tuple[Operation, ...]:
        """Every write there is to do."""
        wanted = [one for one in self.interface.addresses if self._place(one) not in (Place.OURS, *_STUCK)]
        freed = tuple(one for one in wanted if one in self.interface.freed and self._place(one) is Place.PEER)
        return (*([Free(freed)] if freed else ()), *([Assign(tuple(wanted))] if wanted else ()))

    def poll(self) -> Iterator[Event]:
        while self._events:
            yield self._events.pop(0)

    def _next_write(self, now: float) -> Free | Assign | None:
        for operation in self.planned():
            if isinstance(operation, Read):
                continue
            addresses = [one for one in operation.addresses if not self._patience.is_held(one, now)]
            if isinstance(operation, Assign):
                # Not before they are free, where the cloud wants it so
                addresses = [one for one in addresses if not self._must_be_freed(one)]
            if addresses:
                chosen = tuple(addresses[:1] if self._one_by_one else addresses)
                return Free(chosen) if isinstance(operation, Free) else Assign(chosen)
        return None

    def _must_be_freed(self, address: str) -> bool:
        return address in self.interface.freed and self._place(address) is Place.PEER

    # --- what came of it --------------------------------------------------------------------------------------

    def answered(self, operation: Operation, outcome: Outcome, now: float, standing: Standing) -> None:
        """How a call ended."""
        self._running = None
        if isinstance(outcome, Failed):
            self._failed(operation, outcome, now)
        else:
            self._call_error = ""
            self._take(operation, outcome, now, standing)
        self._judge(now, standing)

    def _take(self, operation: Operation, outcome: Places | Done, now: float, standing: Standing) -> None:
        match operation, outcome:
            case Read(), Places():
                self._patience.succeeded("")
                self._seen(outcome, now, standing)
            case Free(addresses), Done():
                self._wrote(addresses, Place.ABSENT)
            case Assign(addresses), Done():
                self._wrote(addresses, Place.OURS)
            case _:
                self._failed(operation, Failed(Why.AMBIGUOUS, "the answer is none to this call"), now)

    def _wrote(self, addresses: tuple[str, ...], place: Place) -> None:
        for address in addresses:
            self._patience.succeeded(address)
            public = self._placed[address].public if address in self._placed else ""
            where = self.interface.ours if place is Place.OURS else ""
            self._placed[address] = Placed(address, place, where, public)

    def _seen(self, seen: Places, now: float, standing: Standing) -> None:
        self._read_at, self._must_read, self._remarks = now, False, seen.remarks
        self._doubted &= self._read_began < standing.since
        self._placed = {one.address: one for one in seen.placed}
        self._read_due = now + self._settings.check_interval * self._random.uniform(0.9, 1.1)
        self._looks = [at for at in self._looks if at > now]
        if self._looks:
            self._read_due = min(self._read_due, self._looks[0])
        if not standing.active or not self.planned():
            self._patience.settled()
        if standing.active and self._settled_for == standing:
            for address in self.interface.addresses:
                if self._place(address) is not Place.OURS:
                    self._strayed(address)

    def _strayed(self, address: str) -> None:
        self._settled_for = None
        self.drift += 1
        self._events.append(Strayed(self.interface.name, f"{address} {self._said(address)}"))

    def _failed(self, operation: Operation, failure: Failed, now: float) -> None:
        self.failures += 1
        self._call_error = f"{described(operation, self.interface)}: {failure.sentence}"
        addresses = () if isinstance(operation, Read) else operation.addresses
        self._must_read |= failure.why in (Why.AMBIGUOUS, Why.CONFLICT) and bool(addresses)
        if failure.why is Why.REFUSED and len(addresses) > 1:
            self._one_by_one = True
            return
        self._patience.failed(failure, addresses[0] if addresses else "", now)
        if not addresses:
            self._read_due = min(self._read_due, self._patience.retry_at)

    def _judge(self, now: float, standing: Standing) -> None:
        """Whether all is as it shall be, and what is in the way."""
        trouble = self._hindrance(standing)
        if trouble != self._trouble:
            self._trouble = trouble
            self._events.append(Hindered(self.interface.name, trouble))
        unknown = self._read_at is None or self._must_read or self._doubted
        here = all(self._place(address) is Place.OURS for address in self.interface.addresses)
        if not standing.active or unknown or not here or self._settled_for == standing:
            return
        self._settled_for = standing
        self._looks = [now + after for after in LOOKS]
        self._read_due = min(self._read_due, self._looks[0])
        if self._moved_for != standing:
            self._moved_for, self._move_seconds = standing, now - standing.since
            moved = Moved(self.interface.name, standing.epoch, self.interface.addresses, self._move_seconds)
            self._events.append(moved)

    def _hindrance(self, standing: Standing) -> str:
        """One sentence: what, whose setting, the fix."""
        stuck = [one for one in self.interface.addresses if self._place(one) in _STUCK]
        if stuck:
            return f"{stuck[0]} {self._said(stuck[0])}; {_FIXES[self._place(stuck[0])]}"
        refusal = next(iter(self._patience.refusals.items()), None)
        if refusal is not None:
            return f"{refusal[0]}: {refusal[1]}"
        if standing.active and self._settings.dry_run and self.planned() and self._read_at is not None:
            return DRY_RUN
        return self._patience.lasting

    # --- shown ------------------------------------------------------------------------------------------------

    def view(self, standing: Standing) -> InterfaceView:
        known = self._read_at is not None
        return InterfaceView(
            name=self.interface.name,
            ours=self.interface.ours,
            theirs=self.interface.theirs,
            addresses=tuple(map(self._address_view, self.interface.addresses)),
            planned=tuple(described(one, self.interface) for one in self.planned()) if known else (),
            read_at=self._read_at,
            last_call=self._last_call,
            last_call_at=self._last_call_at,
            last_error=self._trouble or self._call_error,
            trouble=self._trouble,
            remarks=self._remarks,
            drift=self.drift,
            calls=self.calls,
            failures=self.failures,
            settled=standing.active and self._settled_for == standing,
            move_seconds=self._move_seconds,
        )

    def _address_view(self, address: str) -> AddressView:
        seen = self._placed.get(address, Placed(address, Place.UNKNOWN))
        # What was last seen here when the other gateway could still take it is not known to be here
        place = Place.UNKNOWN if self._doubted and seen.place is Place.OURS else seen.place
        return AddressView(address, place, seen.interface, seen.public, self._patience.refusals.get(address, ""))

    def _place(self, address: str) -> Place:
        seen = self._placed.get(address)
        return seen.place if seen is not None else Place.UNKNOWN

    def _said(self, address: str) -> str:
        seen = self._placed.get(address, Placed(address, Place.UNKNOWN))
        return WORDS[seen.place] + (f" ({short(seen.interface)})" if seen.interface else "")

    def _start(self, operation: Operation, now: float) -> Operation:
        self._running = operation
        if isinstance(operation, Read):
            self._read_began = now
        self._last_call, self._last_call_at = described(operation, self.interface), now
        self.calls += 1
        return operation


WORDS = {
    Place.UNKNOWN: "is nobody knows where",
    Place.OURS: "is at this gateway's interface",
    Place.PEER: "is at the other gateway's interface",
    Place.ABSENT: "is at no interface",
    Place.FOREIGN: "is at an interface of neither gateway",
    Place.FIXED: "is an interface's own first address",
}
_FIXES = {
    Place.FOREIGN: "it is left there: take it off that interface, or share another address in [ha] shared_addresses",
    Place.FIXED: "which the cloud moves to nobody: share another address of the subnet in [ha] shared_addresses",
}


def described(operation: Operation, interface: Interface) -> str:
    """A call in words, as a dry run shows it."""
    match operation:
        case Read():
            return "read the interfaces"
        case Free(addresses):
            return f"take {', '.join(addresses)} off {short(interface.theirs)}"
        case Assign(addresses):
            return f"assign {', '.join(addresses)} to {short(interface.ours)}"


def short(interface: str) -> str:
    """The last part of a cloud's long name."""
    return interface.rpartition("/")[2]
