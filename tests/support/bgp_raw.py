"""A BGP speaker whose every octet the test writes: what no real one would send. RFC 4271 4, RFC 6793, RFC 4760.

It waits for the gateway's call, answers with an OPEN of the test's making, keeps the session alive, and remembers what it
hears. It has no RIB and no opinion. `Attribute`s are octets; `path` gives the usual ones.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from support.dataplane_pair import inside
from support.netns import Namespace
from support.process import LabError, wait_until

OPEN, UPDATE, NOTIFICATION, KEEPALIVE, REFRESH = 1, 2, 3, 4, 5
OPTIONAL, TRANSITIVE, PARTIAL, EXTENDED = 0x80, 0x40, 0x20, 0x10
WELL_KNOWN = TRANSITIVE
SET, SEQUENCE = 1, 2
_MARKER = b"\xff" * 16


def message(kind: int, body: bytes = b"") -> bytes:
    return _MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def attribute(flags: int, code: int, value: bytes) -> bytes:
    if len(value) > 255:
        return struct.pack("!BBH", flags | EXTENDED, code, len(value)) + value
    return struct.pack("!BBB", flags, code, len(value)) + value


def origin(value: int = 0) -> bytes:
    return attribute(WELL_KNOWN, 1, bytes([value]))


def as_path(*ases: int, kind: int = SEQUENCE) -> bytes:
    """Segments of 255 at most."""
    parts = [ases[start : start + 255] for start in range(0, len(ases), 255)]
    return attribute(WELL_KNOWN, 2, b"".join(struct.pack(f"!BB{len(part)}I", kind, len(part), *part) for part in parts))


def next_hop(address: str) -> bytes:
    return attribute(WELL_KNOWN, 3, ip_address(address).packed)


def reach(nlri: Sequence[str], *hops: str, flags: int = OPTIONAL) -> bytes:
    """MP_REACH_NLRI of IPv6 unicast; two next hops: global and link-local (RFC 2545 3)."""
    packed = b"".join(ip_address(hop).packed for hop in hops)
    return attribute(flags, 14, struct.pack("!HBB", 2, 1, len(packed)) + packed + b"\0" + prefixes(nlri))


def unreach(nlri: Sequence[str]) -> bytes:
    return attribute(OPTIONAL, 15, struct.pack("!HB", 2, 1) + prefixes(nlri))


def communities(*values: int) -> bytes:
    return attribute(OPTIONAL | TRANSITIVE, 8, struct.pack(f"!{len(values)}I", *values))


def prefixes(nlri: Iterable[str]) -> bytes:
    found = b""
    for text in nlri:
        prefix = ip_network(text)
        found += bytes([prefix.prefixlen]) + prefix.network_address.packed[: (prefix.prefixlen + 7) // 8]
    return found


def update(attributes: bytes = b"", nlri: bytes = b"", withdrawn: bytes = b"") -> bytes:
    return struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(attributes)) + attributes + nlri


class RawSpeaker:
    """One neighbor of the gateway at `address`, of whichever family."""

    def __init__(self, machine: Namespace, address: str, asn: int, router_id: str = "10.9.9.9") -> None:
        self.asn, self.router_id = asn, IPv4Address(router_id)
        self.address = ip_address(address)
        self.hold = 90
        self.restart: int | None = None  # graceful restart: seconds, the restart bit is set
        self.heard: list[tuple[int, bytes]] = []
        self.sessions = 0
        family = socket.AF_INET6 if isinstance(self.address, IPv6Address) else socket.AF_INET

        def listen() -> socket.socket:
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, 179))
            made.listen(8)
            return made

        self._listening = inside(machine, listen)
        self._connection: socket.socket | None = None
        self._ended = threading.Event()
        self._sending = threading.Lock()

    # ---- the session ----

    def open_message(
        self, asn: int | None = None, hold: int | None = None, version: int = 4, more: bytes = b""
    ) -> bytes:
        asn = self.asn if asn is None else asn
        family = struct.pack("!HBB", 1 if self.address.version == 4 else 2, 0, 1)
        capabilities = [(1, family), (2, b""), (65, struct.pack("!I", asn))]
        if self.restart is not None:
            # RFC 4724 3: R bit and time, family with the F bit
            capabilities.append((64, struct.pack("!H", 0x8000 | self.restart) + family[:2] + family[3:] + b"\x80"))
        listed = b"".join(bytes([code, len(value)]) + value for code, value in capabilities) + more
        options = bytes([2, len(listed)]) + listed
        two = asn if asn < 65536 else 23456
        fixed = struct.pack(
            "!BHH4sB", version, two, self.hold if hold is None else hold, self.router_id.packed, len(options)
        )
        return message(OPEN, fixed + options)

    def accept(self, seconds: float = 20.0) -> socket.socket:
        """The gateway's next call, and nothing said yet."""
        self._listening.settimeout(seconds)
        try:
            connection, _ = self._listening.accept()
        except TimeoutError:
            raise LabError(f"the gateway did not call {self.address} within {seconds} s") from None
        connection.settimeout(seconds)
        return connection

    def establish(self, seconds: float = 20.0) -> None:
        """A whole session: OPENs, KEEPALIVEs, then a thread that listens and keeps it alive."""
        deadline = time.monotonic() + seconds
        while True:
            connection = self.accept(max(deadline - time.monotonic(), 0.1))
            try:
                connection.sendall(self.open_message())
                if self._read(connection)[0] == OPEN:
                    connection.sendall(message(KEEPALIVE))
                    if self._read(connection)[0] == KEEPALIVE:
                        break
            except (OSError, EOFError):
                pass
            connection.close()
        connection.settimeout(None)
        self._ended = threading.Event()
        self._connection = connection
        self.heard.clear()
        self.sessions += 1
        threading.Thread(target=self._listen, args=(connection, self._ended), daemon=True).start()
        threading.Thread(target=self._stay_alive, args=(connection, self._ended), daemon=True).start()

    @property
    def up(self) -> bool:
        return self._connection is not None and not self._ended.is_set()

    def wait_end(self, seconds: float = 10.0) -> tuple[int, int]:
        """The session's end by the gateway, and the NOTIFICATION it gave: code and subcode."""
        wait_until(lambda: not self.up, seconds, "the gateway ends the session")
        last = next((body for kind, body in reversed(self.heard) if kind == NOTIFICATION), None)
        return (last[0], last[1]) if last else (0, 0)

    def send(self, *messages: bytes) -> None:
        assert self._connection is not None
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(b"".join(messages))

    def update(self, attributes: bytes = b"", nlri: Sequence[str] = (), withdrawn: Sequence[str] = ()) -> None:
        self.send(message(UPDATE, update(attributes, prefixes(nlri), prefixes(withdrawn))))

    def announce(self, *nlri: str, ases: Sequence[int] = (), hop: str = "", more: bytes = b"") -> None:
        """A route as it should be."""
        base = origin() + as_path(*(ases or (self.asn,)))
        hop = hop or str(self.address)
        if self.address.version == 6:
            self.update(base + more + reach(nlri, hop))
        else:
            self.update(base + next_hop(hop) + more, nlri)

    def end_of_rib(self) -> None:
        self.update(b"" if self.address.version == 4 else unreach([]))

    def notify(self, code: int, subcode: int, data: bytes = b"") -> None:
        self.send(message(NOTIFICATION, bytes([code, subcode]) + data))
        self.hang_up()

    def hang_up(self) -> None:
        if self._connection is not None:
            self._ended.set()
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._connection.close()

    def close(self) -> None:
        self.hang_up()
        self._listening.close()

    def _listen(self, connection: socket.socket, ended: threading.Event) -> None:
        with contextlib.suppress(OSError, EOFError):
            while not ended.is_set():
                self.heard.append(self._read(connection))
        ended.set()

    def _stay_alive(self, connection: socket.socket, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            with self._sending, contextlib.suppress(OSError):
                connection.sendall(message(KEEPALIVE))

    @staticmethod
    def _read(connection: socket.socket) -> tuple[int, bytes]:
        def exactly(count: int) -> bytes:
            data = b""
            while len(data) < count:
                part = connection.recv(count - len(data))
                if not part:
                    raise EOFError
                data += part
            return data

        header = exactly(19)
        length, kind = struct.unpack("!HB", header[16:])
        return kind, exactly(length - 19)
