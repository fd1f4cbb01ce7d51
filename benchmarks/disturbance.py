"""What must not cost throughput: rekeys, status requests, and packets to be dropped, while TCP runs.

The scrape is the snapshot that every view is drawn from, the metrics included. The packets to be dropped are datagrams
to port 4500 with an SPI that nobody has, at a rate of their own; they do not come from the peer's port, so that nothing
about them is a rebinding.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from support.process import Process

from benchmarks.errors import BenchError
from benchmarks.load import tcp
from benchmarks.native_programs import program
from benchmarks.search import Quantities
from benchmarks.side import RIGHT_OUTER, Side
from benchmarks.sides import Gatewayd
from gateway.cli.client import Client, NotFound, TimedOut, Unreachable

_PAUSE = 0.1  # seconds between status requests
_PAUSES_PER_REKEY = 5
_JUNK_SIZE, _JUNK_RATE = 200, 2000
_LONGEST = 60.0  # seconds; the sender is ended long before
_PATIENCE = 5.0
_MINUTE = 60.0


def tcp_disturbed(side: Side, seconds: float) -> Quantities:
    """As `tcp`, with all of it going on; fails when it did not."""
    assert isinstance(side, Gatewayd)
    with _Disturbance(side) as disturbance:
        found = tcp(side, seconds)
    return {**found, **disturbance.counted(seconds)}


class _Disturbance:
    def __init__(self, side: Gatewayd) -> None:
        self._side = side
        self._client = Client(str(side.left_daemon.socket))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._disturb)
        self._junk: Process | None = None
        self._rekeys = self._requests = 0
        self._refused = ""
        self._dropped_before = 0

    def __enter__(self) -> _Disturbance:
        self._dropped_before = self._dropped()
        send = [program("udp_load"), "send", RIGHT_OUTER, "4500", str(_JUNK_SIZE), str(_JUNK_RATE), str(_LONGEST)]
        self._junk = self._side.left.start("junk", send)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_MINUTE)
        if self._junk is not None:
            self._junk.stop()

    def counted(self, seconds: float) -> Quantities:
        """What went on; raises when it was less than asked for."""
        dropped = self._dropped() - self._dropped_before
        if self._refused:
            raise BenchError(f"{self._side.label}: {self._refused}")
        if self._rekeys < seconds or self._requests < seconds or dropped < seconds * _JUNK_RATE / 4:
            raise BenchError(f"only {self._rekeys} rekeys, {self._requests} status requests, {dropped} drops")
        return {"rekeys": self._rekeys, "status_requests": self._requests, "dropped": dropped}

    def _disturb(self) -> None:
        turn = 0
        while not self._over.wait(_PAUSE):
            try:
                self._client.status()
                self._requests += 1
                turn += 1
                if turn % _PAUSES_PER_REKEY == 0:
                    self._rekey()
            except (NotFound, TimedOut, Unreachable) as error:
                self._refused = str(error)
                return

    def _rekey(self) -> None:
        ok, sentence = self._client.operate("rekey", f"{self._side.left_daemon.tunnel_name}/net", _PATIENCE)
        if ok:
            self._rekeys += 1
        else:
            self._refused = f"a rekey failed: {sentence}"

    def _dropped(self) -> int:
        status: dict[str, Any] | None = self._side.right_daemon.status()
        if status is None:
            raise BenchError(f"{self._side.label}: gatewayd does not answer")
        return int(status["drops"]["unknown_spi"])
