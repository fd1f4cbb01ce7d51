"""A cloud peer in a namespace, from the test's side: started, asked, waited for."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.netns import Namespace
from support.process import Process, wait_until
from support.scene import EDGE_INNER, EDGE_OUTER, GATEWAY_OUTER, PSK

_TESTS = Path(__file__).parents[1]
INSIDE = "10.1.0.0/16"
"""Where the gateway's hosts are."""


class CloudPeer:
    """One peers/responder.py. `changes`: of its policy; `options`: ids, key and addresses other than the scene's edge has;
    `inner`, `inside`: its own address in the tunnel, and what it reaches through it."""

    def __init__(
        self,
        machine: Namespace,
        policy: str,
        *,
        changes: dict[str, Any] | None = None,
        inner: str = EDGE_INNER,
        inside: str = INSIDE,
        **options: Any,
    ) -> None:
        self._inner, self._inside = inner, inside
        self.machine = machine
        self.process: Process | None = None
        self._control = machine.directory / "cloud.sock"
        self._options = machine.directory / "cloud.json"
        ends = {"local": EDGE_OUTER, "remote": GATEWAY_OUTER, "psk": PSK, "control": str(self._control)}
        self._options.write_text(json.dumps({"policy": policy, "changes": changes or {}, **ends, **options}))

    def start(self) -> None:
        path = os.pathsep.join([str(_TESTS), str(_TESTS.parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "peers.responder", str(self._options)]
        self.process = self.machine.start("cloud", command, env={"PYTHONPATH": path})
        wait_until(self._control.exists, 10, "the cloud peer listens", logs=[self.process])
        self.machine.batch(
            f"address add {self._inner}/30 dev cloud0",
            "link set cloud0 mtu 1400 up",
            f"route add {self._inside} dev cloud0",
        )

    def ask(self, verb: str, **values: Any) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(10)
            link.connect(str(self._control))
            link.sendall(json.dumps({"verb": verb, **values}).encode() + b"\n")
            return json.loads(link.makefile("r").readline())

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("status")
        return found

    def wait(self, condition: Callable[[dict[str, Any]], object], seconds: float, what: str) -> dict[str, Any]:
        """Until its status is so; returns it."""

        def met() -> dict[str, Any] | None:
            status = self.status()
            return status if condition(status) else None

        found: dict[str, Any] = wait_until(met, seconds, f"cloud peer: {what}", logs=[self.process])
        return found

    def rekey(self, kind: str) -> None:
        """`child` or `ike`; returns when the new SA stands."""
        before = self.status()
        assert self.ask(f"rekey_{kind}")
        if kind == "child":
            self.wait(lambda now: now["spi"] not in (0, before["spi"]), 5, "CHILD_SA rekeyed")
        else:
            count = before["log"].count("rekeyed")
            self.wait(lambda now: now["log"].count("rekeyed") > count, 5, "IKE_SA rekeyed")
