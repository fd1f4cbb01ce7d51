"""What our own unit of systemd is going through. Loads nothing: it is asked between a stop and the next start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

UNIT = "GATEWAYD_UNIT"
"""Set by gatewayd.service to its own name: there gatewayd-bgp.service is at its side."""
JOB_TIMEOUT = 2.0
EX_CONFIG = 78
"""RestartPreventExitStatus= of the unit."""


def begins_again(environment: Mapping[str, str] | None = None) -> bool:
    """In ExecStopPost=: whether the unit is going to be started again, after a crash or by a restart; its file descriptors are
    kept until then, and closed by the manager if it does not come to that (systemd.exec(5), SERVICE_RESULT)."""
    environment = os.environ if environment is None else environment
    unit, result = environment.get(UNIT, ""), environment.get("SERVICE_RESULT", "")
    if not unit or not result:
        return False
    if result != "success":
        return environment.get("EXIT_STATUS") != str(EX_CONFIG)
    try:
        asked = subprocess.run(jobs(unit), capture_output=True, timeout=JOB_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return is_restart(asked.stdout, unit)


def jobs(unit: str) -> tuple[str, ...]:
    return "systemctl", "list-jobs", "--plain", "--no-legend", "--no-pager", unit


def is_restart(output: bytes, unit: str) -> bool:
    # "8842 gatewayd.service restart running"
    return any(line.split()[1:3] == [unit, "restart"] for line in output.decode().splitlines())
