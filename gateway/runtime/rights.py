"""What the daemon needs from the system before anything else: capabilities and the TUN device."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.runtime.tun import DEVICE

CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW = 10, 12, 13
NEEDS = {
    CAP_NET_ADMIN: "CAP_NET_ADMIN is missing: TUN devices, routes and rules need it",
    CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE is missing: UDP 500 and TCP 179 need it",
    CAP_NET_RAW: "CAP_NET_RAW is missing: ESP without UDP encapsulation (encap = false) needs it",
}
FIX = "; run as the shipped systemd unit does, or with AmbientCapabilities=, or as root"


def missing_rights(raw_esp: bool, status: Path = Path("/proc/self/status"), device: Path = Path(DEVICE)) -> list[str]:
    """One sentence for each right that is missing, with its fix."""
    held = _effective(status)
    wanted = [CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, *([CAP_NET_RAW] if raw_esp else [])]
    problems = [NEEDS[capability] + FIX for capability in wanted if not held >> capability & 1]
    if not device.exists():
        problems.append(
            f"{device} does not exist: load the tun module (modprobe tun), or pass the device into the container (--device {device})"
        )
    elif not os.access(device, os.R_OK | os.W_OK):
        problems.append(
            f"{device} may not be opened: allow the device (systemd DeviceAllow={device} rw) or correct its mode"
        )
    return problems


def _effective(status: Path) -> int:
    for line in status.read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
