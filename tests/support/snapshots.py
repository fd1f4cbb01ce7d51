"""Sample snapshots: a fresh daemon, a healthy gateway and a troubled one."""

from __future__ import annotations

from dataclasses import replace

from gateway.observe.addresses import CloudAddresses, CloudAddressStatus, CloudInterfaceStatus
from gateway.observe.snapshot import (
    ChildStatus,
    HaStatus,
    JournalEntry,
    LivenessStatus,
    PeerStatus,
    ProbeCounts,
    RouteStatus,
    Snapshot,
    TunnelStatus,
    WorkerStatus,
)

NOW = 10_000.0

CHILD = ChildStatus(
    name="net",
    state="INSTALLED",
    suite="AES_GCM_16-256/ESN",
    spi_in=0xC3F1A2B0,
    spi_out=0x5D0E77C1,
    local_ts=("10.1.0.0/16",),
    remote_ts=("172.16.0.0/16",),
    installed_at=NOW - 900,
    rekey_at=NOW + 2700,
    packets_in=6_200_000,
    packets_out=1_900_000,
    octets_in=8_100_000_000,
    octets_out=1_400_000_000,
    last_in=NOW - 1,
    last_out=NOW - 2,
    sequence_used_ratio=0.0004,
    rekeys_ok=3,
)

UP = TunnelStatus(
    name="azure-a",
    up=True,
    ike_state="ESTABLISHED",
    role="initiator",
    local="203.0.113.10:4500",
    remote="198.51.100.7:4500",
    local_id="gw-a",
    remote_id="onprem",
    suite="AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384",
    nat="local",
    initiator_spi=0x0102030405060708,
    responder_spi=0x1112131415161718,
    established_at=NOW - 8040,
    rekey_at=NOW + 5460,
    last_heard_at=NOW - 4,
    interface="gw-azure-a",
    mtu=1400,
    protected=("172.16.0.0/16",),
    children=(CHILD,),
    packets_in=7_000_000,
    packets_out=2_000_000,
    octets_in=9_000_000_000,
    octets_out=1_500_000_000,
    drops={"no_sa": 2, "replay": 5, "integrity": 0},
    retransmissions=1,
    exchanges={"IKE_SA_INIT initiator ok": 1, "CREATE_CHILD_SA responder ok": 3},
    notifies={"NAT_DETECTION_SOURCE_IP in": 1, "54321 in": 2, "54322 in": 3},
    ike_rekeys_ok=1,
)

DOWN = TunnelStatus(
    name="onprem-b",
    up=False,
    ike_state="DOWN",
    local="203.0.113.10:500",
    remote="198.51.100.8:500",
    local_id="gw-a",
    retry_at=NOW + 12,
    attempts=4,
    last_failure="NO_PROPOSAL_CHOSEN",
    explanation="the peer refused our proposals",
    children=(ChildStatus(name="net", state="DOWN", local_ts=("10.1.0.0/16",), remote_ts=("172.17.0.0/16",)),),
    drops={"no_sa": 40},
)

PEER = PeerStatus(
    name="route-server",
    address="169.254.21.1",
    asn=65515,
    state="Established",
    local_address="169.254.21.2",
    connection="azure-a",
    established_at=NOW - (17 * 3600 + 54 * 60 + 6) + 0.0,
    prefixes={"adj_in": 3, "accepted": 3, "best": 2, "adj_out": 1, "stale": 0},
    messages_sent=1232,
    messages_received=1194,
    flaps=1,
)

ROUTES = (
    RouteStatus(
        prefix="172.16.0.0/16",
        peer="route-server",
        next_hop="169.254.21.1",
        as_path=(65515, 64601),
        origin="igp",
        med=None,
        local_preference=None,
        communities=("65515:1",),
        best=True,
        reason="shorter AS path",
        installed=True,
    ),
    RouteStatus(
        prefix="172.16.0.0/16",
        peer="edge",
        next_hop="10.0.0.4",
        as_path=(65001, 65002, 64601),
        origin="incomplete",
        med=10,
        local_preference=100,
        communities=(),
        best=False,
        reason="longer AS path",
        installed=False,
    ),
)

HA = HaStatus(
    peer_name="gw-b",
    peer_address="10.0.0.5:4780",
    peer_up=True,
    last_heartbeat_at=NOW - 0.1,
    round_trip=0.0008,
    sent=500,
    received=498,
    rejected={"bad_mac": 2, "replay": 1},
)

WORKER = WorkerStatus(
    worker=0, ticks=1000, cpu_seconds=1.5, idle=False, cpu=1, empty_polls=77, packets_in=4000, packets_out=1100,
    bursts_in=(10, 0, 5, 0, 0, 0, 0, 30), bursts_out=(0, 0, 0, 0, 0, 0, 25, 0),
    calls={"tun_reads": 40, "tun_writes": 50, "udp_reads": 60, "udp_sends": 30}, queue_octets=2304, queue_drops=3,
    cycles={"read": 1100, "segment": 2200, "seal": 330000, "send": 0, "receive": 4000, "open": 8000, "deliver": 0, "write": 12},
)  # fmt: skip

FRESH = Snapshot(
    name="gw-a",
    version="0.1.0",
    now=NOW,
    started_at=NOW,
    taken_at="2026-11-21T12:00:00.250000+00:00",
    engine="libcrypto 3.0.15",
    ready=False,
    tunnels=(replace(DOWN, attempts=0, last_failure="", explanation="", retry_at=None, drops={}),),
    workers=(WorkerStatus(worker=0, ticks=0, cpu_seconds=0.0, idle=True),),
)

BFD = LivenessStatus(
    name="bfd edge",
    kind="bfd",
    neighbor="edge",
    connection="azure-a",
    local="169.254.21.1",
    remote="169.254.21.2",
    state="UP",
    verdict="up",
    remote_state="UP",
    changed_at=NOW - 3600,
    flaps=2,
    interval=0.1,
    detection=0.3,
    counts=ProbeCounts(sent=36_000, received=35_990, told=12, heard_at=NOW - 0.05),
    refused={"hash": 3},
)

HEALTHY = replace(
    FRESH,
    started_at=NOW - 9000,
    ready=True,
    tunnels=(UP,),
    peers=(PEER,),
    routes=ROUTES,
    kernel_routes={"desired": 5, "installed": 5, "failed": 0, "guard": 1, "guard_missing": 0},
    exabgp="running",
    ha=HA,
    liveness=(BFD,),
    probe_refused={"hops": 4, "unknown": 0},
    workers=(WORKER,),
    drops={"unknown_spi": 7},
    ike_half_open=1,
    ike_rejected={"cookie": 3},
    journal=(
        JournalEntry(at=NOW - 60, level="info", event="ike-established", tunnel="azure-a", text="IKE_SA established"),
    ),
)

_AWAY = CloudAddressStatus("10.0.1.10", "peer", "eni-b", "", "no right; give it")
ELSEWHERE = CloudAddresses(
    active=True,
    epoch=4,
    dry_run=False,
    interfaces=(
        CloudInterfaceStatus(
            "wan", "eni-a", "eni-b", (_AWAY,), ("assign 10.0.1.10 to eni-a",), NOW - 1, "read the interfaces", NOW - 1,
            "no right; give it", "10.0.1.10: no right; give it", (), 0, 7, 3, False, None,
        ),
    ),
)  # fmt: skip
"""A cloud that refuses to bring a shared address here."""

TROUBLED = replace(
    HEALTHY,
    ready=True,
    tunnels=(UP, DOWN),
    problems=("net.ipv4.ip_forward is 0; set it to 1",),
)
