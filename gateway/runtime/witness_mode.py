"""`gatewayd --witness`: from its configuration to its process."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from gateway.runtime import core_dumps, logs, witness_process
from gateway.runtime.loading import LoadError
from gateway.runtime.unit import EX_CONFIG
from gateway.runtime.witness_loading import load_witness_all

log = logging.getLogger("gateway")


def run(path: Path, log_format: logs.Format) -> int:
    core_dumps.forbid()
    try:
        loaded, warnings = load_witness_all(path)
    except LoadError as error:
        print(error.rendered(sys.stderr.isatty()), end="", file=sys.stderr)
        return EX_CONFIG
    logs.setup(loaded.config.witness.log_level, log_format)
    for warning in warnings:
        log.warning("%s", warning, extra={"event": "configuration"})
    return witness_process.main(loaded)
