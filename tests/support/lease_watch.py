"""Who acts and who may, at every instant: both gateways' status against the witness's own log and what the cloud was asked to write.

    gateway a, b   status again and again  -> from when until when each was active for certain
    witness        its log, line by line   -> which grant was known when: at most this late
    cloud          what it was told        -> who moved the route table, and when

Only what is certain counts, so a busy machine makes the watch coarser, never wrong: a gateway that answered "active, epoch 7" twice was
active from the end of the first answer to the beginning of the second, for who loses the lease never acts under its epoch again. All
times are the tests' own monotonic clock, whatever clocks the watched have.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass
from itertools import pairwise, product

from support.cloud_beside import AzureBeside
from support.two_gateways import FABRIC, NAMES, TwoGateways

PAUSE = 0.02
ON_ITS_WAY = 0.1
"""Seconds that a write may take from the gateway to the cloud's log, on a busy machine."""
_GRANT = re.compile(r"lease granted to gw-(\w+) as epoch (\d+)")


@dataclass(frozen=True, slots=True)
class Grant:
    """`by`: when we knew of it; it was given before."""

    holder: int
    epoch: int
    by: float


@dataclass(frozen=True, slots=True)
class Acting:
    """A stretch of time in which this gateway was active, without doubt."""

    who: int
    epoch: int
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class _Answer:
    asked: float
    came: float
    epoch: int | None  # None: not active


class LeaseWatch:
    """`start` when the pair is whole; `stop` checks what must hold at every instant."""

    def __init__(self, pair: TwoGateways, azure: AzureBeside | None = None) -> None:
        self._pair, self._azure = pair, azure
        self._over = threading.Event()
        self._answers: list[list[_Answer]] = [[], []]
        self._grants: list[Grant] = []
        self._threads = [threading.Thread(target=self._ask, args=(at,), daemon=True) for at in (0, 1)]
        self._threads.append(threading.Thread(target=self._read, daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def grants_since(self, since: float) -> list[Grant]:
        """Each of them made somebody active, or was to."""
        return [grant for grant in self._grants if grant.by >= since]

    def stop(self) -> None:
        """Raises AssertionError with everything that was not as it must be."""
        time.sleep(2 * PAUSE)
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        acted = [self._acted(at) for at in (0, 1)]
        assert any(acted), "nobody acted all the while, or nobody was watched"
        wrong = [f"both act: {a}, {b}" for a, b in product(*acted) if max(a.begin, b.begin) < min(a.end, b.end)]
        wrong += [fault for at in (0, 1) for one in acted[at] if (fault := self._unfounded(one))]
        wrong += self._stray_writes()
        assert not wrong, "\n".join(wrong)

    # --- what was seen ------------------------------------------------------------------------------------------

    def _ask(self, at: int) -> None:
        while not self._over.is_set():
            asked = time.monotonic()
            status = self._pair.daemons[at].status()
            state = (status.get("ha") if status else None) or {}
            epoch = int(state["acting_epoch"]) if state.get("role") == "active" else None
            self._answers[at].append(_Answer(asked, time.monotonic(), epoch))
            time.sleep(PAUSE)

    def _read(self) -> None:
        assert self._pair.witness_process is not None
        with self._pair.witness_process.log.open() as log:
            while not self._over.is_set():
                for line in log:
                    if found := _GRANT.search(line):
                        holder, epoch = NAMES.index(found[1]), int(found[2])
                        self._grants.append(Grant(holder, epoch, time.monotonic()))
                time.sleep(PAUSE / 4)

    def _acted(self, at: int) -> list[Acting]:
        return [
            Acting(at, first.epoch, first.came, second.asked)
            for first, second in pairwise(self._answers[at])
            if first.epoch is not None and first.epoch == second.epoch
        ]

    # --- what must hold -----------------------------------------------------------------------------------------

    def _unfounded(self, one: Acting) -> str:
        mine = [grant for grant in self._grants if (grant.holder, grant.epoch) == (one.who, one.epoch)]
        later = [grant for grant in self._grants if grant.epoch > one.epoch and grant.by < one.end]
        return f"{one} without the lease; granted: {mine}, meanwhile to another: {later}" if later or not mine else ""

    def _stray_writes(self) -> list[str]:
        wrong = []
        for write in self._azure.writes() if self._azure is not None else ():
            hop = json.loads(write["body"] or "{}").get("properties", {}).get("nextHopIpAddress")
            if hop not in FABRIC or not self._grants or write["at"] < self._grants[0].by:
                continue
            early, late = write["at"] - ON_ITS_WAY, write["at"] + ON_ITS_WAY
            before = [grant for grant in self._grants if grant.by <= early][-1:]
            around = [grant for grant in self._grants if early < grant.by <= late]
            if FABRIC.index(hop) not in {grant.holder for grant in before + around}:
                wrong.append(f"{write['path']} was led to {hop} at {write['at']}; the lease: {before + around}")
        return wrong
