"""When a call to the cloud is tried again: soon after a first failure, not before it says, and seldom once it was refused.

Of one thing of the cloud's (a route table, a network interface); a refusal is that of one key in it (a route, an address).
"""

from __future__ import annotations

from gateway.contract import RandomSource
from gateway.ha.fabric_values import Failed, Why

FIRST_RETRY, LAST_RETRY = 0.25, 60.0
FIRST_HOLD, LAST_HOLD = 5.0, 300.0
"""What was refused is refused again, until somebody changes a role or a table."""
FEW = 2
"""One failure or two are nothing: clouds are busy."""


class Patience:
    """`retry_at`: no call before; `held(key)`: not this one."""

    def __init__(self, random: RandomSource, now: float) -> None:
        self.retry_at = now
        self._random = random
        self._in_row = 0
        self._of_writes = False
        self._held: dict[str, tuple[float, float, str]] = {}  # key: until, last hold, sentence
        self._failure = ""

    def failed(self, failure: Failed, key: str, now: float) -> None:
        """`key` of what was written; "" for a reading."""
        self._failure = failure.sentence
        if failure.why is Why.REFUSED and key:
            hold = min(self._held.get(key, (0.0, FIRST_HOLD / 2))[1] * 2, LAST_HOLD)
            self._held[key] = (now + hold * self._random.uniform(0.9, 1.1), hold, failure.sentence)
            return
        self._in_row += 1
        self._of_writes |= bool(key)
        # The first look after a doubt, and the first try with a new token, cost nobody anything.
        at_once = self._in_row == 1 and failure.why in (Why.EXPIRED, Why.AMBIGUOUS, Why.CONFLICT)
        backoff = 0.0 if at_once else min(FIRST_RETRY * 2 ** (self._in_row - 1), LAST_RETRY)
        waits = max(backoff * self._random.uniform(0.5, 1.5), failure.retry_after * self._random.uniform(1.0, 1.1))
        self.retry_at = max(self.retry_at, now + waits)

    def succeeded(self, key: str) -> None:
        """That a reading succeeds says nothing of writes that fail: else each of them would be tried again at once, for ever."""
        if key or not self._of_writes:
            self.settled()
        self._held.pop(key, None)

    def settled(self) -> None:
        """Nothing is left to be tried again."""
        self._in_row, self._of_writes = 0, False

    def again(self) -> None:
        """What was refused may not be any more."""
        self._held.clear()

    def at_once(self, now: float) -> None:
        """Whatever kept us waiting is tried now."""
        self._held.clear()
        self.retry_at = min(self.retry_at, now)
        self.settled()

    def is_held(self, key: str, now: float) -> bool:
        return key in self._held and now < self._held[key][0]

    @property
    def waits(self) -> tuple[float, ...]:
        """When something may be tried again."""
        return (self.retry_at, *(until for until, _, _ in self._held.values()))

    @property
    def refusals(self) -> dict[str, str]:
        """By key: the sentence."""
        return {key: sentence for key, (_, _, sentence) in self._held.items()}

    @property
    def lasting(self) -> str:
        """What keeps failing; "" for nothing."""
        return self._failure if self._in_row > FEW else ""
