"""`gatewayd`: the command line of the daemon.

Exit codes: 0 stopped on request; 1 cannot start or failed; 2 usage; 78 the configuration is wrong (EX_CONFIG, for
which the unit does not restart).
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
from pathlib import Path

import uvloop

from gateway import __version__
from gateway.config.check import Also, Load, check_file
from gateway.config.derive import workers_of
from gateway.config.diagnostics import render
from gateway.config.load import load
from gateway.config.model import Config, Gateway
from gateway.config.witness_load import load_witness
from gateway.runtime import bgp_unit, logs, memory, saved_guard, systemd, witness_process
from gateway.runtime.cleanup import cleanup
from gateway.runtime.control import AlreadyRunning
from gateway.runtime.daemon import Daemon
from gateway.runtime.fd_store import Inherited
from gateway.runtime.loading import Loaded, LoadError, check_secrets, load_all, refuse_foreign_cpus
from gateway.runtime.rights import missing_rights
from gateway.runtime.rtnetlink import NetlinkError
from gateway.runtime.witness_loading import check_witness_secrets, load_witness_all

log = logging.getLogger("gateway")
DEFAULT_CONFIG = "/etc/gatewayd/gateway.toml"
WITNESS_CONFIG = "/etc/gatewayd/witness.toml"
EX_CONFIG = 78


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    path = Path(options.config or (WITNESS_CONFIG if options.witness else DEFAULT_CONFIG))
    if options.check:
        return _check(path, options)
    if options.witness:
        return _witness(path, options.log_format)
    if options.cleanup:
        return _cleanup(path, options.all)
    if options.guard:
        return _guard(path)
    if options.bgp:
        return _bgp(path, options.log_format)
    # A crash must not write keys to disk
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        loaded, warnings = load_all(path)
        refuse_foreign_cpus(loaded, os.sched_getaffinity(0))
    except LoadError as error:
        print(error.rendered(sys.stderr.isatty()), end="", file=sys.stderr)
        return EX_CONFIG
    logs.setup(loaded.config.gateway.log_level, options.log_format)
    for warning in warnings:
        log.warning("%s", warning, extra={"event": "configuration"})
    memory.settle()
    return _run(loaded)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gatewayd", description="Userspace IPsec/BGP data-plane gateway.")
    parser.add_argument("--config", metavar="FILE", help=f"default {DEFAULT_CONFIG}, with --witness {WITNESS_CONFIG}")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit (0 or 78)")
    parser.add_argument("--strict", action="store_true", help="with --check: warnings are errors")
    parser.add_argument(
        "--secrets", action="store_true", help="with --check: read the files of secrets and certificates too"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="with --check")
    parser.add_argument(
        "--cleanup", action="store_true", help="remove what a killed daemon left; keeps the clear-text guard"
    )
    parser.add_argument("--all", action="store_true", help="with --cleanup: remove the clear-text guard too")
    parser.add_argument(
        "--guard", action="store_true", help="install the clear-text guard and exit: at boot, before there is a network"
    )
    parser.add_argument(
        "--bgp", action="store_true", help="run ExaBGP for gatewayd, and outlive it: gatewayd-bgp.service"
    )
    parser.add_argument(
        "--witness",
        action="store_true",
        help="run the witness of other gateways, on a third machine: gatewayd-witness.service",
    )
    parser.add_argument("--log-format", choices=("auto", "human", "json"), default="auto")
    parser.add_argument("--version", action="version", version=f"gatewayd {__version__}")
    return parser


def _check(path: Path, options: argparse.Namespace) -> int:
    look: tuple[Load, Also] = (load_witness, check_witness_secrets) if options.witness else (load, check_secrets)
    also = look[1] if options.secrets else None
    return check_file(path, options.strict, options.output, sys.stdout, sys.stdout.isatty(), also, look[0])


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


def _cleanup(path: Path, everything: bool) -> int:
    """Works without a readable configuration too: then by the defaults."""
    try:
        config = load_all(path)[0].config
    except LoadError:
        config = Config()
    bgp_unit.end_forsaken(Path(config.gateway.run_directory))
    if not everything and systemd.begins_again():
        print("the unit begins again: its tunnels are left to it")
        return 0
    for line in cleanup(config, everything):
        print(line)
    return 0


def _bgp(path: Path, log_format: logs.Format) -> int:
    """Works without a readable configuration too: ExaBGP's comes from the daemon."""
    found = load(path).config
    settings = found.gateway if found is not None else Gateway()
    logs.setup(settings.log_level, log_format)
    return bgp_unit.main(Path(settings.run_directory), stays=True)


def _witness(path: Path, log_format: logs.Format) -> int:
    # A crash must not write secrets to disk
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        loaded, warnings = load_witness_all(path)
    except LoadError as error:
        print(error.rendered(sys.stderr.isatty()), end="", file=sys.stderr)
        return EX_CONFIG
    logs.setup(loaded.config.witness.log_level, log_format)
    for warning in warnings:
        log.warning("%s", warning, extra={"event": "configuration"})
    return witness_process.main(loaded)


def _guard(path: Path) -> int:
    """Works without a readable configuration too: then what was saved closes what it closed."""
    loaded = load(path)
    if loaded.config is None:
        print(render(loaded.diagnostics, loaded.source), end="", file=sys.stderr)
    try:
        told = saved_guard.install(loaded.config.gateway if loaded.config else Gateway(), loaded.config)
    except OSError as error:
        print(f"the clear-text guard is not installed: {error}", file=sys.stderr)
        return 1
    for line in told:
        print(line)
    return 1 if any(line.startswith("failed: ") for line in told) else 0


if __name__ == "__main__":
    sys.exit(main())
