"""The cases: who is compared with whom, in what, and the goal of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from support.netns import Lab

from benchmarks.announce import AnnounceCase
from benchmarks.disturbance import tcp_disturbed
from benchmarks.fabric import TableCase
from benchmarks.failover import FailoverCase
from benchmarks.ike_setup import SetupCase
from benchmarks.load import latency, raw_seal, seal_and_send, tcp, tcp_8, udp_single
from benchmarks.pair import PAIR_CASES
from benchmarks.restart import RESTARTS
from benchmarks.result import Goal
from benchmarks.rounds import Case, MemoryCase, NetworkCase, Probe, Round, Row
from benchmarks.route_memory import RouteMemoryCase
from benchmarks.routes import RoutesCase
from benchmarks.side import Side
from benchmarks.sides import (
    CBC,
    GCM,
    BusyGatewayd,
    Gatewayd,
    NullCipherGatewayd,
    Plain,
    StrongswanPair,
    Wireguard,
)


def _of(quantity: str) -> Callable[[Round], tuple[float, float]]:
    return lambda found: (found["ours"][quantity], found["peer"][quantity])


def _added(quantity: str, ours: str = "ours") -> Callable[[Round], tuple[float, float]]:
    """What the tunnel adds to the plain path."""

    def difference(found: Round) -> tuple[float, float]:
        plain = found["plain"][quantity]
        return max(found[ours][quantity] - plain, 0.0), max(found["peer"][quantity] - plain, 1e-3)

    return difference


_GATEWAYD, _STRONGSWAN = partial(Gatewayd, esp=GCM), partial(StrongswanPair, esp=GCM)


def _merging(make: Callable[[Lab, str], Side]) -> Callable[[Lab, str], Side]:
    def made(lab: Lab, label: str) -> Side:
        side = make(lab, label)
        side.merge_lan_udp()
        return side

    return made


def _tcp(name: str, about: str, ours: Probe, peer: Probe, goal: float) -> NetworkCase:
    row = Row(name, "Gbit/s", Goal(">=", goal), _of("gbit"))
    return NetworkCase(name, about, {"ours": ours, "peer": peer}, (row,))


_LATENCY = {
    "plain": Probe(Plain, latency),
    "ours": Probe(_GATEWAYD, latency),
    "peer": Probe(_STRONGSWAN, latency),
}


def _latency_rows(name: str, goal: float) -> tuple[Row, ...]:
    return tuple(Row(f"{name}-{p}", "us added", Goal("<=", goal), _added(p)) for p in ("p50", "p99"))


def _alone_goal(name: str) -> Goal:
    """Within 10 % of the library's own call from 1400 octets on, at most 40 ns above it below."""
    return Goal("<=", 1.10) if int(name.rpartition("-")[2]) >= 1400 else Goal("<=", 40, "difference")


def _path_goal(name: str) -> Goal | None:
    if name.startswith("lone-"):
        return Goal("<=", 500, "ours") if name.endswith("-64") else None
    return Goal("<=", 1.35) if name.endswith("-1400") else Goal("<=", 1.6)


CASES: tuple[Case, ...] = (
    _tcp(
        "tcp-1-gcm", "TCP, 1 flow, AES-128-GCM, against strongSwan", Probe(_GATEWAYD, tcp), Probe(_STRONGSWAN, tcp), 25
    ),
    _tcp("tcp-8-gcm", "TCP, 8 flows, the same", Probe(_GATEWAYD, tcp_8), Probe(_STRONGSWAN, tcp_8), 25),
    _tcp(
        "tcp-1-cbc",
        "TCP, 1 flow, AES-256-CBC with HMAC-SHA2-256, against strongSwan's",
        Probe(partial(Gatewayd, esp=CBC), tcp),
        Probe(partial(StrongswanPair, esp=CBC), tcp),
        35,
    ),
    _tcp(
        "tcp-1-gcm-vs-null",
        "TCP, 1 flow, AES-128-GCM, against the same daemon with a null cipher",
        Probe(_GATEWAYD, tcp),
        Probe(NullCipherGatewayd, tcp),
        0.92,
    ),
    _tcp(
        "tcp-1-gcm-vs-plain",
        "TCP, 1 flow, AES-128-GCM, against the plain path",
        Probe(_GATEWAYD, tcp),
        Probe(Plain, tcp),
        0.60,
    ),
    NetworkCase(
        "udp-64-single",
        "UDP, 64-byte datagrams one by one, less than 1 % lost, against strongSwan",
        {"ours": Probe(_GATEWAYD, udp_single), "peer": Probe(_STRONGSWAN, udp_single)},
        (Row("udp-64-single", "Mpps", Goal(">=", 12), _of("mpps")),),
    ),
    NetworkCase(
        "udp-64-merged",
        "the same, with UDP GRO for forwarded packets on the gateways' LAN devices (dataplane.udp_gro), on both sides",
        {"ours": Probe(_merging(_GATEWAYD), udp_single), "peer": Probe(_merging(_STRONGSWAN), udp_single)},
        (Row("udp-64-merged", "Mpps", Goal(">=", 12), _of("mpps")),),
    ),
    NetworkCase(
        "seal-one-core",
        "one worker on one core seals and sends 1380-byte packets from super-packets, against libipsec-mb's raw seal rate",
        {
            "ours": Probe(partial(Gatewayd, esp=GCM, gateway="[dataplane]\nworkers = 1"), seal_and_send),
            "peer": Probe(None, raw_seal),
        },
        (Row("seal-one-core", "Mpps", Goal(">=", 0.25), _of("mpps")),),
    ),
    NetworkCase(
        "cpu-per-gb",
        "CPU seconds per GB of TCP, 1 flow, AES-128-GCM, against strongSwan's",
        {"ours": Probe(_GATEWAYD, tcp), "peer": Probe(_STRONGSWAN, tcp)},
        tuple(
            Row(f"cpu-per-gb-{end}", "s/GB", Goal("<=", 1 / 25), _of(f"cpu_{end}")) for end in ("sender", "receiver")
        ),
    ),
    NetworkCase(
        "rr-latency",
        "64-byte requests and responses: latency added to the plain path, against strongSwan's",
        _LATENCY,
        _latency_rows("rr-latency", 0.4),
    ),
    NetworkCase(
        "rr-latency-busy",
        "the same with gatewayd's busy-poll",
        {**_LATENCY, "ours": Probe(BusyGatewayd, latency)},
        _latency_rows("rr-latency-busy", 0.25),
    ),
    _tcp(
        "raw-50",
        "TCP, 1 flow, AES-128-GCM in protocol 50, against strongSwan in UDP",
        Probe(partial(Gatewayd, esp=GCM, connection="encap = false"), tcp),
        Probe(_STRONGSWAN, tcp),
        2.5,
    ),
    NetworkCase(
        "raw-50-packet",
        "the same by packet sockets (dataplane.packet_socket), against raw sockets",
        {
            "ours": Probe(
                partial(Gatewayd, esp=GCM, connection="encap = false", gateway="[dataplane]\npacket_socket = true"), tcp
            ),
            "peer": Probe(partial(Gatewayd, esp=GCM, connection="encap = false"), tcp),
        },
        (
            Row("raw-50-packet", "Gbit/s", Goal(">=", 1.1), _of("gbit")),
            Row("raw-50-packet-cpu-sender", "s/GB", Goal("<=", 0.9), _of("cpu_sender")),
        ),
    ),
    _tcp(
        "tcp-1-gcm-disturbed",
        "TCP, 1 flow, AES-128-GCM, while rekeys, drops and status requests happen, against the same undisturbed",
        Probe(_GATEWAYD, tcp_disturbed),
        Probe(_GATEWAYD, tcp),
        0.9,
    ),
    _tcp(
        "wireguard-go",
        "TCP, 1 flow, AES-128-GCM, against wireguard-go",
        Probe(_GATEWAYD, tcp),
        Probe(Wireguard, tcp),
        18,
    ),
    MemoryCase(
        "micro-esp",
        "seal and open alone, against libipsec-mb's own call",
        "micro_esp",
        lambda seed: (str(seed),),
        _alone_goal,
    ),
    MemoryCase(
        "micro-path",
        "the whole path from memory, against libipsec-mb's own call",
        "micro_path",
        lambda seed: (str(seed), "path"),
        _path_goal,
    ),
    MemoryCase(
        "micro-sas",
        "packet by packet over many SAs, AES-128-GCM, 1400 bytes, against one SA",
        "micro_path",
        lambda seed: (str(seed), "sas"),
        lambda name: None,
    ),
    MemoryCase(
        "micro-workers",
        "two workers on one SA from memory, against two processes",
        "micro_path",
        lambda seed: (str(seed), "workers"),
        lambda name: Goal(">=", 0.95),
    ),
    SetupCase(
        "ike-setup-psk",
        "IKE_SAs with a first CHILD_SA, PSK and X25519, set up a second as responder, against strongSwan",
        certified=False,
        goal=0.4,
        least=200,
    ),
    RoutesCase(
        "routes-10k",
        "10,000 routes, each in an UPDATE of its own, from the peer into the kernel and away again, against BIRD and FRR",
    ),
    AnnounceCase(
        "routes-announce",
        "10,000 routes announced and withdrawn, against a program that only keeps ExaBGP's window full",
    ),
    RouteMemoryCase("routes-memory", "memory of 10,000 and of 100,000 routes, against BIRD and FRR"),
    FailoverCase(
        "routes-move",
        "10,000 routes leave one of two ways, which is given up in order, until the last packet there, against BIRD and FRR",
        silently=False,
        interval=300,
        goal=0.1,
    ),
    FailoverCase(
        "routes-cut-100",
        "a link is cut, BFD 100 ms x 3, 10,000 routes: from the last packet there to the first on the other way",
        silently=True,
        interval=100,
        goal=0.4,
    ),
    FailoverCase("routes-cut-300", "the same, BFD 300 ms x 3", silently=True, interval=300, goal=1.0),
    *PAIR_CASES,
    TableCase(),
    *RESTARTS,
    SetupCase(
        "ike-setup-ecdsa", "the same with ECDSA P-256 certificates at both ends", certified=True, goal=0.4, least=200
    ),
)
