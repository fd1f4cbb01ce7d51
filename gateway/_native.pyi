"""The C data plane (native/module.c) and the probes (native/probe_py.c). Imported only by runtime/ and tests."""

from collections.abc import Sequence
from typing import TypedDict

ENGINE: str
"""AEAD engine chosen at run time, e.g. "ipsec-mb 1.3.0 (AVX512)" or "libcrypto 3.0.15"."""

DROP_REASONS: tuple[str, ...]
"""Every drop reason's label, from native/drop_reasons.h."""

STAGES: tuple[str, ...]
"""What cycles are counted by, from native/dataplane.h."""

class SaStatistics(TypedDict):
    direction: str
    connection: int
    spi: int
    packets: int
    octets: int
    sequence: int
    last_used: float
    replay_drops: int
    integrity_failures: int
    selector_drops: int

SaRow = tuple[str, int, int, int, int, int, float, int, int, int]
"""The values of `SaStatistics` in its order."""

class WorkerStatistics(TypedDict):
    ticks: int
    """Loop turns."""
    empty_polls: int
    """Looks for work that found none, while busy polling."""
    tun_reads: int
    tun_writes: int
    udp_reads: int
    udp_sends: int
    packet_sends: int
    """System calls."""
    packets_full: int
    packets_refused: int
    """Packets that a packet socket did not take, because the device's queue was full or for another reason: the raw socket
    sent them."""
    packets_out: int
    packets_in: int
    """Over all workers they add up to what the SAs counted, as long as none was removed."""
    bursts_out: tuple[int, ...]
    bursts_in: tuple[int, ...]
    """Bursts of up to 1, 2, 4, 8, 16, 32, 64 and 128 packets, each counted once."""
    cycles: dict[str, int]
    """By stage; all 0 unless `count_cycles`."""
    cpu_ns: int
    socket_queue_octets: int
    """Memory of what waits in the worker's sockets now."""
    socket_drops: int
    """Datagrams the kernel dropped because too much waited."""
    idle: int
    """1: waits for work."""

class DataPlane:
    """Worker threads, SAD and SPD. Every call takes effect for all workers before it returns.

    ValueError names what is wrong with an argument; OSError comes from the system; after stop() every call but events(),
    punted(), event_fd() and stop() itself raises ValueError. All calls may be made from any thread; none needs the others.
    """

    def __init__(
        self,
        workers: int,
        engine: str = "auto",
        *,
        cpus: Sequence[int] = (),
        busy_poll_us: int = 0,
        count_cycles: bool = False,
    ) -> None:
        """Starts `workers` threads. engine: "auto", "ipsec-mb" or "libcrypto". cpus: one for each worker, which then
        runs there only; empty: anywhere. busy_poll_us (at most 10000): after work a worker looks for more this long
        before it sleeps. count_cycles: cycles by stage, two readings of the time stamp counter for each system call."""

    def event_fd(self) -> int:
        """An eventfd, readable when `events()` or `punted()` has something."""

    def add_socket(self, worker: int, fd: int) -> None:
        """A bound UDP socket carrying ESP in UDP and IKE with the non-ESP marker. The caller keeps
        owning the fd (it sends IKE on it) and calls remove_socket before closing it."""

    def remove_socket(self, fd: int) -> None:
        """No worker touches the fd any more when this returns. Outbound SAs that sent on it drop (`send_failed`) until
        they are installed anew. Unknown fds are ignored."""

    def add_packet_socket(self, worker: int, fd: int) -> None:
        """The worker's socket for `set_egress`: AF_PACKET, SOCK_DGRAM, protocol 0. The caller keeps owning the fd and
        closes it after stop()."""

    def set_egress(
        self,
        connection: int,
        local: str,
        remote: str,
        interface: int,
        link_address: bytes,
        mtu: int,
        hops: int,
        flow_label: int = 0,
    ) -> None:
        """Protocol 50 of this connection between these two addresses goes by packet socket to this link address, as long
        as a packet, outer header included, is not longer than `mtu`. Whatever the packet socket does not take, the raw
        socket sends."""

    def clear_egress(self, connection: int) -> None:
        """Everything by the raw socket, from when this returns."""

    def add_connection(self, connection: int, tun_fds: list[int], mtu: int) -> None:
        """One queue fd per worker (or a single fd: worker 0 serves it). Caller opened them with
        IFF_TUN|IFF_NO_PI|IFF_VNET_HDR[|IFF_MULTI_QUEUE]; this sets TUNSETVNETHDRSZ and the offloads. Caller owns fds."""

    def update_connection(
        self, connection: int, mtu: int, tcp_mss4: int, tcp_mss6: int, dscp: int = -1, clear_df: bool = False
    ) -> None:
        """dscp: of every outer packet, 0 to 63; less than 0: the inner packet's. clear_df: IPv4 packets beyond the MTU
        are fragmented in spite of their DF bit."""

    def reopen_connection(self, connection: int) -> None:
        """The caller attached the connection's queue fds to a new device (the old one was deleted): they are polled again. Its
        SAs, policies and counters stay."""

    def remove_connection(self, connection: int) -> None: ...
    def add_sa(
        self,
        *,
        direction: str,
        connection: int,
        spi: int,
        encryption: str,
        integrity: str,
        encryption_key: bytes,
        integrity_key: bytes,
        esn: bool,
        encapsulate: bool,
        local: tuple[str, int],
        remote: tuple[str, int],
        selectors: list[tuple[int, bytes, bytes, int, int, bytes, bytes, int, int]],
        replay_window: int,
        soft_octets: int,
        hard_octets: int,
        soft_packets: int,
        hard_packets: int,
        socket_fd: int,
        worker: int,
        sequence: int,
        place: int,
        fenced: bool,
    ) -> None:
        """Strings are the values of the enums of gateway/esp/dataplane.py. `socket_fd`: the UDP socket an
        outbound SA sends on (-1 for inbound). `worker`: the one an outbound SA is for (RFC 9611); -1: all. `sequence`: that
        number and all below it are used up: outbound never sent, inbound taken as seen. `place`: where in the shared memory it
        writes how far it is, 0 for nowhere. `fenced`: an outbound SA of the pair, which sends nothing from where `move_fence` said, nor before its first
        grant. ValueError names what is wrong."""

    def remove_sa(self, direction: str, connection: int, spi: int) -> SaRow | None:
        """What it did in all; None where there was none."""

    def move_sa(
        self, connection: int, spi: int, remote: tuple[str, int], local: tuple[str, int] = ..., socket_fd: int = -1
    ) -> None:
        """`local` and the socket bound to it: where our end moves, too."""

    def replace_policies(self, connection: int, spis: list[int]) -> None: ...
    def grant(self, connection: int, spi: int, limit: int) -> None:
        """No sequence number above `limit` is sent. Until the first call the limit is the end of the number space, of a
        fenced SA where it began."""

    def move_fence(self, until_ns: int) -> None:
        """Until when fenced SAs send, in ns of CLOCK_BOOTTIME: workers look before each burst. Until the first call: never.
        Moved back it returns when no worker sends by the old one any more."""

    def advance(self, connection: int, spi: int, by: int) -> None:
        """So many sequence numbers are never used, or all that are left."""

    def events(self) -> list[tuple[str, int, int, bytes]]:
        """Drains (kind, connection, spi, detail). Kinds: "acquire" (detail: first 64 octets of the packet),
        "expire-soft", "expire-hard" (spi; detail b"in"/b"out"), "integrity-burst", "peer-moved" (detail "host port" ASCII, only
        after an authenticated packet), "unknown-spi" (rate-limited to 1/s; detail "host port")."""

    def punted(self) -> list[tuple[bytes, tuple[str, int], tuple[str, int], int]]:
        """Drains IKE datagrams: (octets without the marker, local, remote, socket fd)."""

    def sa_statistics(self) -> list[SaStatistics]: ...
    def sa_changes(self) -> list[SaRow]:
        """Of those SAs that did something since this was last called. One caller only: what it was told once it is not
        told again."""

    def drops(self) -> list[tuple[int, str, int]]:
        """(connection or 0, reason, packets) where packets were dropped."""

    def worker_statistics(self) -> list[WorkerStatistics]:
        """One for each worker, in their order."""

    def share(self, fd: int) -> None:
        """Memory that outlives the process, before there is any SA: places of 64 octets, of which the data plane writes the first 8,
        the host's order: how far the SA is, before a packet leaves or is passed on."""

    def halt(self) -> None:
        """Stops and joins the workers: the counters are the last ones. Nothing but counters may be asked after it, and stop()."""

    def stop(self) -> None:
        """Stops and joins the workers, wipes every key. Idempotent."""

PROBE_REFUSALS: tuple[str, ...]
"""Why what arrived was nobody's, from native/probe.h."""

ProbeRow = tuple[int, int, int, int, int, float]
"""id, packets sent, refused by the kernel, received, told; CLOCK_MONOTONIC seconds of the last that was alive, 0.0 for none."""

class Probes:
    """One thread that sends, compares and measures silence (native/probe.h, gateway/bfd/probing.py). ValueError and OSError
    as of DataPlane; after stop() every call but news(), event_fd() and stop() itself raises ValueError."""

    def __init__(self) -> None: ...
    def event_fd(self) -> int:
        """An eventfd, readable when `news()` has something."""

    def listen(self, fd: int, kind: str) -> None:
        """A bound socket on which packets of this kind arrive: "bfd", "bfd-multihop", "heartbeat", "echo4" or "echo6" (raw sockets). The
        caller keeps owning the fd and calls unlisten before closing it."""

    def unlisten(self, fd: int) -> None: ...
    def add(
        self,
        id: int,
        kind: str,
        key: int,
        fd: int,
        local: str,
        remote: tuple[str, int],
        interface: int,
        least_hops: int,
    ) -> None:
        """A probe that sends on `fd` (not touched after `remove`). What arrives is its own if it carries the key, or no key and
        these addresses; in any case from `remote`, to `local` ("": any), by `interface` (0: any) and with a TTL of at
        least `least_hops`."""

    def arm(
        self,
        id: int,
        octets: bytes,
        shortest_ns: int,
        longest_ns: int,
        expected: bytes,
        alive: bytes,
        detection_ns: int,
        generation: int,
        at_once: bool,
    ) -> None:
        """What `gateway.bfd.probing.Arm` says."""

    def send(self, id: int, octets: bytes) -> None: ...
    def remove(self, id: int) -> None: ...
    def beat(
        self,
        path: int,
        fd: int,
        remote: tuple[str, int],
        prefix: bytes,
        body: bytes,
        seal: bytes,
        peer: bytes,
        open: bytes,
        echoed_ns: int,
        shortest_ns: int,
        longest_ns: int,
        hold_ns: int,
        at_once: bool,
    ) -> None:
        """What `gateway.ha.beating.Arm` says; `open` are its keys, one after the other. `fd` sends and is not touched after
        `beat_rest`. What arrives on a socket that listens for "heartbeat" is told, whatever it is."""

    def beat_once(self, path: int, body: bytes) -> None:
        """Seals and sends this one now. ValueError where the path is not armed."""

    def beat_rest(self, path: int) -> None: ...
    def news(self) -> list[tuple[int, int, float, bytes | None]]:
        """Drains (id, generation, CLOCK_MONOTONIC seconds, octets): packets that were not as expected; None: the detection
        time is over. Of heartbeats' sockets: everything that arrived, in CLOCK_BOOTTIME seconds."""

    def statistics(self) -> tuple[list[ProbeRow], tuple[int, ...]]:
        """Of each probe; and how many packets were refused, by PROBE_REFUSALS."""

    def stop(self) -> None:
        """Joins the thread. Idempotent."""
