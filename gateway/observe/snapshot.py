"""The one picture of the gateway that every view is drawn from (design: they cannot disagree).

Built by `node/` on request; plain frozen data, JSON-able by `to_json`. Times are CLOCK_BOOTTIME
seconds of the daemon (`now` is in the snapshot, so ages can be computed), wall-clock only in `taken_at`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from gateway.observe.addresses import CloudAddresses
from gateway.observe.fabric import FabricStatus

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """One CHILD_SA, or a configured child without one (`state` "DOWN", spis 0)."""

    name: str
    state: str  # DOWN, or a CHILD_SA state of RFC/strongSwan vocabulary: INSTALLED, REKEYING, REKEYED, DELETING
    suite: str = ""  # "AES_GCM_16-256", "AES_CBC-256/HMAC_SHA2_256_128"
    spi_in: int = 0
    spi_out: int = 0
    local_ts: tuple[str, ...] = ()
    remote_ts: tuple[str, ...] = ()
    installed_at: float | None = None
    rekey_at: float | None = None
    packets_in: int = 0
    packets_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    last_in: float | None = None
    last_out: float | None = None
    sequence_used_ratio: float = 0.0
    replay_drops: int = 0
    integrity_failures: int = 0
    rekeys_ok: int = 0
    rekeys_failed: int = 0
    resource_sas: int = 0  # per-resource CHILD_SAs beside it (RFC 9611)


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One configured certificate of a connection."""

    name: str  # local, chain-1 (intermediates shown with it), ca-1
    subject: str
    not_after: float  # UNIX seconds


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """One configured connection, up or not. Packet and octet totals survive rekeys."""

    name: str
    up: bool  # IKE_SA established and all configured children installed
    ike_state: str  # DOWN, CONNECTING, ESTABLISHED, REKEYING, DELETING
    role: str = ""  # initiator | responder
    local: str = ""  # "203.0.113.10:4500"
    remote: str = ""
    local_id: str = ""
    remote_id: str = ""
    suite: str = ""  # "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384"
    post_quantum: str = ""  # what protects the keys from quantum computers: "ML_KEM_768", "PPK", "" for nothing
    post_quantum_policy: str = "off"  # off, prefer, require
    nat: str = ""  # "", "local", "remote", "both", "forced"
    initiator_spi: int = 0
    responder_spi: int = 0
    established_at: float | None = None
    rekey_at: float | None = None
    last_heard_at: float | None = None
    retry_at: float | None = None  # next attempt while down
    attempts: int = 0
    last_failure: str = ""  # named reason, e.g. NO_PROPOSAL_CHOSEN, "" if none yet
    explanation: str = (
        ""  # one sentence: what, whose setting, the fix; while up only if the peer stays silent or refuses a rekey
    )
    interface: str = ""
    instance: str = ""  # routing instance, "" for the gateway's own table
    circuit: str = ""  # private circuit it is the backup of: "up" carries its prefixes in clear, "down"; "" without
    mtu: int = 0
    protected: tuple[str, ...] = ()
    children: tuple[ChildStatus, ...] = ()
    packets_in: int = 0
    packets_out: int = 0
    octets_in: int = 0
    octets_out: int = 0
    drops: dict[str, int] = field(default_factory=dict)  # reason -> packets, every reason present
    retransmissions: int = 0
    exchanges: dict[str, int] = field(default_factory=dict)  # "EXCHANGE role result" -> count
    notifies: dict[str, int] = field(default_factory=dict)  # "NOTIFY in|out" -> count
    ike_rekeys_ok: int = 0
    ike_rekeys_failed: int = 0
    certificates: tuple[CertificateStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One BGP neighbor."""

    name: str
    address: str
    asn: int
    state: str  # Idle Connect Active OpenSent OpenConfirm Established
    local_address: str = ""
    connection: str = ""
    established_at: float | None = None
    prefixes: dict[str, int] = field(default_factory=dict)  # see metrics.RIBS
    messages_sent: int = 0
    messages_received: int = 0
    flaps: int = 0
    last_error: str = ""
    limit_in: int = 0
    limit_out: int = 0  # 0: none
    level_in: int = 0  # 0: fine, 1: from 80 % of the limit on, 2: some are refused (in) or held back (out)
    level_out: int = 0
    suspended_until: float | None = None  # torn down for too many prefixes
    carried: tuple[
        str, ...
    ] = ()  # protected prefixes that its side would carry in clear (prefixes["carried"]); the first few
    instance: str = ""
    explanation: str = ""  # why the session is down, and the fix


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One learned BGP path."""

    prefix: str
    peer: str
    next_hop: str
    as_path: tuple[int, ...]
    origin: str  # igp egp incomplete
    med: int | None
    local_preference: int | None
    communities: tuple[str, ...]
    best: bool
    reason: str  # why it is best, or why it is not or was rejected
    installed: bool
    stale: bool = False
    multipath: bool = False  # used beside the best one
    backup: bool = False  # used when the best ones fail
    instance: str = ""
    accepted: bool = True  # by what always holds and by the import policy


@dataclass(frozen=True, slots=True)
class AdvertisedStatus:
    """One announcement to one BGP neighbor."""

    prefix: str
    peer: str
    next_hop: str
    as_path: tuple[int, ...]  # complete, our AS included
    origin: str  # igp egp incomplete
    med: int | None
    local_preference: int | None
    communities: tuple[str, ...]
    state: str  # sent, waiting (not said yet), withdrawing, held-back (no room), down (there is no session)
    instance: str = ""


@dataclass(frozen=True, slots=True)
class WayStatus:
    """Where a route leads: into a connection, or to a next hop in clear. Of a look-up also by which SA."""

    connection: str
    next_hop: str
    used: bool  # packets take it now
    circuit: bool = False  # in clear, by the private circuit beside the connection
    peer: str = ""  # outer address and port of the connection's peer
    child: str = ""
    child_state: str = ""
    spi_out: int = 0
    selectors: str = ""


@dataclass(frozen=True, slots=True)
class EffectiveStatus:
    """One entry of our routing table."""

    prefix: str
    kind: str  # static bgp circuit circuit-bgp protected learned shadow throw earlier
    state: str  # installed waiting failed refused stale
    metric: int
    ways: tuple[WayStatus, ...] = ()
    why: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class LookupStatus:
    """What becomes of a packet to `address`."""

    address: str
    source: str
    instance: str
    verdict: str  # encrypted, clear, dropped, main (the main table decides)
    text: str  # the verdict as a sentence
    route: EffectiveStatus | None = None  # the longest match in the kernel
    over: tuple[EffectiveStatus, ...] = ()  # matches as long or longer that are wanted and not in the kernel
    paths: tuple[RouteStatus, ...] = ()  # what BGP knows of this prefix, and of longer ones
    guard: str = ""  # the prefix that keeps it from leaving in clear
    guard_kind: str = ""  # protected, yielding (but to a private circuit), learned
    guard_connections: tuple[str, ...] = ()  # that protect it


@dataclass(frozen=True, slots=True)
class ProbeCounts:
    """What the probe thread counted of one session."""

    sent: int = 0
    send_failed: int = 0
    received: int = 0
    told: int = 0  # of those: not as expected, so handed to the session
    heard_at: float | None = None


@dataclass(frozen=True, slots=True)
class LivenessStatus:
    """One BFD session with a BGP neighbor, or one probe of a tunnel (`neighbor` "")."""

    name: str  # "bfd NEIGHBOR", "probe CONNECTION"
    kind: str  # bfd bfd-multihop echo4 echo6
    neighbor: str
    connection: str
    local: str
    remote: str
    state: str  # ADMIN_DOWN DOWN INIT UP
    verdict: str  # unknown (as if it were not there), up, down
    remote_state: str = ""
    diagnostic: str = ""  # what we say of why the session last went down
    remote_diagnostic: str = ""  # what the neighbor says
    reason: str = ""
    changed_at: float | None = None
    flaps: int = 0
    interval: float = 0.0  # seconds between our packets, 0.0: none
    detection: float = 0.0  # seconds of silence until it is down, 0.0: nothing heard yet
    counts: ProbeCounts = ProbeCounts()
    refused: dict[str, int] = field(default_factory=dict)  # reason -> packets
    full_size: int = 0  # of a probe: the tunnel's MTU
    largest: int = 0  # octets of the largest inner packet that was answered, 0: not measured
    passage: str = ""  # whole, black-hole (small packets pass, those of the MTU vanish), "": not known


@dataclass(frozen=True, slots=True)
class HaPathStatus:
    """One way of the heartbeats."""

    local: str
    remote: str
    up: bool
    heard_at: float | None
    round_trip: float | None  # seconds
    loss: float  # of the last 64 datagrams, 0 to 1


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Shared addresses, and the copy of their SAs: of the standby's, whether it may be used; of the active's, how far it is behind."""

    addresses: tuple[str, ...]
    here: bool
    connected: bool
    connections: int  # in the copy, or copied from here
    epoch: int
    usable: bool  # the standby's copy, now
    heard_at: float | None
    behind: int  # records the other has not confirmed
    waiting: int  # effects that wait for that


@dataclass(frozen=True, slots=True)
class HaStatus:
    """The pair, as this gateway sees it."""

    peer_name: str
    peer_address: str
    peer_up: bool
    last_heartbeat_at: float | None
    round_trip: float | None  # seconds
    sent: int
    received: int
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> datagrams
    role: str = "init"  # init, standby, active, draining, fault
    level: str = "standby"  # of what is announced: standby, active, took-over
    epoch: int = 0  # the highest known
    acting_epoch: int = 0  # while active
    priority: int = 0
    health: int = 0
    reasons: tuple[str, ...] = ()  # what is wrong here
    verdict: str = ""  # why it would or would not take over now
    last_change: str = ""
    changed_at: float | None = None
    transitions: dict[str, int] = field(default_factory=dict)  # by the new role
    peer_role: str = ""
    peer_level: str = ""
    peer_epoch: int = 0
    peer_priority: int = 0
    peer_health: int = 0
    peer_reasons: tuple[str, ...] = ()
    peer_software: str = ""
    peer_config: str = ""  # same, differs; "" where nothing was said
    lease: str = "none"  # none (there is no witness), ours, other, free, unknown
    lease_holder: str = ""
    lease_remaining: float | None = None  # seconds
    witness: str = ""
    witness_problem: str = ""
    paths: tuple[HaPathStatus, ...] = ()
    epoch_announced: int = 0  # the highest in routes of others that nobody here knew of
    machine_leaves: bool = False  # the cloud announced its restart, move or end
    sent_away: tuple[str, ...] = ()  # connections whose peers are redirected to the other gateway
    replica: ReplicaStatus | None = None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One data plane thread. A worker that is not `idle` and whose `ticks` stand still is stuck."""

    worker: int
    ticks: int
    cpu_seconds: float
    idle: bool
    cpu: int | None = None  # where it is pinned to
    empty_polls: int = 0  # looks for work that found none (busy_poll_us)
    packets_in: int = 0
    packets_out: int = 0
    bursts_in: tuple[int, ...] = ()  # by size: up to 1, 2, 4, ... 128 packets, each burst counted once
    bursts_out: tuple[int, ...] = ()
    calls: dict[str, int] = field(default_factory=dict)  # system calls, by `observe.metrics.CALLS`
    fallbacks: dict[str, int] = field(default_factory=dict)  # packets a packet socket did not take: full, refused
    queue_octets: int = 0  # memory of what waits in its sockets
    queue_drops: int = 0  # datagrams dropped because too much waited there
    cycles: dict[str, int] = field(default_factory=dict)  # by stage; all 0 unless dataplane.count_cycles


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One of the last events, newest last."""

    at: float
    level: str  # info, warning, error
    event: str  # stable name, e.g. ike-established
    tunnel: str
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything; `now` on the same clock as every *_at."""

    name: str
    version: str
    now: float
    started_at: float
    taken_at: str  # RFC 3339, wall clock
    engine: str
    ready: bool
    tunnels: tuple[TunnelStatus, ...] = ()
    peers: tuple[PeerStatus, ...] = ()
    routes: tuple[RouteStatus, ...] = ()
    kernel_routes: dict[str, int] = field(default_factory=dict)  # see metrics.ROUTE_STATES
    exabgp: str = ""  # "", starting, running, down
    ha: HaStatus | None = None
    fabric: FabricStatus | None = None
    addresses: CloudAddresses | None = None  # the shared ones in the cloud
    liveness: tuple[LivenessStatus, ...] = ()
    probe_refused: dict[str, int] = field(default_factory=dict)  # reason -> packets that were of no session
    http_cut: dict[str, int] = field(default_factory=dict)  # why -> connections of the metrics listener that were ended
    workers: tuple[WorkerStatus, ...] = ()
    drops: dict[str, int] = field(default_factory=dict)  # without a connection
    ike_half_open: int = 0
    ike_rejected: dict[str, int] = field(default_factory=dict)
    journal: tuple[JournalEntry, ...] = ()
    problems: tuple[str, ...] = ()  # sentences about the host: ip_forward off, rp_filter strict, ...
    certificate_problems: tuple[str, ...] = ()  # sentences about what expired, or is about to

    def to_json(self) -> dict[str, Any]:
        """JSON-able, `schema` first; this is what control.py and the CLI speak."""
        return {"schema": SCHEMA, **asdict(self)}
