"""`gatewayd` itself: from its configuration to the running daemon, and what is left behind when it ends."""

from __future__ import annotations

import logging
import os
import resource
import sys
from pathlib import Path

import uvloop

from gateway.config.derive import workers_of
from gateway.runtime import logs, memory
from gateway.runtime.cleanup import cleanup
from gateway.runtime.control import AlreadyRunning
from gateway.runtime.daemon import Daemon
from gateway.runtime.fd_store import Inherited
from gateway.runtime.loading import Loaded, LoadError, load_all, refuse_foreign_cpus
from gateway.runtime.rights import missing_rights
from gateway.runtime.rtnetlink import NetlinkError
from gateway.runtime.unit import EX_CONFIG

log = logging.getLogger("gateway")


def run(path: Path, log_format: logs.Format) -> int:
    """Until it is told to stop; the exit code."""
    # A crash must not write keys to disk
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        loaded, warnings = load_all(path)
        refuse_foreign_cpus(loaded, os.sched_getaffinity(0))
    except LoadError as error:
        print(error.rendered(sys.stderr.isatty()), end="", file=sys.stderr)
        return EX_CONFIG
    logs.setup(loaded.config.gateway.log_level, log_format)
    for warning in warnings:
        log.warning("%s", warning, extra={"event": "configuration"})
    memory.settle()
    return _run(loaded)


def _run(loaded: Loaded) -> int:
    inherited = Inherited.of_environment()
    problems = missing_rights(any(not connection.encap for connection in loaded.config.connection.values()))
    for problem in problems:
        log.error("cannot start: %s", problem, extra={"event": "start-failed"})
    if problems:
        return 1
    workers = workers_of(loaded.config.dataplane, len(os.sched_getaffinity(0)))
    try:
        left = uvloop.run(_serve(loaded, workers, inherited))
    except (OSError, NetlinkError, AlreadyRunning) as error:
        log.error("cannot start: %s", error, extra={"event": "start-failed"})
        return 1
    for line in () if left else cleanup(loaded.config):
        log.info("%s", line, extra={"event": "cleanup"})
    return 0


async def _serve(loaded: Loaded, workers: int, inherited: Inherited) -> bool:
    """Whether another process goes on with what is in the kernel."""
    daemon = Daemon(loaded, workers, inherited)
    await daemon.run()
    return daemon.left
