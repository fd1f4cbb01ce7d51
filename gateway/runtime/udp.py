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
from collections.abc import Callable, Collection, Iterable

from gateway.contract import Endpoint, Transmit
from gateway.ike.settings import NATT_PORT

RECEIVE_BUFFER = SEND_BUFFER = 8 << 20
LARGEST = 65535
BATCH = 8  # of a millisecond each; what is left makes the socket readable again
ESP_PROTOCOL = 50  # RFC 4303 2

Received = Callable[[bytes, Endpoint, Endpoint], None]


class PortError(OSError):
    """A port cannot be bound; str() says whose fault it is and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


class UdpSockets:
    """Every UDP socket of IKE and ESP."""

    def __init__(self, mark: int, workers: int, on_ike: Received) -> None:
        self._mark = mark
        self._workers = workers
        self._on_ike = on_ike
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
                _check_free(encapsulated)
                sockets = [self._bound(encapsulated, reuse=True) for _ in range(self._workers)]
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
            loop.remove_reader(plain.fileno())
            plain.close()
        gone = [self._natt.pop(endpoint) for endpoint in list(self._natt) if endpoint.host not in hosts]
        gone += [[self._raw.pop(host)] for host in list(self._raw) if host not in hosts]
        for one in (one for sockets in gone for one in sockets):
            detach(one.fileno())
            one.close()

    def close(self) -> None:
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
        plain = self._bound(endpoint, reuse=False)
        asyncio.get_running_loop().add_reader(plain.fileno(), self._readable, plain, endpoint)
        return plain

    def _readable(self, plain: socket.socket, local: Endpoint) -> None:
        for _ in range(max(1, BATCH // len(self._plain))):
            try:
                data, remote = plain.recvfrom(LARGEST)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error on the socket: unauthenticated, so no more than a hint (RFC 7296 2.4)
                continue
            self._on_ike(data, local, Endpoint(remote[0], remote[1]))

    def _bound(self, endpoint: Endpoint, reuse: bool, raw: bool = False) -> socket.socket:
        made = _socket(endpoint, raw)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            if reuse:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((endpoint.host, endpoint.port))
        except OSError as error:
            made.close()
            raise _explained(error, endpoint) from error
        return made


def _socket(endpoint: Endpoint, raw: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    if raw:
        return socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, ESP_PROTOCOL)
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _check_free(endpoint: Endpoint) -> None:
    with _socket(endpoint) as probe:
        try:
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
