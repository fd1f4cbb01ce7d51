"""Real BGP speakers for interoperability tests: BIRD 2 in network namespaces of its own.

    gateway namespace --veth-- one namespace per BIRD        (IPv4 and IPv6 on each link)

Everything carries the prefix `gwbgp` and the test's process number, and is removed on exit.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from support.process import ended, wait_until


class Bird:
    """One BIRD process; its protocols are `b4` and `b6`, towards the gateway."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.config = directory / "bird.conf"
        self.control = directory / "bird.ctl"
        self.pidfile = directory / "bird.pid"
        directory.mkdir(parents=True)

    def start(self, config: str) -> None:
        self.config.write_text(config)
        command = [
            "ip",
            "netns",
            "exec",
            self.namespace,
            "bird",
            "-c",
            self.config,
            "-s",
            self.control,
            "-P",
            self.pidfile,
        ]
        done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        wait_until(self.control.exists, 20, "BIRD's control socket")

    def reconfigure(self, config: str) -> None:
        self.config.write_text(config)
        assert "Reconfig" in self.ask("configure")

    def ask(self, *words: str) -> str:
        command = ["birdc", "-s", str(self.control), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=10).stdout

    def route(self, prefix: str) -> str:
        """What the gateway announced for `prefix`, "" if nothing."""
        table = "master6" if ":" in prefix else "master4"
        text = self.ask("show", "route", "table", table, "all", "protocol", "b6" if ":" in prefix else "b4")
        entries = text.split("\n" + prefix + " ")
        return entries[1].split("\n1")[0] if len(entries) > 1 else ""

    def has(self, prefix: str) -> bool:
        version = "6" if ":" in prefix else "4"
        text = self.ask("show", "route", prefix, "table", f"master{version}", "protocol", f"b{version}")
        return prefix in text

    def stop(self) -> None:
        """At once: the sessions' other end goes too, and saying goodbye takes BIRD a second and a half."""
        try:
            pid = int(self.pidfile.read_text())
            os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            return
        wait_until(lambda: ended(pid), 5, "BIRD's end")


class Lab:
    """One gateway namespace and `count` BIRD namespaces. Link n: 10.99.n.1 and fd99:n::1 are the gateway's."""

    def __init__(self, directory: Path, count: int) -> None:
        tag = f"{os.getpid():x}"
        self.gateway = f"gwbgp-{tag}-gw"
        self.birds = [Bird(directory / f"bird{number}", f"gwbgp-{tag}-{number}") for number in range(count)]
        self._tag = tag

    def __enter__(self) -> Self:
        try:
            _ip("netns", "add", self.gateway)
            _ip("-n", self.gateway, "link", "set", "lo", "up")
            for number, bird in enumerate(self.birds):
                self._connect(number, bird.namespace)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _connect(self, number: int, namespace: str) -> None:
        ours, theirs = f"gb{self._tag}g{number}", f"gb{self._tag}b{number}"
        _ip("netns", "add", namespace)
        _ip(
            "link",
            "add",
            "name",
            ours,
            "netns",
            self.gateway,
            "type",
            "veth",
            "peer",
            "name",
            theirs,
            "netns",
            namespace,
        )
        for space, link, host in ((self.gateway, ours, 1), (namespace, theirs, 2)):
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "addr", "add", f"10.99.{number}.{host}/24", "dev", link)
            _ip("-n", space, "addr", "add", f"fd99:{number}::{host}/64", "dev", link, "nodad")
            _ip("-n", space, "link", "set", link, "up")

    def _remove(self) -> None:
        for bird in self.birds:
            bird.stop()
        for namespace in [self.gateway, *(bird.namespace for bird in self.birds)]:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
