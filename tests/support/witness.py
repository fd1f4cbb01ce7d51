"""The witness as its users run it, and gateways that ask it: real leases over real sockets on loopback."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from support.daemon import binary
from support.process import LabError, Process, wait_until

from gateway.contract import Endpoint, Transmit
from gateway.ha.witness import Acquire, Ask, Break, Lease, LeaseGranted, LeaseLost, LeaseRefused, Release
from gateway.ha.witness_link import Answered, WitnessLink, WitnessSettings
from gateway.runtime.randomness import SystemRandom

SECRET = "correct horse battery staple"
HOST = "127.0.0.1"


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class WitnessDaemon:
    """One gatewayd --witness with a directory of its own, told to notify us as systemd would be."""

    def __init__(self, directory: Path, clusters: str, *, address: str = HOST, secrets: Sequence[str] = ()) -> None:
        self.directory, self.address = directory, address
        self.state = directory / "state"
        self.config = directory / "witness.toml"
        self.port = free_port()
        self.process: Process | None = None
        self.said: list[str] = []
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(directory / "notify"))
        self._manager.setblocking(False)
        for number, secret in enumerate(secrets or (SECRET,)):
            self.secret(f"secret-{number}", secret)
        self.configure(clusters)

    def configure(self, clusters: str) -> None:
        self.config.write_text(
            f'[witness]\naddress = "{self.address}"\nport = {self.port}\nstate_directory = "{self.state}"\n{clusters}'
        )

    def secret(self, name: str, secret: str) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(secret + "\n")

    def start(self, *, wrapper: Sequence[str] = (), wait: bool = True, watchdog: float | None = None) -> None:
        environment = {**os.environ, "NOTIFY_SOCKET": str(self.directory / "notify")}
        if watchdog is not None:
            environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        argv = [*wrapper, str(binary("gatewayd")), "--witness", "--config", str(self.config), "--log-format", "human"]
        self.said.clear()
        self.process = Process("witness", argv, self.directory / "log", env=environment)
        if wait:
            wait_until(self._ready, 20, "the witness is ready", logs=[self.process])

    def restart(self) -> float:
        """kill -9 and a new one; when the new one was started."""
        self.kill()
        started_at = now()
        self.start()
        return started_at

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill(signal.SIGKILL)

    def stop(self) -> int:
        assert self.process is not None
        return self.process.kill(signal.SIGTERM)

    def close(self) -> None:
        if self.process is not None and self.process.running:
            self.process.kill(signal.SIGKILL)
        self._manager.close()

    def notified(self) -> list[str]:
        """Everything said to the service manager since the start."""
        while True:
            try:
                self.said += self._manager.recv(4096).decode().split("\n")
            except BlockingIOError:
                return self.said

    def status(self) -> str:
        """The line of `systemctl status`."""
        lines = [line for line in self.notified() if line.startswith("STATUS=")]
        return lines[-1].removeprefix("STATUS=") if lines else ""

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def resident(self) -> int:
        """Octets of memory."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def _ready(self) -> bool:
        assert self.process is not None
        if not self.process.running:
            raise LabError(f"the witness ended with {self.process.returncode}\n{self.process.tail()}")
        return "READY=1" in self.notified()


class Asker:
    """One gateway's lease and its way to the witness, on a socket of its own."""

    def __init__(
        self,
        witness: WitnessDaemon,
        name: str,
        ttl: float,
        *,
        cluster: int = 7,
        secret: str = SECRET,
        older: Sequence[str] = (),
        host: str = HOST,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("::1" if family == socket.AF_INET6 else HOST, 0))
        self.socket.setblocking(False)
        self.remote = Endpoint(host, witness.port)
        local = Endpoint(*self.socket.getsockname()[:2])
        secrets = [one.encode() for one in (secret, *older)]
        settings = WitnessSettings(local, self.remote, name, secrets[0], cluster, tuple(secrets[1:]))
        self.lease, self.link = Lease(ttl), WitnessLink(settings, SystemRandom())
        self.events: list[LeaseGranted | LeaseLost | LeaseRefused] = []
        self.granted_at: list[float] = []
        self.noticed_at: list[float] = []
        self.sent: list[bytes] = []
        self.answered_from: set[str] = set()

    def command(self, command: Acquire | Break | Release) -> None:
        self.lease.command(command, now())
        self.drain()

    def step(self) -> None:
        """What came, and what is due."""
        while True:
            try:
                data, remote = self.socket.recvfrom(2048)
            except BlockingIOError:
                break
            except ConnectionRefusedError:
                continue  # nobody listens at the moment
            self.answered_from.add(remote[0])
            self.link.receive(data)
            self.drain()
        if now() >= self.lease.next_deadline():
            self.lease.handle_deadline(now())
            self.drain()

    def drain(self) -> None:
        for effect in self.lease.poll():
            if isinstance(effect, Ask):
                self.link.ask(effect)
            else:
                self.events.append(effect)
                if isinstance(effect, LeaseGranted):
                    self.granted_at.append(now())
        for out in list(self.link.poll()):
            if isinstance(out, Transmit):
                self._send(out.data)
            elif isinstance(out, Answered):
                self.lease.answered(out.ticket, out.answer, now())
                self.drain()
            else:
                self.noticed_at.append(now())
                self.lease.noticed(now())
                self.drain()

    def valid(self) -> bool:
        return self.lease.valid(now())

    def told(self) -> list[LeaseGranted | LeaseLost | LeaseRefused]:
        """Without the refusals, of which there are as many as it asked."""
        return [event for event in self.events if not isinstance(event, LeaseRefused)]

    def granted(self) -> list[int]:
        return [event.epoch for event in self.events if isinstance(event, LeaseGranted)]

    def close(self) -> None:
        self.socket.close()

    def _send(self, data: bytes) -> None:
        self.sent.append(data)
        try:
            self.socket.sendto(data, tuple(self.remote))
        except ConnectionRefusedError:
            return


def play(askers: Sequence[Asker], condition: Callable[[], object], seconds: float, what: str) -> None:
    """Lets the askers live until the condition holds, as it is looked at after each thing that happens; fails after so
    many seconds."""
    deadline = now() + seconds
    while not condition():
        if now() >= deadline:
            told = "; ".join(f"{asker.events} {asker.lease.problem}" for asker in askers)
            raise LabError(f"not within {seconds:g} s: {what} ({told})")
        _turn(askers, deadline)


def live(askers: Sequence[Asker], seconds: float, holds: Callable[[], bool] = lambda: True) -> None:
    """Lets them live for so long; `holds` is looked at all the time."""
    end = now() + seconds
    while now() < end:
        _turn(askers, end)
        assert holds()


def _turn(askers: Sequence[Asker], until: float) -> None:
    due = min((asker.lease.next_deadline() for asker in askers), default=until)
    select.select([asker.socket for asker in askers], [], [], max(0.0, min(due, until) - now()))
    for asker in askers:
        asker.step()


def free_port() -> int:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind(("::", 0))
        return int(one.getsockname()[1])
