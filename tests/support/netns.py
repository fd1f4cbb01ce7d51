"""Network namespaces as machines: a laboratory makes them, links them with veth pairs and leaves nothing behind.

    with Lab() as lab:
        edge, wan = lab.namespace("edge"), lab.namespace("wan")
        lab.link(End(edge, "wan", ("203.0.113.2/24",)), End(wan, "edge", ("203.0.113.1/24",)))
        edge.start("charon", ["charon-systemd"])

Nothing of the host's own network is touched: both ends of every veth are born inside their namespaces. Names carry the
pid of the run (`gwl<pid>n1-edge`), so that parallel runs do not collide and a later run removes what a killed one left.
Every machine has a /run of its own: processes of one namespace share it and see no other's.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from support.process import LabError, Process, run, wait_until

_PREFIX = "gwl"
_OWNER = re.compile(rf"{_PREFIX}(\d+)n\d+-.+")
_numbers = itertools.count(1)
_NETNS = Path("/run/netns")
# `ip netns exec` has made mounts private to the command already; $0 is the directory that becomes its /run.
_PRIVATE_RUN = 'mount --bind "$0" /run && exec "$@"'


class Namespace:
    """One machine of the laboratory."""

    def __init__(self, name: str, full: str, directory: Path) -> None:
        self.name = name
        self.full = full
        self.directory = directory
        self.run_directory = directory / "run"
        self.run_directory.mkdir(parents=True)
        self.processes: list[Process] = []
        run(("ip", "netns", "add", full))
        self.inode = os.stat(_NETNS / full).st_ino
        self.batch("link set lo up")

    def argv(self, command: Sequence[str]) -> tuple[str, ...]:
        """The command line that runs `command` on this machine."""
        return ("ip", "netns", "exec", self.full, "sh", "-c", _PRIVATE_RUN, str(self.run_directory), *command)

    def run(self, *command: str, timeout: float = 20.0, check: bool = True, stdin: str | None = None) -> str:
        """Run a command here to its end; returns stdout."""
        return run(self.argv(command), timeout=timeout, check=check, stdin=stdin)

    def start(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        """Start a process here; its log is `<directory>/<name>.log`."""
        merged = {**os.environ, **env} if env else None
        process = Process(f"{self.name}/{name}", self.argv(command), self.directory / f"{name}.log", env=merged)
        self.processes.append(process)
        return process

    def batch(self, *lines: str) -> None:
        """Several `ip` commands in one process."""
        run(("ip", "-n", self.full, "-batch", "-"), stdin="\n".join(lines) + "\n")

    def ip_json(self, *arguments: str) -> list[dict[str, Any]]:
        """`ip -json ...` as data; an absent table or device is an empty list."""
        text = run(("ip", "-n", self.full, "-json", *arguments), check=False)
        return [entry for entry in json.loads(text or "[]") if entry]

    def routes(self, table: str = "main", family: str = "-4") -> list[dict[str, Any]]:
        """The routes of one kernel table."""
        return self.ip_json(family, "route", "show", "table", table)

    def has_route(self, prefix: str, table: str = "main") -> bool:
        """True if the table holds a unicast route for exactly this prefix."""
        return any(
            route.get("dst") == prefix and route.get("type", "unicast") == "unicast" for route in self.routes(table)
        )

    def sysctl(self, settings: Mapping[str, int | str]) -> None:
        """Set network sysctls of this namespace."""
        self.run("sysctl", "-q", "-w", *(f"{key}={value}" for key, value in settings.items()))

    def forwarding(self) -> None:
        """Make this machine a router that takes asymmetric paths, as gateways are told to."""
        settings: dict[str, int | str] = {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1}
        settings["net.ipv4.fib_multipath_hash_policy"] = 1
        devices = [link["ifname"] for link in self.ip_json("link", "show") if link["ifname"] != "lo"]
        for scope in ("all", "default", *devices):
            settings[f"net.ipv4.conf.{scope}.rp_filter"] = 0
            settings[f"net.ipv4.conf.{scope}.send_redirects"] = 0
            settings[f"net.ipv4.conf.{scope}.src_valid_mark"] = 1
        self.sysctl(settings)

    def drops(self) -> dict[str, int]:
        """Packets this machine's kernel threw away: full UDP sockets and full device queues."""
        names, values = (
            line.split()[1:] for line in self.run("cat", "/proc/net/snmp").splitlines() if line.startswith("Udp:")
        )
        found = {"full UDP sockets": int(values[names.index("RcvbufErrors")])}
        for link in self.ip_json("-s", "link", "show"):
            counters = link["stats64"]
            found[f"{link['ifname']} out"] = counters["tx"]["dropped"]
            found[f"{link['ifname']} in"] = counters["rx"]["dropped"]
        return {what: count for what, count in found.items() if count}

    def pids_of(self, word: str) -> list[int]:
        """Processes of this machine whose command line holds `word`."""
        return [pid for pid, command in _processes_in({self.inode}) if word in command]

    def end(self, pid: int) -> None:
        """kill -9 of one process of this machine, by pid."""
        if pid in (known for known, _ in _processes_in({self.inode})):
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End everything that runs here and remove the namespace."""
        for process in reversed(self.processes):
            process.stop(grace=3.0)
        _end_all(self.full)
        run(("ip", "netns", "delete", self.full), check=False)


class End(NamedTuple):
    """One end of a link: the machine, the device's name there, its addresses with prefix lengths."""

    machine: Namespace
    device: str
    addresses: tuple[str, ...]


class Lab:
    """Owns namespaces, processes and a work directory; removes them all on leaving, also on an exception."""

    def __init__(self, keep_logs: Path | None = None) -> None:
        _sweep()
        self.prefix = f"{_PREFIX}{os.getpid()}n{next(_numbers)}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        self.namespaces: dict[str, Namespace] = {}
        self._keep_logs = keep_logs
        self._inodes: set[int] = set()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def namespace(self, name: str) -> Namespace:
        """A new machine."""
        made = Namespace(name, f"{self.prefix}-{name}", self.directory / name)
        self.namespaces[name] = made
        self._inodes.add(made.inode)
        return made

    def link(self, left: End, right: End) -> None:
        """A veth pair between two machines, up and with its addresses."""
        peer = f"peer name {right.device} netns {right.machine.full}"
        left.machine.batch(f"link add {left.device} type veth {peer}")
        for end in (left, right):
            lines = [f"address add {address} dev {end.device} {_no_dad(address)}" for address in end.addresses]
            end.machine.batch(*lines, f"link set {end.device} up")

    def tails(self, lines: int = 25) -> str:
        """The end of every log, for a failure's report."""
        processes = [process for machine in self.namespaces.values() for process in machine.processes]
        return "\n".join({process.log: process.tail(lines) for process in processes}.values())

    def leftovers(self, patience: float = 2.0) -> list[str]:
        """Namespaces and processes of this laboratory that still exist after `patience` seconds, as sentences.

        The kernel gives the number of a namespace that is gone to the next one, maybe of another laboratory, which has
        no name at first: such a process is seen for a moment only.
        """
        deadline = time.monotonic() + patience
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _left(self) -> list[str]:
        names = _namespaces()
        found = [f"namespace {name}" for name in names if name.startswith(f"{self.prefix}-")]
        others = {_inode(name) for name in names if not name.startswith(f"{self.prefix}-")}
        return found + [f"process {pid} {command}" for pid, command in _processes_in(self._inodes - others)]

    def close(self) -> None:
        """Remove everything; safe to call twice."""
        for machine in reversed(self.namespaces.values()):
            machine.close()
        self.namespaces.clear()
        if self._keep_logs is not None and self.directory.exists():
            _save_logs(self.directory, self._keep_logs)
        shutil.rmtree(self.directory, ignore_errors=True)


def host_state() -> dict[str, frozenset[str]]:
    """What of the host's own network a laboratory could leave behind; compare before and after."""
    commands = {
        "device": ("ip", "-o", "link", "show"),
        "route": ("ip", "route", "show", "table", "all"),
        "IPv6 route": ("ip", "-6", "route", "show", "table", "all"),
        "rule": ("ip", "rule", "show"),
        "nexthop": ("ip", "nexthop", "show"),
        "nftables": ("nft", "list", "tables"),
    }
    return {kind: frozenset(_stable(line) for line in run(argv).splitlines()) for kind, argv in commands.items()}


def new_entries(before: Mapping[str, frozenset[str]], after: Mapping[str, frozenset[str]]) -> list[str]:
    """What `after` has and `before` had not, as sentences."""
    return [f"{kind} {line}" for kind, lines in after.items() for line in sorted(lines - before[kind])]


def _stable(line: str) -> str:
    """A listing's line without the counters that change by themselves (route expiry)."""
    return re.sub(r" expires \d+sec", "", line).strip()


def _no_dad(address: str) -> str:
    return "nodad" if ":" in address else ""


def _namespaces() -> list[str]:
    return sorted(entry.name for entry in _NETNS.iterdir()) if _NETNS.exists() else []


def _inode(name: str) -> int:
    try:
        return (_NETNS / name).stat().st_ino
    except OSError:
        return 0  # gone meanwhile


def _processes_in(inodes: set[int]) -> list[tuple[int, str]]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.stat(entry / "ns" / "net").st_ino in inodes:
                found.append(
                    (int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                )
        except OSError:
            continue  # ended meanwhile
    return found


def _end_all(full: str) -> None:
    """End what is left inside one of our namespaces: daemons' children that outlived their parents."""
    if not (_NETNS / full).exists():
        return

    def pids() -> list[int]:
        return [int(pid) for pid in run(("ip", "netns", "pids", full), check=False).split()]

    def ended() -> bool:
        for pid in pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return not pids()

    wait_until(ended, 5.0, f"processes of {full} end")


def _sweep() -> None:
    """Remove namespaces and work directories of runs that were killed before they could."""
    for name in _namespaces():
        owner = _OWNER.fullmatch(name)
        if owner and not _alive(int(owner[1])):
            try:
                _end_all(name)
            except LabError:
                continue
            run(("ip", "netns", "delete", name), check=False)
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = _OWNER.fullmatch(directory.name)
        if owner and not _alive(int(owner[1])) and time.time() - directory.stat().st_mtime > 60:
            shutil.rmtree(directory, ignore_errors=True)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _save_logs(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for log in source.glob("*/*.log"):
        shutil.copy(log, target / f"{log.parent.name}-{log.name}")
