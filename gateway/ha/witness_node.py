"""The witness node: a third machine that grants the lease of each cluster to one holder at a time.

A core (gateway/contract.py). Nothing is acted on but authentic requests whose number is new, of a boot that echoed a
challenge of this process (as in `heartbeat.py`): recorded requests neither take nor end a lease. Each grant has an
epoch above every earlier one, and the epoch is on disk before the answer leaves: `Persist`, then `persisted`. A lease
ends by its own clock, counted from the answer, which is later than the holder counts from.

After a restart it does not know how long the leases of before still are. It grants nothing for one longest ttl; but it
renews what it wrote down last, because nobody else can have got one since.

    ACQUIRE, free       -> Persist -> GRANTED        HELD leaves the asker waiting: it gets a NOTICE the moment the
    ACQUIRE, held       -> HELD                      lease ends, however it ends. One waits; the last one who asked.
    BREAK, if allowed   -> Persist -> GRANTED, and a NOTICE for the one it was taken from

What cannot be written down is not granted: `not_persisted`, and all is as it was before it was asked for.
"""

from __future__ import annotations

import hmac
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from gateway.contract import Endpoint, RandomSource, Transmit
from gateway.ha.lease_message import CHALLENGE_OCTETS, REQUESTS, Kind, LeaseMessage, keyring, open_, seal
from gateway.ha.sealed import BOOT_OCTETS, HEADER_OCTETS, MAGIC_OCTETS, Refused, Rejection
from gateway.wire import Reader

BOOTS = 8  # of one cluster that are believed at a time
LEAP = 1 << 32  # the most by which an asker may raise the epoch


@dataclass(frozen=True, slots=True)
class Record:
    """What must survive: the last grant of a cluster."""

    epoch: int
    boot: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Persist:
    """Write it down, then call `persisted(ticket, now)`, or `not_persisted`. Nothing is answered before.

    `taken_from`: who has the lease that is broken by it; None if nobody has."""

    ticket: int
    cluster: int
    record: Record
    taken_from: str | None = None


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """One pair. `longest_ttl` is the most it may ask for, in seconds. For as long nothing is granted after a restart, or for
    `granted_before`, the longest ttl of the process before, if that was longer."""

    secrets: tuple[bytes, ...] = field(repr=False)
    longest_ttl: float = 60.0
    break_allowed: bool = False
    granted_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Tenure:
    """A lease that somebody has, until then unless it is renewed."""

    record: Record
    expires_at: float


@dataclass(slots=True)
class _Boot:
    """A process that we believe is alive."""

    boot: bytes
    name: str
    local: Endpoint
    remote: Endpoint
    sequence: int


@dataclass(frozen=True, slots=True)
class _Granting:
    """A grant that is not on disk yet, and what it replaces."""

    ticket: int
    boot: _Boot
    request: LeaseMessage
    before: Record
    expires_at: float | None
    broken: _Boot | None


@dataclass(slots=True)
class _Cluster:
    number: int
    settings: ClusterSettings
    record: Record
    expires_at: float | None = None  # None: nobody has it
    granting: _Granting | None = None  # until it is on disk
    believed: int = 0
    boots: dict[bytes, _Boot] = field(default_factory=dict)
    waiter: tuple[bytes, float] | None = None  # its boot, and until when it waits


class WitnessNode:
    """Grants, renews and ends the leases of every cluster it is told of."""

    def __init__(
        self,
        local: Endpoint,
        clusters: Mapping[int, ClusterSettings],
        records: Mapping[int, Record],
        random: RandomSource,
        now: float,
    ) -> None:
        self._local = local
        self._boot = random.octets(BOOT_OCTETS)
        self._challenge_key = random.octets(32)
        self._started_at = now
        self._keys = {number: keyring(settings.secrets, number) for number, settings in clusters.items()}
        nothing = Record(0, b"", "")
        self._clusters = {n: _Cluster(n, settings, records.get(n, nothing)) for n, settings in clusters.items()}
        self._sequence = 0
        self._tickets = 0
        self._effects: deque[Transmit | Persist] = deque()
        self._changed: set[int] = set()
        self.rejected = dict.fromkeys(Rejection, 0)

    def receive(self, data: bytes, remote: Endpoint, now: float, local: Endpoint | None = None) -> None:
        """A datagram; never raises for what it is. `local`: whom it was sent to, where there are several of us."""
        try:
            cluster = self._cluster_of(data)
            self._accept(cluster, open_(data, self._keys[cluster.number]), local or self._local, remote, now)
        except Refused as refused:
            self.rejected[refused.why] += 1

    def persisted(self, ticket: int, now: float) -> None:
        """The record of a Persist is on disk."""
        for cluster, done in self._written(ticket):
            self._hold(cluster, now + done.request.ttl)
            if cluster.waiter is not None and cluster.waiter[0] == done.boot.boot:
                cluster.waiter = None
            self._answer(cluster, done.boot, done.request, Kind.GRANTED, ttl=done.request.ttl)
            if done.broken is not None:
                self._notice(cluster, done.broken)

    def not_persisted(self, ticket: int, why: str, now: float) -> None:
        """The record of a Persist is perhaps not on disk: nothing is granted. Whoever asked asks again."""
        for cluster, failed in self._written(ticket):
            cluster.record = failed.before
            self._hold(cluster, failed.expires_at)
            self._answer(cluster, failed.boot, failed.request, Kind.FAILED, text=why)
            self._expire(cluster, now)

    def poll(self) -> Iterator[Transmit | Persist]:
        while self._effects:
            yield self._effects.popleft()

    def next_deadline(self) -> float | None:
        return min((one.expires_at for one in self._clusters.values() if one.expires_at is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        for cluster in self._clusters.values():
            self._expire(cluster, now)

    def record(self, cluster: int) -> Record:
        """The last grant."""
        return self._clusters[cluster].record

    def tenure(self, cluster: int) -> Tenure | None:
        """The lease of a cluster, if somebody has it; one that is being broken stands until that is on disk."""
        found = self._clusters[cluster]
        if found.granting is not None and found.granting.expires_at is not None:
            return Tenure(found.granting.before, found.granting.expires_at)
        return Tenure(found.record, found.expires_at) if found.expires_at is not None else None

    def changed(self) -> set[int]:
        """The clusters whose tenure may be another than when this was asked last."""
        found, self._changed = self._changed, set()
        return found

    # --- who asks -----------------------------------------------------------------------------------------------

    def _cluster_of(self, data: bytes) -> _Cluster:
        """Whose keys to try: not authentic yet."""
        if len(data) < HEADER_OCTETS:
            raise Refused(Rejection.MALFORMED)
        reader = Reader(data)
        reader.take(MAGIC_OCTETS + 4)
        cluster = self._clusters.get(reader.u32())
        if cluster is None:
            raise Refused(Rejection.BAD_MAC)
        return cluster

    def _accept(self, cluster: _Cluster, request: LeaseMessage, local: Endpoint, remote: Endpoint, now: float) -> None:
        if request.boot == self._boot:
            raise Refused(Rejection.OWN_REFLECTION)
        if request.kind not in REQUESTS:
            raise Refused(Rejection.MALFORMED)
        boot = cluster.boots.get(request.boot)
        if boot is None:
            boot = self._meet(cluster, request, local, remote)
        elif request.sequence <= boot.sequence:
            # Stricter than a window: what was overtaken is not done any more, so that it cannot undo what came later
            raise Refused(Rejection.REPLAY)
        boot.sequence, boot.local, boot.remote, boot.name = request.sequence, local, remote, request.name
        self._expire(cluster, now)
        _SERVED[request.kind](self, cluster, boot, request, now)

    def _meet(self, cluster: _Cluster, request: LeaseMessage, local: Endpoint, remote: Endpoint) -> _Boot:
        boot = _Boot(request.boot, request.name, local, remote, request.sequence)
        if not hmac.compare_digest(request.challenge, self._challenge(cluster, request.boot)):
            self._answer(cluster, boot, request, Kind.CHALLENGE, challenge=self._challenge(cluster, request.boot))
            raise Refused(Rejection.UNKNOWN_BOOT)
        cluster.believed += 1
        cluster.boots[request.boot] = boot
        for old in list(cluster.boots)[:-BOOTS]:
            del cluster.boots[old]
        return boot

    def _challenge(self, cluster: _Cluster, boot: bytes) -> bytes:
        bound = cluster.number.to_bytes(4, "big") + boot + cluster.believed.to_bytes(8, "big")
        return hmac.digest(self._challenge_key, bound, "sha256")[:CHALLENGE_OCTETS]

    # --- what is asked ------------------------------------------------------------------------------------------

    def _read(self, cluster: _Cluster, boot: _Boot, request: LeaseMessage, now: float) -> None:
        if self._busy(cluster, now):
            self._is_held(cluster, boot, request, now)
        else:
            self._answer(cluster, boot, request, Kind.FREE)

    def _acquire(self, cluster: _Cluster, boot: _Boot, request: LeaseMessage, now: float) -> None:
        if not 0 < request.ttl <= cluster.settings.longest_ttl:
            self._answer(cluster, boot, request, Kind.FAILED, text=f"ttl above {cluster.settings.longest_ttl:g} s")
        elif request.epoch > cluster.record.epoch + LEAP:
            self._answer(cluster, boot, request, Kind.FAILED, text="the epoch asked for is out of reach")
        elif self._busy(cluster, now) and not self._breaks(cluster, request, now):
            cluster.waiter = (boot.boot, now + request.ttl)
            self._is_held(cluster, boot, request, now)
        else:
            self._grant(cluster, boot, request)

    def _breaks(self, cluster: _Cluster, request: LeaseMessage, now: float) -> bool:
        may = request.kind is Kind.BREAK and cluster.settings.break_allowed and cluster.granting is None
        return may and not self._just_started(cluster, now)

    def _grant(self, cluster: _Cluster, boot: _Boot, request: LeaseMessage) -> None:
        before, expires_at = cluster.record, cluster.expires_at
        holder = cluster.boots.get(before.boot)
        broken = holder if expires_at is not None and holder is not boot else None
        cluster.record = Record(self._epoch_for(cluster, request), boot.boot, boot.name)
        self._hold(cluster, None)
        self._tickets += 1
        cluster.granting = _Granting(self._tickets, boot, request, before, expires_at, broken)
        taken_from = before.name if expires_at is not None and before.boot != boot.boot else None
        self._effects.append(Persist(self._tickets, cluster.number, cluster.record, taken_from))

    def _written(self, ticket: int) -> Iterator[tuple[_Cluster, _Granting]]:
        """Whose grant it was; it is one no more."""
        for cluster in self._clusters.values():
            granting = cluster.granting
            if granting is not None and granting.ticket == ticket:
                cluster.granting = None
                yield cluster, granting

    def _epoch_for(self, cluster: _Cluster, request: LeaseMessage) -> int:
        """Above every epoch granted before, and not below what the asker knows of."""
        return max(cluster.record.epoch + 1, request.epoch)

    def _renew(self, cluster: _Cluster, boot: _Boot, request: LeaseMessage, now: float) -> None:
        record = cluster.record
        known = cluster.expires_at is not None or self._just_started(cluster, now)
        if known and cluster.granting is None and (record.boot, record.epoch) == (boot.boot, request.epoch):
            ttl = min(request.ttl, cluster.settings.longest_ttl)
            self._hold(cluster, max(cluster.expires_at or 0.0, now + ttl))
            self._answer(cluster, boot, request, Kind.GRANTED, ttl=ttl)
        else:
            self._read(cluster, boot, request, now)

    def _release(self, cluster: _Cluster, boot: _Boot, request: LeaseMessage, now: float) -> None:
        record = cluster.record
        if (record.boot, record.epoch) == (boot.boot, request.epoch) and cluster.granting is None:
            self._end(cluster, now)
        self._answer(cluster, boot, request, Kind.FREE)

    # --- the lease ----------------------------------------------------------------------------------------------

    def _busy(self, cluster: _Cluster, now: float) -> bool:
        return cluster.expires_at is not None or cluster.granting is not None or self._just_started(cluster, now)

    def _just_started(self, cluster: _Cluster, now: float) -> bool:
        return now < self._quiet_until(cluster)

    def _quiet_until(self, cluster: _Cluster) -> float:
        return self._started_at + max(cluster.settings.longest_ttl, cluster.settings.granted_before)

    def _expire(self, cluster: _Cluster, now: float) -> None:
        if cluster.expires_at is not None and now >= cluster.expires_at:
            self._end(cluster, now)

    def _hold(self, cluster: _Cluster, until: float | None) -> None:
        cluster.expires_at = until
        self._changed.add(cluster.number)

    def _end(self, cluster: _Cluster, now: float) -> None:
        self._hold(cluster, None)
        if cluster.waiter is not None and now < cluster.waiter[1] and not self._just_started(cluster, now):
            waiting = cluster.boots.get(cluster.waiter[0])
            cluster.waiter = None
            if waiting is not None:
                self._notice(cluster, waiting)

    def _is_held(self, cluster: _Cluster, boot: _Boot, request: LeaseMessage, now: float) -> None:
        until = cluster.expires_at
        if until is None and cluster.granting is None:
            until = self._quiet_until(cluster)
        self._answer(
            cluster,
            boot,
            request,
            Kind.HELD,
            remaining=max(0.0, until - now) if until is not None else None,
            ours=cluster.expires_at is not None and cluster.record.boot == boot.boot,
            name=cluster.record.name,
        )

    # --- sending ------------------------------------------------------------------------------------------------

    def _answer(
        self,
        cluster: _Cluster,
        boot: _Boot,
        request: LeaseMessage,
        kind: Kind,
        ttl: float = 0.0,
        remaining: float | None = None,
        ours: bool = False,
        name: str = "",
        text: str = "",
        challenge: bytes = bytes(CHALLENGE_OCTETS),
    ) -> None:
        self._sequence += 1  # the one place where it is counted: no nonce comes twice
        said = LeaseMessage(
            kind, self._boot, self._sequence, request.boot, request.sequence, challenge,
            cluster.record.epoch, ttl, remaining, ours, name, text,
        )  # fmt: skip
        self._effects.append(Transmit(seal(said, self._keys[cluster.number]), boot.local, boot.remote))

    def _notice(self, cluster: _Cluster, boot: _Boot) -> None:
        """That it should ask again. Answers the last thing it asked."""
        last = LeaseMessage(Kind.READ, boot.boot, boot.sequence)
        self._answer(cluster, boot, last, Kind.NOTICE)


_Serve = Callable[[WitnessNode, _Cluster, _Boot, LeaseMessage, float], None]
_SERVED: dict[Kind, _Serve] = {
    Kind.READ: WitnessNode._read,
    Kind.ACQUIRE: WitnessNode._acquire,
    Kind.RENEW: WitnessNode._renew,
    Kind.RELEASE: WitnessNode._release,
    Kind.BREAK: WitnessNode._acquire,
}
