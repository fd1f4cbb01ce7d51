"""`gatewayd --witness` on a machine of its own."""

from __future__ import annotations

from support.daemon import binary
from support.netns import Namespace
from support.process import Process

_CONFIG = """
[witness]
address = "{address}"
state_directory = "/run/gatewayd-state"
[cluster.pair]
number = 0
secret.file = "pair.secret"
longest_ttl = "{ttl}"
"""


def start_witness(machine: Namespace, address: str, ttl: str, secret: str) -> Process:
    """For one pair, number 0; again after it ended, with what it wrote down."""
    directory = machine.directory / "etc"
    directory.mkdir(exist_ok=True)
    (machine.run_directory / "gatewayd-state").mkdir(mode=0o700, exist_ok=True)
    (directory / "witness.toml").write_text(_CONFIG.format(address=address, ttl=ttl))
    file = directory / "pair.secret"
    file.touch(mode=0o600)
    file.write_text(secret + "\n")
    return machine.start("witness", [str(binary("gatewayd")), "--witness", "--config", str(directory / "witness.toml")])
