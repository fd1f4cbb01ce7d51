"""Which next hops the paths in clear of one routing instance have, and which of them are reached.

RFC 4271 9.1.2: a path whose NEXT_HOP is not resolvable is excluded from the decision process. How it is resolved is not
known here: whoever has routes is asked by `FollowNextHop` and answers by `NextHop`, again whenever it changes. Until the
first answer what was decided before stands, so that neither a path that leads nowhere is told to anybody nor one that is
replaced withdrawn in between. Paths in tunnels are resolved by their connection, and fail closed with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from gateway.bgp.events import FollowNextHop
from gateway.bgp.path import Path
from gateway.bgp.prefixes import Address, Prefix
from gateway.bgp.rib import Candidate


class NextHops:
    """By prefix what its candidates need, and the reverse; so a change costs what depends on it."""

    def __init__(self, instance: str = "") -> None:
        self._instance = instance
        self._needs: dict[Prefix, tuple[Address, ...]] = {}
        self._dependents: dict[Address, dict[Prefix, None]] = {}
        self._reached: dict[Address, bool] = {}  # those that were answered
        self._asks: deque[FollowNextHop] = deque()

    def __bool__(self) -> bool:
        """Whether any is needed: not where everything is learned in tunnels."""
        return bool(self._needs)

    def note(self, prefix: Prefix, candidates: Iterable[Candidate]) -> None:
        """These are all the candidates there are for it now."""
        needs = tuple({one.path.next_hop: None for one in candidates if not one.path.connection})
        before = self._needs.get(prefix, ())
        if needs == before:
            return
        if needs:
            self._needs[prefix] = needs
        else:
            del self._needs[prefix]
        for address in needs:
            if address not in self._dependents:
                self._dependents[address] = {}
                self._asks.append(FollowNextHop(address, True, self._instance))
            self._dependents[address][prefix] = None
        for address in before:
            if address not in needs:
                dependents = self._dependents[address]
                del dependents[prefix]
                if not dependents:
                    del self._dependents[address]
                    self._reached.pop(address, None)
                    self._asks.append(FollowNextHop(address, False, self._instance))

    def learn(self, address: Address, reached: bool) -> tuple[Prefix, ...]:
        """The prefixes that are to be decided anew."""
        if address not in self._dependents or self._reached.get(address) is reached:
            return ()
        self._reached[address] = reached
        return tuple(self._dependents[address])

    def known(self, candidates: Iterable[Candidate]) -> bool:
        """Whether of all of these it is known whether their next hop is reached."""
        return all(one.path.connection or one.path.next_hop in self._reached for one in candidates)

    def leads_nowhere(self, path: Path) -> bool:
        """Whether its next hop is known not to be reached."""
        return not path.connection and self._reached.get(path.next_hop) is False

    def ask_again(self) -> None:
        """Whoever was asked may be another one now."""
        self._asks.extend(FollowNextHop(address, True, self._instance) for address in self._dependents)

    def asks(self) -> Iterator[FollowNextHop]:
        while self._asks:
            yield self._asks.popleft()
