"""Per-resource CHILD_SAs (RFC 9611): beside a CHILD_SA more of the same, each sent on by one worker of the data plane alone.

    the common one:  SA, ..., N(SA_RESOURCE_INFO)   -->   and with it back: the peer takes more of them
    each other one:  SA, ..., N(SA_RESOURCE_INFO, "n")  -->  with it back, or N(TS_MAX_QUEUE): no more

A worker without one of its own sends on the common one, so none of these is ever missed. To the rest of this core each is a
CHILD_SA of another name (`ChildSettings.members`), of which one is usable at a time. Whoever is the IKE_SA's initiator asks; what
the other side gave up or refused is not asked for again before RETRY. The peer's numbers are its own (RFC 9611 3): a new one takes our
first free place, and a rekey keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.ike.errors import PeerError, Violation
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import NotifyType
from gateway.ike.settings import ChildSettings, ConnectionSettings

if TYPE_CHECKING:
    from gateway.ike.child import ChildSa
    from gateway.ike.exchanges.child_negotiation import ChildTerms
    from gateway.ike.sa import IkeSa

ASK = 0.5
"""Seconds until the others are asked for, once the common one stands."""
RETRY = 3600.0
"""Seconds until what was refused, or deleted by the peer, is asked for again."""
BUSY = 5.0
"""Seconds until what could not be at that moment is asked for again."""
ELSEWHERE = 30.0
"""Seconds between two looks of an IKE_SA that does not carry the connection."""


def info(settings: ChildSettings) -> tuple[Notify, ...]:
    """What goes with an offer or an answer for such a CHILD_SA (RFC 9611 3, 5.1)."""
    if settings.resource is not None:
        return (Notify(NotifyType.SA_RESOURCE_INFO, str(settings.resource).encode()),)
    return (Notify(NotifyType.SA_RESOURCE_INFO),) if settings.resources else ()


def answer(settings: ChildSettings, message: Message) -> tuple[Notify, ...]:
    return info(settings) if told(message) else ()


def told(message: Message) -> bool:
    return message.notify(NotifyType.SA_RESOURCE_INFO) is not None


def stands(sa: IkeSa, child: ChildSa, agreed: bool, now: float, old: ChildSa | None = None) -> None:
    """A CHILD_SA is made, and both ends said that there may be more of it, or they did not. `old`: which it replaces; what was
    said of that one holds on (RFC 9611 3: in a rekey it need not be said)."""
    settings, before = child.settings, old is not None and old.shared
    child.shared = (agreed or before) and settings.resource is None and settings.resources > 0
    if child.shared and not before:
        _plan(sa, now + ASK)


def changed(sa: IkeSa, before: ConnectionSettings, now: float) -> None:
    """A reload."""
    if [one.resources for one in before.children] != [one.resources for one in sa.settings.children]:
        _plan(sa, now + ASK)


def resumed(sa: IkeSa, now: float) -> None:
    """By another process: some may have been on their way."""
    if any(child.shared for child in sa.children.values()):
        _plan(sa, now + ASK)


def ask(sa: IkeSa, now: float) -> list[ChildSettings]:
    """What to ask for now; when the next look is, is in the IKE_SA."""
    sa.resources_at = None
    if not sa.is_initiator or sa.close_at is not None:
        return []
    missing = list(_missing(sa))
    if missing and sa.services.primary(sa.name) is not sa:
        sa.resources_at = now + ELSEWHERE
        return []
    return missing


def wanted(sa: IkeSa, settings: ChildSettings) -> bool:
    """Whether this one may still be asked for."""
    common = sa.usable_child(settings.group)
    return sa.is_initiator and common is not None and common.shared and sa.usable_child(settings.name) is None


def as_common(sa: IkeSa, settings: ChildSettings) -> ChildSettings:
    """RFC 9611 3: what is asked for has the traffic selectors of the common one."""
    common = sa.usable_child(settings.group)
    return settings if common is None else replace(settings, local_ts=common.local_ts, remote_ts=common.remote_ts)


def place(sa: IkeSa, terms: ChildTerms, taken: frozenset[str]) -> ChildTerms:
    """Ours for one that the peer asks for. `taken`: those that we ask for ourselves."""
    common = sa.usable_child(terms.settings.name)
    if common is None:
        return terms
    free = (one for one in terms.settings.members() if one.name not in taken and sa.usable_child(one.name) is None)
    member = next(free, None)
    if member is None:
        # RFC 9611 5.2
        raise PeerError(Violation.TOO_MANY_SAS, f"more than {terms.settings.resources}", NotifyType.TS_MAX_QUEUE)
    if not alike(common, terms):
        raise PeerError(Violation.NO_PROPOSAL, "not as the common CHILD_SA", NotifyType.NO_PROPOSAL_CHOSEN)
    return replace(terms, settings=member, spi_in=sa.services.new_child_spi(member))


def alike(common: ChildSa, terms: ChildTerms) -> bool:
    """RFC 9611 3: the same algorithms and traffic selectors; a key exchange is a matter of the one exchange."""
    suites = [replace(one, key_exchange=0, additional=()) for one in (common.choice, terms.choice)]
    selectors = [(set(one.local_ts), set(one.remote_ts)) for one in (common, terms)]
    return suites[0] == suites[1] and selectors[0] == selectors[1]


def refused(sa: IkeSa, settings: ChildSettings, reason: str, now: float, *, for_now: bool = False) -> None:
    """The peer does not make this one: neither are the others asked for, for a while."""
    if not for_now:
        text = f"no further CHILD_SA {settings.group} for one worker alone: {reason}"
        sa.notice("info", "child-resource-refused", text)
    sa.resources_at = now + (BUSY if for_now else RETRY)


def lost(sa: IkeSa, child: ChildSa, now: float) -> None:
    """RFC 9611 3: the peer may delete those that it has no use for."""
    if child.settings.resource is not None and sa.is_initiator and sa.resources_at is None:
        sa.resources_at = now + RETRY


def handed_over(old: IkeSa, new: IkeSa, now: float) -> float | None:
    """The initiator of the new IKE_SA asks from now on; who was it before knows whether there is anything to ask for."""
    if not new.is_initiator:
        return None
    return old.resources_at if old.is_initiator else now + ASK


def _missing(sa: IkeSa) -> Iterator[ChildSettings]:
    for settings in sa.settings.children:
        yield from (one for one in settings.members() if wanted(sa, one))


def _plan(sa: IkeSa, at: float) -> None:
    if sa.is_initiator:
        sa.resources_at = at if sa.resources_at is None else min(sa.resources_at, at)
