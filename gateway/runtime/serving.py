"""`gatewayd` itself: from its configuration to the running daemon, and what is left behind when it ends."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import uvloop

from gateway.config.derive import workers_of
from gateway.runtime import core_dumps, logs, memory
from gateway.runtime.cleanup import cleanup
from gateway.runtime.control import AlreadyRunning
from gateway.runtime.daemon import Daemon
from gateway.runtime.ending import End
from gateway.runtime.fd_store import Inherited
from gateway.runtime.kept_state import READS
from gateway.runtime.loading import Loaded, LoadError, load_all, refuse_foreign_cpus
from gateway.runtime.predecessor import NotTakenOver, Predecessor
from gateway.runtime.rights import missing_rights
from gateway.runtime.rtnetlink import NetlinkError
from gateway.runtime.unit import EX_CONFIG

log = logging.getLogger("gateway")


def run(path: Path, log_format: logs.Format, predecessor: Predecessor | None = None) -> int:
    """Until it is told to stop; the exit code. `predecessor`: the daemon that this one takes over from."""
    core_dumps.forbid()
    try:
        loaded, warnings = load_all(path)
        refuse_foreign_cpus(loaded, os.sched_getaffinity(0))
    except LoadError as error:
        if predecessor is not None:
            predecessor.refuse(f"its configuration is refused: {error}")
        print(error.rendered(sys.stderr.isatty()), end="", file=sys.stderr)
        return EX_CONFIG
    problems = missing_rights(any(not connection.encap for connection in loaded.config.connection.values()))
    if predecessor is not None and problems:
        predecessor.refuse("; ".join(problems))
    elif predecessor is not None:
        predecessor.share_log()
    logs.setup(loaded.config.gateway.log_level, log_format)
    for warning in warnings:
        log.warning("%s", warning, extra={"event": "configuration"})
    for problem in problems:
        log.error("cannot start: %s", problem, extra={"event": "start-failed"})
    if problems:
        return 1
    memory.settle()
    return _run(loaded, predecessor)


def _run(loaded: Loaded, predecessor: Predecessor | None) -> int:
    workers = workers_of(loaded.config.dataplane, len(os.sched_getaffinity(0)))
    try:
        daemon = uvloop.run(_serve(loaded, workers, predecessor))
    except NotTakenOver as error:
        log.warning("%s", error, extra={"event": "not-taken-over"})
        return 1
    except (OSError, NetlinkError, AlreadyRunning) as error:
        log.error("cannot start: %s", error, extra={"event": "start-failed"})
        return 1
    for line in cleanup(loaded.config) if daemon.ended is End.CLOSED else ():
        log.info("%s", line, extra={"event": "cleanup"})
    return _status(daemon)


async def _serve(loaded: Loaded, workers: int, predecessor: Predecessor | None) -> Daemon:
    """Who goes on with what is in the kernel."""
    inherited = Inherited.of_environment()
    if predecessor is not None:
        inherited = Inherited(predecessor.succeed(READS))
    daemon = Daemon(loaded, workers, inherited)
    await daemon.run(predecessor)
    if daemon.ended is not End.CLOSED:
        _leave(daemon)
    return daemon


def _leave(daemon: Daemon) -> NoReturn:
    """At once: another process begins when this one is gone. A thread that waits for a cloud's answer would be waited for."""
    logging.shutdown()
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(_status(daemon))


def _status(daemon: Daemon) -> int:
    return int(daemon.failed or daemon.ended is End.FORSAKEN)
