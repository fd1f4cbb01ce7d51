r"""`gatewayd --witness`: the witness node (gateway/ha/witness_node.py) as a process on a third machine.

    socket, timer -> node -> poll -> Transmit -> socket
                                 \-> Persist -> a thread writes and waits for the disk -> persisted -> the answer leaves

Time is CLOCK_BOOTTIME, which goes on while the machine is suspended, as the leases do. It needs no privileges, knows no
configuration of gateways, routes no packet and keeps nothing but the last grant of each cluster.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from gateway.contract import Endpoint, Transmit
from gateway.ha.sealed import Rejection
from gateway.ha.witness_node import Persist, Record, Tenure, WitnessNode
from gateway.runtime.faults import explained
from gateway.runtime.randomness import SystemRandom
from gateway.runtime.systemd import Notifier
from gateway.runtime.witness_loading import LoadedWitness
from gateway.runtime.witness_records import Records, StateError, Stored
from gateway.runtime.witness_socket import WitnessSocket

WRITERS = 4
"""Threads that wait for the disk: a cluster has one write at a time, and does not wait for the others'."""
SLOW = 2.0
"""Seconds after which people are told that a disk does not answer."""
LONGEST_SLEEP = 1.0
"""Seconds. The loop's timers stand still while the machine is suspended, the leases do not."""
SELDOM = 60.0
"""Seconds in which the same complaint is made once."""
SHOWN = 3  # leases in the status line
_SUSPICIOUS = (Rejection.BAD_MAC, Rejection.BAD_VERSION, Rejection.MALFORMED)

log = logging.getLogger("gateway.witness")


def main(loaded: LoadedWitness) -> int:
    """0: stopped on request; 1: cannot start."""
    try:
        uvloop.run(_serve(loaded))
    except (OSError, StateError) as error:
        log.error("cannot start: %s", error, extra={"event": "start-failed"})
        return 1
    return 0


async def _serve(loaded: LoadedWitness) -> None:
    await WitnessProcess(loaded, Notifier()).run()


class WitnessProcess:
    """The composition: everything but the disk runs in the loop's thread."""

    def __init__(self, loaded: LoadedWitness, notifier: Notifier) -> None:
        witness = loaded.config.witness
        self._local = Endpoint(str(witness.address), witness.port)
        self._loaded, self._notifier = loaded, notifier
        self._records = Records(Path(witness.state_directory))
        self._socket = WitnessSocket(self._local, self._received)
        self._pool = ThreadPoolExecutor(WRITERS, thread_name_prefix="disk")
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = asyncio.Event()
        self._tenures: dict[int, Tenure] = {}
        self._unwritten: set[int] = set()  # clusters whose records cannot be written
        self._complaints = Complaints()

    async def run(self) -> None:
        """Until SIGTERM. OSError, StateError: cannot start."""
        self._records.open()
        try:
            self._node = self._made()
            self._socket.open()
            self._handle_signals()
            watchdog = asyncio.create_task(self._feed_watchdog())
            clusters = _count(len(self._loaded.clusters), "cluster")
            log.info("witness of %s on UDP %s", clusters, self._local, extra={"event": "started"})
            self._show()
            self._notifier.ready()
            await self._stopped.wait()
            self._notifier.stopping()
            watchdog.cancel()
        finally:
            self._close()
        log.info("stopped; leases go on until they are over", extra={"event": "stopped"})

    def _made(self) -> WitnessNode:
        """With what was granted before. A longer ttl than was ever allowed is on disk before anybody can get it."""
        clusters, records = {}, {}
        for number, settings in self._loaded.clusters.items():
            stored = self._records.read(number)
            if stored is not None:
                records[number] = stored.record
                if stored.longest_ttl < settings.longest_ttl:
                    with explained(str(self._records.path(number)), {}):
                        self._records.write(number, replace(stored, longest_ttl=settings.longest_ttl))
            before = stored.longest_ttl if stored is not None else 0.0
            clusters[number] = replace(settings, granted_before=before)
        return WitnessNode(self._local, clusters, records, SystemRandom(), _now())

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, _refuse_reload)

    def _close(self) -> None:
        self._socket.close()
        if self._timer is not None:
            self._timer.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._records.close()
        self._notifier.close()

    # --- in -----------------------------------------------------------------------------------------------------

    def _received(self, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        before = self._suspicious()
        self._feed(lambda now: self._node.receive(data, remote, now, local))
        if self._suspicious() > before:
            self._complaints.make(
                "refused",
                "datagrams that are not authentic, the last one from %s: has it another secret or cluster?",
                remote,
            )

    def _suspicious(self) -> int:
        return sum(self._node.rejected[why] for why in _SUSPICIOUS)

    def _wake(self) -> None:
        self._timer = None
        self._feed(self._node.handle_deadline)

    def _feed(self, entry: Callable[[float], None]) -> None:
        entry(_now())
        for effect in self._node.poll():
            if isinstance(effect, Persist):
                self._persist(effect)
            else:
                self._send(effect)
        self._tell()
        self._arm()

    def _arm(self) -> None:
        deadline = self._node.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            delay = min(max(0.0, deadline - _now()), LONGEST_SLEEP)
            self._timer = asyncio.get_running_loop().call_later(delay, self._wake)

    # --- out ----------------------------------------------------------------------------------------------------

    def _send(self, datagram: Transmit) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            self._complaints.make("send", "answers cannot be sent, the last one to %s: %s", datagram.remote, error)

    def _persist(self, effect: Persist) -> None:
        stored = Stored(effect.record, self._loaded.clusters[effect.cluster].longest_ttl)
        loop = asyncio.get_running_loop()
        slow = loop.call_later(SLOW, self._is_slow, self._loaded.names[effect.cluster])
        writing = loop.run_in_executor(self._pool, self._records.write, effect.cluster, stored)
        writing.add_done_callback(partial(self._written, effect, slow))

    def _is_slow(self, name: str) -> None:
        text = "cluster %s: the disk has not written its record for %g s; until then nothing is granted"
        log.warning(text, name, SLOW, extra={"event": "disk-slow"})

    def _written(self, effect: Persist, slow: asyncio.TimerHandle, writing: asyncio.Future[None]) -> None:
        slow.cancel()
        if writing.cancelled() or self._stopped.is_set():
            return
        error = writing.exception()
        if error is None:
            self._feed(lambda now: self._granted(effect, now))
        elif isinstance(error, OSError):
            why = error.strerror or str(error)
            self._cannot_write(effect.cluster, why)
            self._feed(lambda now: self._node.not_persisted(effect.ticket, f"the witness's disk: {why}", now))
        else:
            raise error

    def _granted(self, effect: Persist, now: float) -> None:
        name, record = self._loaded.names[effect.cluster], effect.record
        self._node.persisted(effect.ticket, now)
        if effect.cluster in self._unwritten:
            self._unwritten.discard(effect.cluster)
            log.info("cluster %s: its record can be written again", name, extra={"event": "disk-recovered"})
        if effect.taken_from is not None:
            text = "cluster %s: %s took the lease from %s before it was over"
            log.warning(text, name, record.name, effect.taken_from, extra={"event": "lease-broken"})
        text = "cluster %s: lease granted to %s as epoch %d"
        log.info(text, name, record.name, record.epoch, extra={"event": "lease-granted"})
        tenure = self._node.tenure(effect.cluster)
        if tenure is not None:
            self._tenures[effect.cluster] = tenure
            self._show()

    def _cannot_write(self, cluster: int, why: str) -> None:
        if cluster not in self._unwritten:
            self._unwritten.add(cluster)
            text = "cluster %s: nothing is granted, %s cannot be written: %s"
            name, path = self._loaded.names[cluster], self._records.path(cluster)
            log.error(text, name, path, why, extra={"event": "disk-failed"})
            self._show()

    # --- what people see ----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """What ended, and what goes on from before our start; grants are told when they are written."""
        now = _now()
        for number in self._node.changed():
            name = self._loaded.names[number]
            before, tenure = self._tenures.get(number), self._node.tenure(number)
            if before == tenure:
                continue
            if tenure is None:
                assert before is not None
                del self._tenures[number]
                _tell_end(name, before, now)
            else:
                self._tenures[number] = tenure
                if before is None:
                    record, text = tenure.record, "cluster %s: the lease of %s, epoch %d, goes on"
                    log.info(text, name, record.name, record.epoch, extra={"event": "lease-goes-on"})
            if (before is None) != (tenure is None):
                self._show()

    def _show(self) -> None:
        names = self._loaded.names
        held = [(names[number], tenure.record) for number, tenure in self._tenures.items()]
        parts = [_count(len(names), "cluster"), f"{_count(len(held), 'lease')} held"]
        if held:
            parts[-1] += f" ({_list(held)})"
        if self._unwritten:
            parts.append(f"{_count(len(self._unwritten), 'record')} CANNOT BE WRITTEN")
        self._notifier.status(", ".join(parts))

    async def _feed_watchdog(self) -> None:
        interval = self._notifier.watchdog_interval
        while interval is not None:
            self._notifier.watchdog()
            await asyncio.sleep(interval)


class Complaints:
    """Warnings that strangers can cause, so each is made once in a while, with how often there was a reason meanwhile."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[float, int]] = {}

    def make(self, kind: str, text: str, *facts: object) -> None:
        now = time.monotonic()
        at, count = self._made.get(kind, (float("-inf"), 0))
        if now - at < SELDOM:
            self._made[kind] = at, count + 1
            return
        before = f" ({count} more since the last time this was said)" if count else ""
        log.warning(f"{text}{before}", *facts, extra={"event": f"witness-{kind}"})
        self._made[kind] = now, 0


def _tell_end(name: str, tenure: Tenure, now: float) -> None:
    how = "is over: it was not renewed" if now >= tenure.expires_at else "was given back"
    text = f"cluster %s: the lease of %s, epoch %d, {how}"
    log.info(text, name, tenure.record.name, tenure.record.epoch, extra={"event": "lease-ended"})


def _list(held: list[tuple[str, Record]]) -> str:
    shown = [f"{name}: {record.name}, epoch {record.epoch}" for name, record in held[:SHOWN]]
    return "; ".join([*shown, *(["..."] if len(held) > SHOWN else [])])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _refuse_reload() -> None:
    text = "nothing is read again while the witness runs: restart it, leases go on over that"
    log.warning(text, extra={"event": "reload-refused"})


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
