"""Runs a Fib against the kernel model: answers its effects, one operation at a time, watched after each."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from support.kernel_model import Kernel

from gateway.routing.fib import Fib
from gateway.routing.model import (
    Address,
    Applied,
    Command,
    DumpRequest,
    FibSettings,
    NextHopResolved,
    Op,
    OpError,
    Reconcile,
    Resolution,
    Resolve,
    RouteOps,
)

UNDERLAY = 2


class Shell:
    """`faults(op)` may name an error instead of applying; `watch()` runs after every single operation."""

    def __init__(self, kernel: Kernel | None = None, settings: FibSettings | None = None) -> None:
        self.kernel = kernel or Kernel({UNDERLAY})
        self.fib = Fib(settings)
        self.now = 0.0
        self.batches: list[tuple[Op, ...]] = []
        self.dumps = 0
        self.resolver: dict[Address, Resolution | None] = {}
        self.faults: Callable[[Op], OpError | None] = lambda op: None
        self.watch: Callable[[], None] = lambda: None

    def tell(self, *commands: Command) -> None:
        """Commands, each followed by everything they cause."""
        for command in commands:
            self.fib.command(command, self.now)
            self.settle()

    def settle(self, limit: int = 200) -> None:
        for _ in range(limit):
            effects = list(self.fib.poll())
            if not effects:
                if (due := self.fib.next_deadline()) is None or due > self.now:
                    return
                self.fib.handle_deadline(self.now)  # the next slice of what it is comparing
            for effect in effects:
                self.fib.command(self._answer(effect), self.now)
        raise AssertionError("the FIB does not come to rest")

    def pass_time(self) -> None:
        """To the next deadline."""
        deadline = self.fib.next_deadline()
        assert deadline is not None
        self.now = deadline
        self.fib.handle_deadline(self.now)
        self.settle()

    def _answer(self, effect: RouteOps | DumpRequest | Resolve) -> Command:
        if isinstance(effect, Resolve):
            default = Resolution(ip_address("10.0.1.1"), UNDERLAY) if effect.address.version == 4 else None
            return NextHopResolved(effect.address, self.resolver.get(effect.address, default))
        if isinstance(effect, DumpRequest):
            self.dumps += 1
            return Reconcile(effect.ticket, self.kernel.dump())
        self.batches.append(effect.ops)
        errors = {}
        for position, op in enumerate(effect.ops):
            error = self.faults(op) or self.kernel.apply(op)
            if error is not None:
                errors[position] = error
            self.watch()
        return Applied(effect.ticket, errors)
