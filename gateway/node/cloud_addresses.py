"""The shared addresses in the cloud: told of them are the same who decide about this host's, and at the same moment.

Decides nothing: who acts and until when is `Replication`'s, which calls are due is `ha/address_fabric.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from gateway.contract import RandomSource
from gateway.ha.address_fabric import AddressFabric
from gateway.ha.address_values import AddressCall, AddressFabricView, AddressSettings
from gateway.node import outcomes


class CloudAddresses:
    """Without settings it does nothing."""

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._fabric: AddressFabric | None = None
        self._told = (False, 0, 0.0)

    def configure(self, settings: AddressSettings | None, now: float) -> None:
        if settings is None:
            self._fabric = None
        elif self._fabric is not None:
            self._fabric.configure(settings, now)
        else:
            self._fabric = AddressFabric(settings, self._random, now)
            self._tell(now)

    def follow(self, acting: bool, epoch: int, until: float, now: float) -> None:
        """Whether the addresses are ours, under which epoch, and until when at least."""
        if (acting, epoch, until) != self._told:
            self._told = (acting, epoch, until)
            self._tell(now)

    def answered(self, ticket: int, outcome: object, now: float) -> None:
        if self._fabric is not None:
            self._fabric.computed(ticket, outcome, now)

    def poll(self) -> Iterator[object]:
        for effect in self._fabric.poll() if self._fabric is not None else ():
            yield effect if isinstance(effect, AddressCall) else outcomes.address(effect)

    @property
    def has_effects(self) -> bool:
        return self._fabric is not None and self._fabric.has_effects

    def next_deadline(self) -> float:
        due = self._fabric.next_deadline() if self._fabric is not None else None
        return inf if due is None else due

    def handle_deadline(self, now: float) -> None:
        if self._fabric is not None:
            self._fabric.handle_deadline(now)

    @property
    def view(self) -> AddressFabricView | None:
        """None where no cloud is told."""
        return self._fabric.view() if self._fabric is not None else None

    def _tell(self, now: float) -> None:
        acting, epoch, until = self._told
        if self._fabric is None:
            return
        if acting:
            self._fabric.activate(epoch, until, now)
        else:
            self._fabric.deactivate(now)
