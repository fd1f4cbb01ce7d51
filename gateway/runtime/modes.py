"""What `gatewayd` does beside serving: check a configuration, clean up, put up the guard, run ExaBGP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway.config.check import Also, Load, check_file
from gateway.config.diagnostics import render
from gateway.config.load import load
from gateway.config.model import Config, Gateway
from gateway.config.witness_load import load_witness
from gateway.runtime import bgp_unit, logs, saved_guard
from gateway.runtime.cleanup import cleanup
from gateway.runtime.loading import LoadError, check_secrets, load_all
from gateway.runtime.witness_loading import check_witness_secrets


def run(path: Path, options: argparse.Namespace) -> int:
    """One of them, to its end; the exit code."""
    if options.check:
        return _check(path, options)
    if options.cleanup:
        return _cleanup(path, options.all)
    if options.guard:
        return _guard(path)
    return _bgp(path, options.log_format)


def _check(path: Path, options: argparse.Namespace) -> int:
    look: tuple[Load, Also] = (load_witness, check_witness_secrets) if options.witness else (load, check_secrets)
    also = look[1] if options.secrets else None
    return check_file(path, options.strict, options.output, sys.stdout, sys.stdout.isatty(), also, look[0])


def _cleanup(path: Path, everything: bool) -> int:
    """Works without a readable configuration too: then by the defaults."""
    try:
        config = load_all(path)[0].config
    except LoadError:
        config = Config()
    bgp_unit.end_forsaken(Path(config.gateway.run_directory))
    for line in cleanup(config, everything):
        print(line)
    return 0


def _bgp(path: Path, log_format: logs.Format) -> int:
    """Works without a readable configuration too: ExaBGP's comes from the daemon."""
    found = load(path).config
    settings = found.gateway if found is not None else Gateway()
    logs.setup(settings.log_level, log_format)
    return bgp_unit.main(Path(settings.run_directory), stays=True)


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
