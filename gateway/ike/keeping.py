"""What of an established IKE_SA outlives this process, and the IKE_SA made of it by the next one.

    kept(sa) -> KeptIkeSa -> memory that survives -> resume(endpoint, settings, kept, now)

What is kept was true before the last datagram left, so message IDs and IVs go on where they stopped. A request that is under way
is sent again until it is answered, but what it was for is lost: a rekey begins anew, and what the peer made of it is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gateway.contract import Endpoint
from gateway.ike import resources
from gateway.ike.child import ChildSa, Lingering
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.exchanges.delete import DeleteChild
from gateway.ike.exchanges.liveness import Liveness
from gateway.ike.exchanges.mobike import CheckAddress, may_move
from gateway.ike.exchanges.recovered import DeleteUnknown, Recovered, undo
from gateway.ike.exchanges.rekey_ike import RekeyIke
from gateway.ike.keymat import IkeKeys, KeptKeys
from gateway.ike.nat import NatResult
from gateway.ike.payloads import TrafficSelector
from gateway.ike.proposal import Choice
from gateway.ike.registry import ExchangeType
from gateway.ike.sa import IkeSa
from gateway.ike.states import ChildInput, ChildState, IkeInput, Standing
from gateway.ike.synchronisation import Agreement
from gateway.ike.uniqueness import Origin
from gateway.ike.window import Request

if TYPE_CHECKING:
    from gateway.ike.endpoint import IkeEndpoint
    from gateway.ike.services import Services
    from gateway.ike.settings import ConnectionSettings


RENEW = (0.5, 3.0)
"""Seconds, at random, after which an IKE_SA rekeys CHILD_SAs of which nobody knows how far they were."""


@dataclass(frozen=True, slots=True)
class KeptChild:
    """A CHILD_SA without its keys, which the data plane has. `successor`: its inbound SPI, 0 for none."""

    name: str
    spi_in: int
    spi_out: int
    choice: Choice
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    installed_at: float
    rekey_at: float
    life_at: float
    planned_at: float
    replaced: bool
    active: bool
    left: bool
    proven: bool
    shared: bool
    left_out: int
    successor: int


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """Our request that is not answered yet."""

    message_id: int
    datagrams: tuple[bytes, ...] = field(repr=False)
    kind: int


@dataclass(frozen=True, slots=True)
class KeptIkeSa:
    """All times on the cores' clock, which goes on as long as the machine does."""

    is_initiator: bool
    initiator_spi: int
    responder_spi: int
    local: Endpoint
    remote: Endpoint
    traffic_remote: Endpoint | None
    nat: tuple[bool, bool, bool]
    fragments: bool
    ppk: bool
    childless: bool
    mobike: bool
    redirectable: bool
    peer_token: bytes = field(repr=False)
    agreement: tuple[bool, bool, int]
    standing: str
    origin: tuple[int, bool, float]
    keys: KeptKeys = field(repr=False)
    created_at: float
    established_at: float
    rekey_at: float | None
    planned_at: float
    reauth_at: float | None
    next_request: int
    expected: int
    cached_id: int
    cached_response: tuple[bytes, ...] | None = field(repr=False)
    pending: KeptRequest | None
    makes: tuple[int, ...]
    """Our SPIs of CHILD_SAs that an exchange of ours is about to make, or that one of a process before was."""
    rekeying: bool
    """An exchange of ours is about to make another IKE_SA."""
    children: tuple[KeptChild, ...]
    lingering: tuple[tuple[str, int, float], ...]
    asked_at: float | None = None


def kept(sa: IkeSa) -> KeptIkeSa | None:
    """None for one that is not established: its peer is none the worse for a new beginning."""
    if not sa.established or sa.quiet or sa.keys is None or sa.established_at is None:
        return None
    window = sa.window
    return KeptIkeSa(
        is_initiator=sa.is_initiator,
        initiator_spi=sa.initiator_spi,
        responder_spi=sa.responder_spi,
        local=sa.local,
        remote=sa.remote,
        traffic_remote=sa.traffic_remote,
        nat=(sa.nat.supported, sa.nat.local, sa.nat.remote),
        fragments=sa.fragments,
        ppk=sa.ppk,
        childless=sa.childless,
        mobike=sa.mobike,
        redirectable=sa.redirectable,
        peer_token=sa.peer_token,
        agreement=(sa.agreement.message_ids, sa.agreement.counters, sa.agreement.highest),
        standing=sa.standing.name,
        origin=(sa.origin.initiator_spi, sa.origin.is_initiator, sa.origin.established_at),
        keys=sa.keys.kept(),
        created_at=sa.created_at,
        established_at=sa.established_at,
        # While our rekey is under way there is no time for it
        rekey_at=sa.rekey_at if sa.rekey_at is not None else sa.planned_at,
        planned_at=sa.planned_at,
        # What is refused now is asked for again by the next process
        reauth_at=sa.reauth_at if sa.renewal.wanted_at is None else sa.renewal.planned,
        next_request=window.next_request,
        expected=window.expected,
        cached_id=window.cached_id,
        cached_response=window.cached_response,
        pending=_pending(sa),
        makes=_makes(sa),
        rekeying=isinstance(sa.exchange, RekeyIke) or (isinstance(sa.exchange, Recovered) and sa.exchange.ike),
        children=tuple(_kept_child(child) for child in sa.children.values() if child.state is not ChildState.DELETING),
        lingering=tuple((one.child, one.spi_in, one.at) for one in sa.lingering),
        asked_at=sa.renewal.asked_at,
    )


def shifted(kept: KeptIkeSa, by: float) -> KeptIkeSa:
    """The same on a clock that is `by` seconds ahead: another machine's."""
    spi, is_initiator, since = kept.origin
    return replace(
        kept,
        origin=(spi, is_initiator, since + by),
        created_at=kept.created_at + by,
        established_at=kept.established_at + by,
        rekey_at=None if kept.rekey_at is None else kept.rekey_at + by,
        planned_at=kept.planned_at + by,
        reauth_at=None if kept.reauth_at is None else kept.reauth_at + by,
        asked_at=None if kept.asked_at is None else kept.asked_at + by,
        children=tuple(
            replace(
                one,
                installed_at=one.installed_at + by,
                rekey_at=one.rekey_at + by,
                life_at=one.life_at + by,
                planned_at=one.planned_at + by,
            )
            for one in kept.children
        ),
        lingering=tuple((name, spi_in, at + by) for name, spi_in, at in kept.lingering),
    )


def _pending(sa: IkeSa) -> KeptRequest | None:
    request = sa.window.pending
    if request is None or request.outside:
        return None
    return KeptRequest(request.message_id, request.datagrams, int(request.content[0]))


def _makes(sa: IkeSa) -> tuple[int, ...]:
    found: list[int] = []
    for exchange in (sa.exchange, *sa.queue):
        match exchange:
            case CreateChild(offer=offer) if offer is not None:
                found.append(offer.spi_in)
            case Recovered(makes=makes):
                found += makes
            case DeleteUnknown(spi_in=spi_in):
                found.append(spi_in)
    return tuple(found)


def _kept_child(child: ChildSa) -> KeptChild:
    return KeptChild(
        name=child.name,
        spi_in=child.spi_in,
        spi_out=child.spi_out,
        choice=child.choice,
        local_ts=child.local_ts,
        remote_ts=child.remote_ts,
        installed_at=child.installed_at,
        rekey_at=child.rekey_at,
        life_at=child.life_at,
        planned_at=child.planned_at,
        replaced=child.state is ChildState.REKEYED,
        active=child.active,
        left=child.left,
        proven=child.proven,
        shared=child.shared,
        left_out=child.left_out,
        successor=child.successor.spi_in if child.successor is not None else 0,
    )


def resume(endpoint: IkeEndpoint, settings: ConnectionSettings, kept: KeptIkeSa, now: float, *, renew: bool) -> None:
    """From now on it is one of the endpoint's; what carried traffic is activated again. `renew`: every CHILD_SA is rekeyed soon."""
    sa = _resumed(endpoint, settings, kept, now)
    endpoint.adopt(sa)
    endpoint.rekeys_are_tried(settings)
    endpoint.proven(sa, now)
    resources.resumed(sa, now)
    if kept.pending is None:
        # Answered, but the process ended over its public-key work
        undo(sa, kept.makes, kept.rekeying, now)
    for child in list(sa.children.values()):
        if child.state is ChildState.REKEYED:
            sa.enqueue(DeleteChild(child), now)
        elif renew:
            # What was received since it was last kept might be played to us again
            child.rekey_at = min(child.rekey_at, now + endpoint.random.uniform(*RENEW))
    # RFC 4555: what either was to ask or to say is lost with the process before
    if sa.traffic_remote is not None:
        sa.enqueue(CheckAddress(), now)
    if may_move(sa):
        sa.enqueue(Liveness(), now)


def _resumed(services: Services, settings: ConnectionSettings, kept: KeptIkeSa, now: float) -> IkeSa:
    """The same IKE_SA, as far as the peer can tell. Its CHILD_SAs of names that `settings` has."""
    sa = IkeSa(
        services, settings, is_initiator=kept.is_initiator, initiator_spi=kept.initiator_spi,
        responder_spi=kept.responder_spi, local=kept.local, remote=kept.remote, now=now,
    )  # fmt: skip
    sa.advance(IkeInput.AUTHENTICATED)
    sa.keys = IkeKeys.resumed(kept.keys)
    sa.standing = Standing[kept.standing]
    sa.nat, sa.fragments, sa.ppk, sa.childless = NatResult(*kept.nat), kept.fragments, kept.ppk, kept.childless
    sa.mobike, sa.redirectable, sa.peer_token = kept.mobike, kept.redirectable, kept.peer_token
    sa.traffic_remote = kept.traffic_remote
    sa.agreement, sa.origin = Agreement(*kept.agreement), Origin(*kept.origin)
    sa.created_at, sa.established_at = kept.created_at, kept.established_at
    sa.rekey_at, sa.planned_at, sa.reauth_at = kept.rekey_at, kept.planned_at, kept.reauth_at
    sa.renewal.asked_at = kept.asked_at
    sa.unproven_lines = None
    _resume_children(sa, kept, now)
    _resume_window(sa, kept, now)
    return sa


def _resume_children(sa: IkeSa, kept: KeptIkeSa, now: float) -> None:
    for one in kept.children:
        settings = sa.settings.child(one.name)
        if settings is None:
            continue
        child = ChildSa(
            settings, one.spi_in, one.spi_out, one.choice, one.local_ts, one.remote_ts,
            one.installed_at, one.rekey_at, one.life_at,
            active=one.active and not one.left, left=one.left, proven=one.proven, shared=one.shared,
            left_out=one.left_out, planned_at=one.planned_at,
        )  # fmt: skip
        child.advance(ChildInput.INSTALL)
        if one.replaced:
            child.advance(ChildInput.REPLACED)
        elif one.rekey_at == one.life_at:
            # Its rekey was under way or in the queue
            child.rekey_at = now + sa.services.random.uniform(*RENEW)
        sa.children[one.spi_in] = child
    for one in kept.children:
        if one.spi_in in sa.children:
            sa.children[one.spi_in].successor = sa.children.get(one.successor)
    sa.lingering = [Lingering(*one) for one in kept.lingering]


def _resume_window(sa: IkeSa, kept: KeptIkeSa, now: float) -> None:
    window, pending = sa.window, kept.pending
    window.next_request, window.expected = kept.next_request, kept.expected
    window.cached_id, window.cached_response = kept.cached_id, kept.cached_response
    if pending is not None:
        kind = ExchangeType(pending.kind)
        sa.exchange = Recovered(kind, kept.makes, kept.rekeying)
        # Due at once: its first answer may have come while nobody was there
        window.pending = Request(pending.message_id, pending.datagrams, now, (kind, ()))
