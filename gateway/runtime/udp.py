"""The IKE sockets: port 500 read here, port 4500 given to the data plane and only written here.

Bound to the configured local addresses, marked so that the rules send them by the main table. One socket per
worker on 4500 (SO_REUSEPORT). A second process of the same user could join such a group silently and take
a share of the packets, so each port is first bound once without it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from gateway.contract import Endpoint, Transmit
from gateway.ike.settings import NATT_PORT
from gateway.runtime import flood_filter
from gateway.runtime.fd_store import FdStore, Inherited
from gateway.runtime.marking import mark_option

RECEIVE_BUFFER = SEND_BUFFER = 8 << 20
LARGEST = 65535
READING = 0.002
"""Seconds for which all sockets together are read in one turn of the loop; what is left makes them readable again."""
BEHIND = 8
"""Turns that left something, one after the other, from which on strangers' requests are refused by the kernel."""
GUARDED = 10.0
"""Seconds for which they are."""
_SO_RCVBUFFORCE, _SO_MEMINFO, _DROPS = 33, 55, 8
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78
ESP_PROTOCOL = 50  # RFC 4303 2

Received = Callable[[bytes, Endpoint, Endpoint], None]
Tell = Callable[[str, str, str], None]
"""Level, event, text."""


class PortError(OSError):
    """A port cannot be bound; str() says whose fault it is and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


class UdpSockets:
    """Every UDP socket of IKE and ESP."""

    def __init__(
        self,
        mark: int,
        workers: int,
        on_ike: Received,
        tell: Tell = lambda level, event, text: None,
        inherited: Inherited | None = None,
        store: FdStore | None = None,
    ) -> None:
        self._inherited = inherited or Inherited()
        self._store = store or FdStore({})
        self._mark = mark
        self._workers = workers
        self._on_ike = on_ike
        self._tell = tell
        self._peers: dict[str, set[str]] = {}  # hosts, by local host
        self.shared: frozenset[str] = frozenset()
        """Addresses that need not be on this host yet."""
        self._behind = 0
        self._guarded: asyncio.TimerHandle | None = None
        self._plain: dict[Endpoint, socket.socket] = {}
        self._natt: dict[Endpoint, list[socket.socket]] = {}
        self._raw: dict[str, socket.socket] = {}
        self.send_failures = 0

    def open(self, endpoints: Iterable[Endpoint]) -> list[tuple[int, int]]:
        """Binds what is not bound yet; returns the new port 4500 sockets as (worker, fd). PortError leaves nothing new open."""
        made: list[tuple[int, int]] = []
        for endpoint in endpoints:
            if endpoint not in self._plain:
                self._plain[endpoint] = self._open_plain(endpoint)
            encapsulated = Endpoint(endpoint.host, NATT_PORT)
            if encapsulated not in self._natt:
                sockets = self._open_natt(encapsulated)
                self._natt[encapsulated] = sockets
                made += [(worker, one.fileno()) for worker, one in enumerate(sockets)]
        return made

    def open_raw(self, hosts: Iterable[str]) -> list[tuple[int, int]]:
        """Raw sockets of protocol 50 for connections without encapsulation, as (worker, fd)."""
        made = []
        for host in dict.fromkeys(hosts):
            if host not in self._raw:
                self._raw[host] = self._bound(Endpoint(host, 0), reuse=False, raw=True)
                made.append((0, self._raw[host].fileno()))
        return made

    def expect(self, ends: Iterable[tuple[str, str]]) -> None:
        """The local and remote host of each connection: who is not among them is a stranger."""
        self._peers = {}
        for local, remote in ends:
            self._peers.setdefault(local, set()).add(remote)
        if self._guarded is not None:
            self._attach_filters()

    def guard(self) -> None:
        """More comes than is read: for a while strangers' requests for IKE_SAs are dropped before they take others' place."""
        if self._guarded is None:
            self._attach_filters()
            self._guarded = asyncio.get_running_loop().call_later(GUARDED, self._unguard, self._dropped())

    def esp_fd(self, local: Endpoint, encapsulate: bool) -> int:
        """The socket outbound ESP of this local end point leaves by; -1 if there is none."""
        if not encapsulate:
            raw = self._raw.get(local.host)
            return raw.fileno() if raw is not None else -1
        sockets = self._natt.get(local)
        return sockets[0].fileno() if sockets else -1

    def send(self, datagram: Transmit) -> None:
        """Best effort: IKE repeats what is lost, so a failure is only counted."""
        sockets = self._natt.get(datagram.local)
        sender = sockets[0] if sockets else self._plain.get(datagram.local)
        if sender is None:
            self.send_failures += 1
            return
        try:
            sender.sendto(datagram.data, (datagram.remote.host, datagram.remote.port))
        except OSError:
            self.send_failures += 1

    def close_unused(
        self, configured: Collection[Endpoint], busy: Collection[str], detach: Callable[[int], None]
    ) -> None:
        """Gives back what no connection names any more and no IKE_SA (their hosts are `busy`) still uses; `detach`: the workers' sockets."""
        hosts = {endpoint.host for endpoint in configured} | set(busy)
        loop = asyncio.get_running_loop()
        for endpoint in [one for one in self._plain if one not in configured and one.host not in busy]:
            plain = self._plain.pop(endpoint)
            self._store.drop(_kept_as(endpoint))
            loop.remove_reader(plain.fileno())
            plain.close()
        unused = [endpoint for endpoint in self._natt if endpoint.host not in hosts]
        for endpoint in unused:
            self._store.drop(_kept_as(endpoint))
        gone = [self._natt.pop(endpoint) for endpoint in unused]
        gone += [[self._raw.pop(host)] for host in list(self._raw) if host not in hosts]
        for one in (one for sockets in gone for one in sockets):
            detach(one.fileno())
            one.close()

    @property
    def held(self) -> dict[str, list[int]]:
        """Descriptors by the name they are kept as, for a process that takes over."""
        plain = {_kept_as(endpoint): [one.fileno()] for endpoint, one in self._plain.items()}
        return plain | {_kept_as(endpoint): [one.fileno() for one in some] for endpoint, some in self._natt.items()}

    def rest(self) -> None:
        """Nothing is read any more: it waits for the process that takes over."""
        for plain in self._plain.values():
            asyncio.get_running_loop().remove_reader(plain.fileno())

    def forget(self) -> None:
        """This process ends, and none follows: nobody holds the ports."""
        for endpoint in (*self._plain, *self._natt):
            self._store.drop(_kept_as(endpoint))

    def close(self) -> None:
        if self._guarded is not None:
            self._guarded.cancel()
        loop = asyncio.get_running_loop()
        for plain in self._plain.values():
            loop.remove_reader(plain.fileno())
            plain.close()
        for one in (*self._raw.values(), *(one for sockets in self._natt.values() for one in sockets)):
            one.close()
        self._raw.clear()
        self._plain.clear()
        self._natt.clear()

    def _open_plain(self, endpoint: Endpoint) -> socket.socket:
        adopted = self._adopted(endpoint, 1)
        plain = adopted[0] if adopted else self._bound(endpoint, reuse=False)
        if not adopted:
            self._store.keep(_kept_as(endpoint), [plain.fileno()])
        asyncio.get_running_loop().add_reader(plain.fileno(), self._readable, plain, endpoint)
        return plain

    def _readable(self, plain: socket.socket, local: Endpoint) -> None:
        until = time.monotonic() + READING / len(self._plain)
        while True:
            try:
                data, remote = plain.recvfrom(LARGEST)
            except BlockingIOError:
                self._behind = 0
                return
            except OSError:
                # An ICMP error on the socket: unauthenticated, so no more than a hint (RFC 7296 2.4)
                continue
            self._on_ike(data, local, Endpoint(remote[0], remote[1]))
            if time.monotonic() >= until:
                break
        self._behind += 1
        if self._behind >= BEHIND:
            self.guard()

    def _all(self) -> Iterator[tuple[str, bool, list[socket.socket]]]:
        """Local host, whether encapsulated, and the sockets."""
        yield from ((endpoint.host, False, [plain]) for endpoint, plain in self._plain.items())
        yield from ((endpoint.host, True, sockets) for endpoint, sockets in self._natt.items())

    def _attach_filters(self) -> None:
        for host, encapsulated, sockets in self._all():
            code = flood_filter.program(self._peers.get(host, ()), encapsulated)
            if code is not None:
                flood_filter.attach(sockets, code)

    def _unguard(self, before: int) -> None:
        self._guarded, self._behind = None, 0
        for _, _, sockets in self._all():
            flood_filter.detach(sockets)
        if refused := self._dropped() - before:
            text = "requests for IKE_SAs came faster than they were read; the kernel refused strangers' for a while"
            self._tell("warning", "ike-flood", f"{text}: {refused} datagrams")

    def _dropped(self) -> int:
        """By the kernel, of what came for these sockets."""
        sockets = [one for _, _, some in self._all() for one in some]
        counts = (struct.unpack_from("=9I", one.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)) for one in sockets)
        return sum(count[_DROPS] for count in counts)

    def _adopted(self, endpoint: Endpoint, count: int) -> list[socket.socket]:
        """Those of the process before this one, at most `count`, with what waits in them."""
        found = [socket.socket(fileno=fd) for fd in self._inherited.take(_kept_as(endpoint))]
        for one in found[count:]:
            one.close()
        for one in found[:count]:
            one.setsockopt(*mark_option(self._mark))
            flood_filter.detach([one])
        if len(found) > count:
            self._store.drop(_kept_as(endpoint))
            self._store.keep(_kept_as(endpoint), [one.fileno() for one in found[:count]])
        return found[:count]

    def _open_natt(self, endpoint: Endpoint) -> list[socket.socket]:
        """One for each worker. Those that the process before had hold the port, so that nobody else can have it."""
        sockets = self._adopted(endpoint, self._workers)
        if not sockets:
            _check_free(endpoint, endpoint.host in self.shared)
        made = [self._bound(endpoint, reuse=True) for _ in range(self._workers - len(sockets))]
        if made:
            self._store.keep(_kept_as(endpoint), [one.fileno() for one in made])
        return sockets + made

    def _bound(self, endpoint: Endpoint, reuse: bool, raw: bool = False) -> socket.socket:
        made = _socket(endpoint, raw)
        try:
            made.setblocking(False)
            made.setsockopt(*mark_option(self._mark))
            if endpoint.host in self.shared:
                made.setsockopt(*_free(made))
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if reuse:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((endpoint.host, endpoint.port))
        except OSError as error:
            made.close()
            raise _explained(error, endpoint) from error
        return made


def _kept_as(endpoint: Endpoint) -> str:
    """sd_pid_notify_with_fds(3): a name has no colon."""
    return f"udp-{endpoint.host.replace(':', '_')}-{endpoint.port}"


def _socket(endpoint: Endpoint, raw: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    if raw:
        return socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, ESP_PROTOCOL)
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _free(made: socket.socket) -> tuple[int, int, int]:
    """The option by which a socket may have an address that is not on this host; nothing leaves by it while that is so (ip(7))."""
    return (
        (socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        if made.family == socket.AF_INET6
        else (socket.IPPROTO_IP, _IP_FREEBIND, 1)
    )


def _check_free(endpoint: Endpoint, shared: bool) -> None:
    with _socket(endpoint) as probe:
        try:
            if shared:
                probe.setsockopt(*_free(probe))
            probe.bind((endpoint.host, endpoint.port))
        except OSError as error:
            raise _explained(error, endpoint) from error


def _explained(error: OSError, endpoint: Endpoint) -> PortError:
    reasons = {
        errno.EADDRINUSE: "another process uses the port (another gatewayd, strongSwan, an Azure or AWS agent?): stop it, see `ss -ulpn`",
        errno.EADDRNOTAVAIL: "the address is not on this host: correct local_addrs, or add the address to the interface",
        errno.EACCES: "binding below port 1024 needs CAP_NET_BIND_SERVICE",
        errno.EPERM: "setting the socket's mark needs CAP_NET_ADMIN",
    }
    number = error.errno or errno.EIO
    return PortError(number, f"UDP {endpoint}: {reasons.get(number, os.strerror(number))}")
