"""What IKE_AUTH and CREATE_CHILD_SA share: offering, choosing and installing a CHILD_SA (RFC 7296 2.7, 2.9, 2.17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.ike import proposal, traffic_selector
from gateway.ike.child import PROOF_PATIENCE, ChildSa
from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.events import ChildInstall
from gateway.ike.exchanges.followup import Secrets
from gateway.ike.message import Message
from gateway.ike.payloads import (
    Payload,
    Proposal,
    SecurityAssociation,
    TrafficSelector,
    TrafficSelectorsInitiator,
    TrafficSelectorsResponder,
)
from gateway.ike.proposal import Choice, choice_of
from gateway.ike.registry import ExchangeType, NotifyType, Protocol
from gateway.ike.settings import ChildSettings
from gateway.ike.states import ChildInput

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa


@dataclass(frozen=True, slots=True)
class ChildOffer:
    """What we proposed, to hold the answer against."""

    settings: ChildSettings
    spi_in: int
    sa: SecurityAssociation

    @property
    def payloads(self) -> tuple[Payload, Payload]:
        """TSi, TSr."""
        return TrafficSelectorsInitiator(self.settings.local_ts), TrafficSelectorsResponder(self.settings.remote_ts)


@dataclass(frozen=True, slots=True)
class ChildTerms:
    """What both sides agreed on, before the keys."""

    settings: ChildSettings
    proposal: Proposal
    spi_in: int
    spi_out: int
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]

    @property
    def choice(self) -> Choice:
        return choice_of(self.proposal)


def context(settings: ChildSettings) -> dict[str, str]:
    """What explain.py shows of our side."""
    return {
        "ours": "; ".join(str(offer.numbered(1, b"")) for offer in settings.offers),
        "local_ts": traffic_selector.describe_all(settings.local_ts),
        "remote_ts": traffic_selector.describe_all(settings.remote_ts),
    }


def offer(sa: IkeSa, settings: ChildSettings, with_key_exchange: bool) -> ChildOffer:
    """Our proposals with a fresh SPI; in IKE_AUTH without KE transforms (RFC 7296 1.2)."""
    spi_in = sa.services.new_child_spi(settings)
    offers = settings.offers if with_key_exchange else distinct_without_ke(settings)
    return ChildOffer(settings, spi_in, proposal.payload(offers, spi_in.to_bytes(4, "big")))


def distinct_without_ke(settings: ChildSettings) -> tuple[proposal.Offer, ...]:
    return tuple(dict.fromkeys(one.without_key_exchange() for one in settings.offers))


def _selectors(message: Message) -> tuple[tuple[TrafficSelector, ...], tuple[TrafficSelector, ...]]:
    initiator, responder = message.first(TrafficSelectorsInitiator), message.first(TrafficSelectorsResponder)
    if not isinstance(initiator, TrafficSelectorsInitiator) or not isinstance(responder, TrafficSelectorsResponder):
        raise PeerError(Violation.GRAMMAR, "CHILD_SA without traffic selectors", NotifyType.INVALID_SYNTAX)
    return initiator.selectors, responder.selectors


def accept(sa: IkeSa, made: ChildOffer, message: Message) -> ChildTerms:
    """The initiator's side: the answer must lie inside the offer."""
    answer = message.first(SecurityAssociation)
    if not isinstance(answer, SecurityAssociation):
        raise PeerError(Violation.GRAMMAR, "CHILD_SA answer without SA", NotifyType.INVALID_SYNTAX)
    chosen = proposal.accept(made.sa, answer)
    initiator, responder = _selectors(message)
    local = traffic_selector.check_narrowed(made.settings.local_ts, initiator)
    remote = traffic_selector.check_narrowed(made.settings.remote_ts, responder)
    return ChildTerms(made.settings, chosen, made.spi_in, _spi_out(sa, chosen), local, remote)


def _spi_out(sa: IkeSa, chosen: Proposal) -> int:
    """RFC 4303 2.1: 0 to 255 are no SPIs of SAs, and one SPI names one SA."""
    spi = int.from_bytes(chosen.spi, "big")
    if spi <= 255 or spi_is_taken(sa, spi):
        raise PeerError(Violation.NO_PROPOSAL, f"SPI {spi:08x}", NotifyType.NO_PROPOSAL_CHOSEN)
    return spi


def spi_is_taken(sa: IkeSa, spi: int) -> bool:
    """Whether an SA of this connection sends by that SPI, on whichever IKE_SA it was made."""
    return any(one.child_by_spi_out(spi) is not None for one in sa.services.sas(sa.name))


def choose(sa: IkeSa, candidates: tuple[ChildSettings, ...], message: Message, method: int | None) -> ChildTerms:
    """The responder's side: the first configured child whose selectors and suite fit. `method` is KEi's, if any."""
    received = message.first(SecurityAssociation)
    if not isinstance(received, SecurityAssociation):
        raise PeerError(Violation.GRAMMAR, "CHILD_SA request without SA", NotifyType.INVALID_SYNTAX)
    initiator, responder = _selectors(message)
    failure: PeerError | None = None
    for settings in candidates:
        try:
            remote = traffic_selector.narrow(initiator, settings.remote_ts)
            local = traffic_selector.narrow(responder, settings.local_ts)
            offers = (
                settings.offers
                if message.header.exchange == ExchangeType.CREATE_CHILD_SA
                else distinct_without_ke(settings)
            )
            chosen = proposal.select(offers, received, Protocol.ESP, method)
        except PeerError as error:
            failure = failure or error
            continue
        spi_out = _spi_out(sa, chosen)
        return ChildTerms(settings, chosen, sa.services.new_child_spi(settings), spi_out, local, remote)
    raise failure or PeerError(Violation.TRAFFIC_SELECTORS, "no CHILD_SA is configured", NotifyType.TS_UNACCEPTABLE)


def answer_payloads(terms: ChildTerms) -> tuple[Payload, Payload, Payload]:
    """SAr2, TSi, TSr of a responder: TSi is the peer's side."""
    reply = Proposal(
        terms.proposal.number, terms.proposal.protocol, terms.spi_in.to_bytes(4, "big"), terms.proposal.transforms
    )
    return (
        SecurityAssociation((reply,)),
        TrafficSelectorsInitiator(terms.remote_ts),
        TrafficSelectorsResponder(terms.local_ts),
    )


def install(
    sa: IkeSa, terms: ChildTerms, secrets: Secrets, nonces: tuple[bytes, bytes], we_initiated: bool, now: float
) -> ChildSa:
    """Derives KEYMAT and hands both directions to the data plane. Nothing is sent on it yet: see `IkeSa.activate`."""
    if sa.keys is None:
        raise LocalError("a CHILD_SA before there are keys")
    keys = sa.keys.child(terms.choice, secrets[0], *nonces, b"".join(secrets[1:]))
    first = (keys.initiator_encryption, keys.initiator_integrity)
    second = (keys.responder_encryption, keys.responder_integrity)
    outbound, inbound = (first, second) if we_initiated else (second, first)
    settings = terms.settings
    planned = sa.jittered(now, settings.rekey_time)
    child = ChildSa(
        settings=settings,
        spi_in=terms.spi_in,
        spi_out=terms.spi_out,
        choice=terms.choice,
        local_ts=terms.local_ts,
        remote_ts=terms.remote_ts,
        installed_at=now,
        rekey_at=planned,
        planned_at=planned,
        life_at=now + settings.life_time,
        proven=we_initiated,
    )
    child.advance(ChildInput.INSTALL)
    sa.children[child.spi_in] = child
    sa.services.emit(
        ChildInstall(
            sa.name, settings.group, child.spi_in, child.spi_out, child.choice, *inbound, *outbound,
            child.local_ts, child.remote_ts, sa.local, sa.traffic_remote or sa.remote, sa.encapsulate, settings.resource,
        )
    )  # fmt: skip
    return child


def install_deferred(
    sa: IkeSa, terms: ChildTerms, secrets: Secrets, nonces: tuple[bytes, bytes], old: ChildSa, now: float
) -> ChildSa:
    """A rekey's responder: the peer must install first. We send on the new SA when it deletes the old one or sends on the new;
    one that does neither is looked after by timers.py."""
    child = install(sa, terms, secrets, nonces, False, now)
    old.successor = child
    old.rekey_at = now + PROOF_PATIENCE
    return child
