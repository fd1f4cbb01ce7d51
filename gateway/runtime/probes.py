"""The probe thread with its sockets: `effects.Probe...` in production (native/probe.h).

    one sending socket for each probe        one receiving socket for each (address, port) of BFD, shared

Inside a tunnel a packet must leave by its TUN or not at all, also while the FIB has turned every route of the tunnel
away: the socket is bound to the device, and marked, so that our rules and table are passed by. Outside it must not enter a
tunnel: there the mark is the one that our table is closed to.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from gateway import _native
from gateway.contract import RandomSource
from gateway.node import effects, inputs
from gateway.observe.snapshot import ProbeCounts
from gateway.runtime.marking import mark_option
from gateway.runtime.rules import inside

log = logging.getLogger("gateway")

# RFC 5881 4, RFC 5883 5
PORTS = {"bfd": 3784, "bfd-multihop": 4784}
SOURCE_PORTS = (49152, 65536)
TTL = 255
LEAST_HOPS = {"bfd": TTL}
TRAFFIC_CLASS = 0xC0  # CS6: RFC 4594 3.1, network control
_TRIES = 64  # for a source port that nobody has
_NANOSECONDS = 1e9
_THREAD_OCTETS = 128  # the longest that the thread sends (native/probe.h)
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_IPV6_MTU_DISCOVER = 23
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
_ICMP_FILTER, _ICMPV6_FILTER = 1, 1
_SOL_RAW = 255
_ECHO_REPLY, _ECHO_REPLY6 = 0, 129


@dataclass(slots=True)
class _Shared:
    """A receiving socket and how many probes need it."""

    socket: socket.socket
    users: int = 0


@dataclass(slots=True)
class _Open:
    sender: socket.socket
    remote: str
    shared: tuple[str, str] | None = None  # (address, kind) of the receiving socket; None: the sender receives


class NativeProbes:
    """Runs probes; `close` ends the thread. A probe whose sockets cannot be had is told and left out: its session stays down."""

    def __init__(
        self, mark: int, random: RandomSource, command: Callable[[object], None], tell: Callable[[str, str, str], None]
    ) -> None:
        self._mark = mark
        self._random = random
        self._command = command
        self._tell = tell
        self._native = _native.Probes()
        self._open: dict[int, _Open] = {}
        self._shared: dict[tuple[str, str], _Shared] = {}
        asyncio.get_running_loop().add_reader(self._native.event_fd(), self._drain)

    def perform(self, effect: effects.ProbeOpen | effects.ProbeArm | effects.ProbeSend | effects.ProbeClose) -> None:
        match effect:
            case effects.ProbeOpen(number):
                try:
                    self._begin(effect)
                except OSError as error:
                    self._end(number)
                    text = f"{effect.kind} from {effect.local} to {effect.remote} cannot be sent: {error.strerror}"
                    self._tell("warning", "probe-failed", text)
            case effects.ProbeArm(number, arm) if number in self._open:
                shortest, longest = (int(seconds * _NANOSECONDS) for seconds in arm.interval)
                detection = int(arm.detection * _NANOSECONDS)
                self._native.arm(
                    number,
                    arm.octets,
                    shortest,
                    longest,
                    arm.expected,
                    arm.alive,
                    detection,
                    arm.generation,
                    arm.at_once,
                )
            case effects.ProbeSend(number, octets) if number in self._open and len(octets) > _THREAD_OCTETS:
                self._send_long(number, octets)
            case effects.ProbeSend(number, octets) if number in self._open:
                self._native.send(number, octets)
            case effects.ProbeClose(number):
                self._end(number)

    def counts(self) -> tuple[dict[int, ProbeCounts], dict[str, int]]:
        """By probe; and what was nobody's, by reason."""
        rows, refused = self._native.statistics()
        counts = {row[0]: ProbeCounts(*row[1:5], row[5] or None) for row in rows}
        return counts, dict(zip(_native.PROBE_REFUSALS, refused, strict=True))

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._native.event_fd())
        await asyncio.to_thread(self._native.stop)
        for opened in self._open.values():
            opened.sender.close()
        for shared in self._shared.values():
            shared.socket.close()
        self._open.clear()
        self._shared.clear()

    def _drain(self) -> None:
        for number, generation, _at, octets in self._native.news():
            if octets is None:
                self._command(inputs.ProbeExpired(number, generation))
            else:
                self._command(inputs.ProbePacket(number, octets))

    def _send_long(self, number: int, octets: bytes) -> None:
        """A few in a minute, and nothing hangs on the moment; their answers the thread hears, and tells their beginning."""
        opened = self._open[number]
        try:
            opened.sender.sendto(octets, (opened.remote, 0))
        except OSError as error:
            log.debug("probe %d: %d octets cannot be sent: %s", number, len(octets), error.strerror)

    # --- sockets ------------------------------------------------------------------------------------------------

    def _begin(self, probe: effects.ProbeOpen) -> None:
        port = PORTS.get(probe.kind)
        sender = self._udp_sender(probe) if port is not None else _echo_socket(probe.kind)
        opened = self._open[probe.id] = _Open(sender, probe.remote)
        if probe.interface:
            device = socket.if_indextoname(probe.interface).encode()
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        mark = inside(self._mark) if probe.interface else self._mark
        sender.setsockopt(*mark_option(mark))
        if port is None:
            sender.bind((probe.local, 0))
            self._native.listen(sender.fileno(), probe.kind)
        else:
            opened.shared = self._receive(probe.local, probe.kind, port)
        self._native.add(
            probe.id, probe.kind, probe.key, sender.fileno(), probe.local, (probe.remote, port or 0), probe.interface,
            LEAST_HOPS.get(probe.kind, 0),
        )  # fmt: skip

    def _udp_sender(self, probe: effects.ProbeOpen) -> socket.socket:
        """RFC 5881 4: the source port is in this range, and this session's alone."""
        sender = _udp_socket(probe.local)
        try:
            for attempt in range(_TRIES):
                try:
                    sender.bind((probe.local, int(self._random.uniform(*SOURCE_PORTS))))
                except OSError:
                    if attempt == _TRIES - 1:
                        raise
                else:
                    break
        except OSError:
            sender.close()
            raise
        return sender

    def _receive(self, local: str, kind: str, port: int) -> tuple[str, str]:
        shared = self._shared.get((local, kind))
        if shared is None:
            receiver = _udp_socket(local)
            try:
                receiver.bind((local, port))
                self._native.listen(receiver.fileno(), kind)
            except OSError:
                receiver.close()
                raise
            shared = self._shared[local, kind] = _Shared(receiver)
        shared.users += 1
        return local, kind

    def _end(self, number: int) -> None:
        opened = self._open.pop(number, None)
        if opened is None:
            return
        self._native.remove(number)
        self._native.unlisten(opened.sender.fileno())
        opened.sender.close()
        shared = self._shared.get(opened.shared) if opened.shared is not None else None
        if shared is None or opened.shared is None:
            return
        shared.users -= 1
        if not shared.users:
            self._native.unlisten(shared.socket.fileno())
            shared.socket.close()
            del self._shared[opened.shared]


def _udp_socket(local: str) -> socket.socket:
    """Bound later, also to an address that is not there yet."""
    ipv6 = ":" in local
    made = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    if ipv6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TRAFFIC_CLASS)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TRAFFIC_CLASS)
        made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    return made


def _echo_socket(kind: str) -> socket.socket:
    """A raw one: who may use ICMP's own datagram sockets is a setting of the host. It hears answers only."""
    kinds = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    if kind == "echo6":
        made = socket.socket(socket.AF_INET6, kinds, socket.IPPROTO_ICMPV6)
        blocked = bytearray(b"\xff" * 32)
        word = _ECHO_REPLY6 // 32 * 4
        bits = int.from_bytes(blocked[word : word + 4], "little") & ~(1 << _ECHO_REPLY6 % 32)
        blocked[word : word + 4] = bits.to_bytes(4, "little")
        made.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, bytes(blocked))
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
    else:
        made = socket.socket(socket.AF_INET, kinds, socket.IPPROTO_ICMP)
        made.setsockopt(_SOL_RAW, _ICMP_FILTER, (0xFFFFFFFF & ~(1 << _ECHO_REPLY)).to_bytes(4, "little"))
        # ip(7): what is tried is sent as it is, and never in fragments, which prove nothing
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
    made.setblocking(False)
    return made
