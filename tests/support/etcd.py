"""An etcd of several members, each a process of its own from Debian, asked by TLS with certificates at both ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.pki import Authority
from support.process import Process, wait_until

Start = Callable[[str, Sequence[str], Path], Process]
"""Name, command, log."""


class Etcd:
    """`start` it; `endpoints` are its members'. `directory` has ca.pem, client.pem and client.key for who asks."""

    def __init__(self, directory: Path, members: int = 3, host: str = "127.0.0.1", start: Start | None = None) -> None:
        assert shutil.which("etcd") is not None, "needs etcd: Debian's etcd-server"
        self.directory, self.host = directory, host
        self._start = start or (lambda name, command, log: Process(name, command, log))
        self._ports = [(free_port(), free_port()) for _ in range(members)]
        self.processes: list[Process | None] = [None] * members
        self.authority = authority()
        self.certify("client", self.authority)
        self.certify("member", self.authority, ip=[host])
        (directory / "ca.pem").write_text(self.authority.pem)

    def certify(self, name: str, issuer: Authority, **names: Any) -> None:
        issued = issuer.issue(name, at=datetime.now(UTC), **names)
        (self.directory / f"{name}.pem").write_text(issued.pem)
        key = self.directory / f"{name}.key"
        key.touch(mode=0o600)
        key.write_text(issued.key_pem)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"https://{self.host}:{client}" for client, _ in self._ports)

    def start(self) -> None:
        """All of them; until they answer."""
        for at in range(len(self.processes)):
            self.start_member(at)
        self.wait_answering(range(len(self.processes)))

    def start_member(self, at: int) -> None:
        files = (f"{option}={self.directory / name}" for option, name in _TLS)
        client, peer = (
            f"{scheme}://{self.host}:{port}" for scheme, port in zip(("https", "http"), self._ports[at], strict=True)
        )
        cluster = ",".join(f"m{other}=http://{self.host}:{port}" for other, (_, port) in enumerate(self._ports))
        command = (
            "etcd", f"--name=m{at}", f"--data-dir={self.directory / f'm{at}'}", "--client-cert-auth", *files,
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster={cluster}",
            "--heartbeat-interval=50", "--election-timeout=500",
        )  # fmt: skip
        self.processes[at] = self._start(f"etcd{at}", command, self.directory / f"m{at}.log")

    def wait_answering(self, which: Sequence[int] | range) -> None:
        logs = [self.processes[at] for at in which]
        wait_until(lambda: all(map(self._answers, which)), 30, "etcd answers", logs=logs)

    def kill(self, at: int) -> None:
        process = self.processes[at]
        assert process is not None
        process.kill(signal.SIGKILL)

    def signal(self, at: int, number: int) -> None:
        process = self.processes[at]
        assert process is not None
        process.signal(number)

    def stop(self) -> None:
        for process in self.processes:
            if process is not None and process.running:
                process.signal(signal.SIGCONT)
                process.stop()

    def ask(self, at: int, what: str, content: dict[str, Any]) -> dict[str, Any]:
        """As curl would."""
        context = ssl.create_default_context(cafile=str(self.directory / "ca.pem"))
        context.load_cert_chain(self.directory / "client.pem", self.directory / "client.key")
        request = urllib.request.Request(f"{self.endpoints[at]}/v3/{what}", json.dumps(content).encode())
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def leader(self) -> int:
        """Which member leads now."""

        def leading() -> list[int]:
            found = []
            for at, process in enumerate(self.processes):
                with suppress(OSError):
                    if process is not None and process.running:
                        status = self.ask(at, "maintenance/status", {})
                        found += [at] if status["leader"] == status["header"]["member_id"] else []
            return found

        return wait_until(leading, 20, "etcd has a leader")[0]

    def _answers(self, at: int) -> bool:
        with suppress(OSError):
            return "header" in self.ask(at, "kv/range", {"key": "AA=="})
        return False


@contextmanager
def etcd(directory: Path, members: int = 3) -> Iterator[Etcd]:
    """Running, on loopback."""
    made = Etcd(directory, members)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def authority(name: str = "etcd's own") -> Authority:
    return Authority(name, at=datetime.now(UTC))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


_TLS = (("--cert-file", "member.pem"), ("--key-file", "member.key"), ("--trusted-ca-file", "ca.pem"))
