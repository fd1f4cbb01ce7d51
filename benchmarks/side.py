"""One side of a comparison: host - gateway - WAN - gateway - host, with something interchangeable in the gateways.

    left host        left gateway            right gateway       right host
    10.1.0.10 ------ 10.1.0.1   192.0.2.1 == 192.0.2.2   10.2.0.1 ------ 10.2.0.10
             mtu 1400           mtu 1500                         mtu 1400

1400 on the hosts' own links, so that no side ever meets a packet that is too big and all send the same segments. The WAN
is one veth. Everything inherits the cores this program was pinned to. A side is measured only while its counters say
that the traffic went through its tunnel, and while its processes live.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from support.netns import End, Lab, Namespace
from support.process import LabError, Process, wait_until

from benchmarks.errors import BenchError

LEFT_HOST, RIGHT_HOST = "10.1.0.10", "10.2.0.10"
LEFT_LAN, RIGHT_LAN = "10.1.0.0/24", "10.2.0.0/24"
LEFT_OUTER, RIGHT_OUTER = "192.0.2.1", "192.0.2.2"
# Interop: strongSwan 5.9.8 reads its TUN with room for 1400 octets, whatever the device's MTU; longer packets are lost.
PATH_MTU = 1400
WAN_MTU = 1500
QUEUE_LENGTH = 1000
Value = TypeVar("Value", int, str)
_TICK = os.sysconf("SC_CLK_TCK")
# Headers make the tunnel's count larger than the payload; counters that lag by this much are not awaited.
_COUNTED = 0.98


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must be equal on both sides, and what is printed so that a reader can check."""

    path_mtu: int
    wan_mtu: int
    queue_length: str  # LAN, WAN and tunnel devices
    cores: str
    congestion_control: str
    nice: int
    lan_udp_gro: bool  # the gateways' LAN devices merge arriving datagrams
    tunnel_mtu: int | None = None  # None: no tunnel device. Not below path_mtu, else free

    def comparable(self) -> tuple[object, ...]:
        return (
            self.path_mtu, self.wan_mtu, self.queue_length, self.cores, self.congestion_control, self.nice,
            self.lan_udp_gro,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counters:
    """Octets of inner packets: sealed by the left gateway, opened by the right one."""

    octets_out: int
    octets_in: int
    packets_out: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment to measure from."""

    counters: Counters
    cpu: tuple[float, float]
    wan_octets: int


class Side(ABC):
    """Four machines; subclasses put the middle in."""

    kind = "abstract"
    tunnel: tuple[str, str] | None = None  # the tunnel device of the left and of the right gateway
    spins = False  # takes a whole core also when idle: stopped while another side is measured

    def __init__(self, lab: Lab, label: str) -> None:
        self.lab, self.label = lab, label
        self.left_host, self.left, self.right, self.right_host = (
            lab.namespace(f"{label}-{place}") for place in ("lh", "lg", "rg", "rh")
        )
        lab.link(End(self.left_host, "eth0", (f"{LEFT_HOST}/24",)), End(self.left, "lan", ("10.1.0.1/24",)))
        lab.link(End(self.left, "wan", (f"{LEFT_OUTER}/24",)), End(self.right, "wan", (f"{RIGHT_OUTER}/24",)))
        lab.link(End(self.right, "lan", ("10.2.0.1/24",)), End(self.right_host, "eth0", (f"{RIGHT_HOST}/24",)))
        for host, gateway in ((self.left_host, "10.1.0.1"), (self.right_host, "10.2.0.1")):
            host.batch(f"link set eth0 mtu {PATH_MTU} txqueuelen {QUEUE_LENGTH}", f"route add default via {gateway}")
        for router in (self.left, self.right):
            router.forwarding()
            router.batch(
                f"link set lan mtu {PATH_MTU} txqueuelen {QUEUE_LENGTH}",
                f"link set wan mtu {WAN_MTU} txqueuelen {QUEUE_LENGTH}",
            )
        self.rates: dict[str, float] = {}  # where a search for the highest rate starts next time

    @abstractmethod
    def start(self) -> None:
        """Bring the middle up; returns when traffic can pass."""

    @abstractmethod
    def counters(self) -> Counters:
        """What the tunnel carried from left to right so far."""

    def daemons(self) -> tuple[Process, Process] | None:
        """The processes of the left and the right gateway; None: the kernel alone."""
        return None

    def ready(self) -> None:
        """Start, make the conditions equal, and see a packet through."""
        self.start()
        if self.tunnel is not None:
            for machine, device in zip((self.left, self.right), self.tunnel, strict=True):
                machine.batch(f"link set {device} txqueuelen {QUEUE_LENGTH}")
        for process in self.daemons() or ():
            _renice(process.pid)
        watched = list(self.daemons() or ())
        ping = ("ping", "-n", "-q", "-c", "1", "-W", "1", RIGHT_HOST)
        try:
            wait_until(
                lambda: " 1 received" in self.left_host.run(*ping, check=False), 15, "a ping passes", logs=watched
            )
        except LabError as error:
            raise BenchError(f"{self.label}: {error}") from None

    def merge_lan_udp(self) -> None:
        """As `dataplane.udp_gro` has gatewayd do it; here it is done for every kind of side."""
        for router in (self.left, self.right):
            router.run(
                sys.executable, "-c", "from gateway.runtime.offloads import merge_udp; assert not merge_udp(['lan'])"
            )

    def conditions(self) -> Conditions:
        """As the machines say, not as they were told."""
        lan = [_link(host, "eth0") for host in (self.left_host, self.right_host)]
        lan += [_link(router, "lan") for router in (self.left, self.right)]
        wan = [_link(router, "wan") for router in (self.left, self.right)]
        tunnel = [_link(m, d) for m, d in zip((self.left, self.right), self.tunnel or (), strict=False)]
        path_mtu = self._same("MTU of the LANs", [link["mtu"] for link in lan])
        tunnel_mtu = self._same("MTU of the tunnel devices", [link["mtu"] for link in tunnel]) if tunnel else None
        if tunnel_mtu is not None and tunnel_mtu < path_mtu:
            raise BenchError(f"{self.label}: the tunnel's MTU {tunnel_mtu} is below the path's {path_mtu}")
        pids = [process.pid for process in self.daemons() or ()]
        return Conditions(
            path_mtu=path_mtu,
            wan_mtu=self._same("MTU of the WAN", [link["mtu"] for link in wan]),
            queue_length=str(self._same("queue length", [link["txqlen"] for link in (*lan, *wan, *tunnel)])),
            cores=self._same("cores", [_cores(pid) for pid in (os.getpid(), *pids)]),
            congestion_control=self._same(
                "congestion control", [_congestion(self.left_host), _congestion(self.right_host)]
            ),
            lan_udp_gro=self._same("UDP GRO of the LANs", [_udp_gro(router) for router in (self.left, self.right)])
            == "on",
            nice=self._same("nice", [os.getpriority(os.PRIO_PROCESS, pid) for pid in (0, *pids)]),
            tunnel_mtu=tunnel_mtu,
        )

    def mark(self) -> Mark:
        """Now."""
        self.alive()
        return Mark(self.counters(), self._cpu(), self._wan_octets())

    def passed(self, mark: Mark, octets: int) -> tuple[float, float]:
        """CPU seconds of both gateways since `mark`; fails unless `octets` have gone through the tunnel since."""
        cpu = self._cpu()

        def counted() -> bool:
            now = self.counters()
            least = octets * _COUNTED
            out, back = now.octets_out - mark.counters.octets_out, now.octets_in - mark.counters.octets_in
            return out >= least and back >= least and self._wan_octets() - mark.wan_octets >= least

        try:
            wait_until(counted, 5, f"{octets} octets are counted", interval=0.1)
        except LabError:
            before, now = mark.counters, self.counters()
            raise BenchError(
                f"{self.label}: {octets} octets arrived, but the tunnel counted {now.octets_out - before.octets_out} out "
                f"and {now.octets_in - before.octets_in} in, the WAN {self._wan_octets() - mark.wan_octets}"
            ) from None
        self.alive()
        return cpu[0] - mark.cpu[0], cpu[1] - mark.cpu[1]

    def alive(self) -> None:
        """Fails when a process of the middle has ended."""
        for process in self.daemons() or ():
            if not process.running:
                raise BenchError(f"{process.name} ended with {process.returncode}\n{process.tail()}")

    def freeze(self) -> None:
        for process in self.daemons() or ():
            process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for process in self.daemons() or ():
            process.signal(signal.SIGCONT)

    def wan_octets(self, machine: Namespace, way: str) -> int:
        """What crossed one gateway's WAN device, "rx" or "tx"."""
        return int(_link(machine, "wan")["stats64"][way]["bytes"])

    def _wan_octets(self) -> int:
        return self.wan_octets(self.right, "rx")

    def _cpu(self) -> tuple[float, float]:
        daemons = self.daemons()
        return (cpu_seconds(daemons[0].pid), cpu_seconds(daemons[1].pid)) if daemons else (0.0, 0.0)

    def _same(self, what: str, values: list[Value]) -> Value:
        if len(set(values)) != 1:
            raise BenchError(f"{self.label}: {what} differs: {values}")
        return values[0]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads included (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def threads(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]


def _renice(pid: int) -> None:
    for thread in threads(pid):
        os.setpriority(os.PRIO_PROCESS, thread, 0)


def _link(machine: Namespace, device: str) -> dict[str, Any]:
    found = machine.ip_json("-s", "link", "show", "dev", device)
    if not found:
        raise BenchError(f"{machine.name} has no device {device}")
    return found[0]


def _cores(pid: int) -> str:
    """The cores all threads of a process may use; a thread pinned to some of them shows."""
    sets = {",".join(map(str, sorted(os.sched_getaffinity(thread)))) for thread in threads(pid)}
    whole = ",".join(map(str, sorted({core for thread in threads(pid) for core in os.sched_getaffinity(thread)})))
    return whole if len(sets) > 1 else sets.pop()


def _udp_gro(router: Namespace) -> str:
    found = re.search(r"^rx-udp-gro-forwarding: (\w+)", router.run("ethtool", "-k", "lan"), re.MULTILINE)
    if found is None:
        raise BenchError(f"{router.name}: ethtool does not tell of rx-udp-gro-forwarding")
    return found[1]


def _congestion(host: Namespace) -> str:
    return host.run("sysctl", "-n", "net.ipv4.tcp_congestion_control").strip()
