"""Post-quantum preshared keys (RFC 8784): a secret that no key exchange carries, mixed into what keys are derived from.

HDR, SAi1, KEi, Ni, N(USE_PPK)                                     -->
                              <--  HDR, SAr1, KEr, Nr, N(USE_PPK)
HDR, SK {IDi, AUTH, ..., N(PPK_IDENTITY), [N(NO_PPK_AUTH)]}        -->
                              <--  HDR, SK {IDr, AUTH, ..., N(PPK_IDENTITY)}

Who requires it never authenticates without; who does not falls back, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.ike.errors import PeerError, Violation
from gateway.ike.keymat import IkeKeys
from gateway.ike.message import Message
from gateway.ike.payloads import Notify
from gateway.ike.registry import NotifyType

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

FIXED = 2
"""RFC 8784 5.1: PPK_ID_FIXED, an identity both ends have configured."""


def capability(sa: IkeSa) -> tuple[Notify, ...]:
    """RFC 8784 3: for IKE_SA_INIT of who has one."""
    return (Notify(NotifyType.USE_PPK),) if sa.settings.ppk is not None else ()


def agreed(sa: IkeSa, message: Message) -> bool:
    """Whether both ends have one."""
    return sa.settings.ppk is not None and message.notify(NotifyType.USE_PPK) is not None


def missing(sa: IkeSa, message: Message) -> bool:
    """Whether the peer said nothing of one, and we do not go without."""
    return sa.settings.ppk is not None and sa.settings.ppk.required and message.notify(NotifyType.USE_PPK) is None


def mixed(sa: IkeSa) -> IkeKeys:
    """The keys of this IKE_SA with the PPK in them."""
    assert sa.keys is not None and sa.settings.ppk is not None
    return sa.keys.mixed(sa.settings.ppk.secret)


def identity(sa: IkeSa) -> Notify:
    """The initiator's: which PPK it means."""
    assert sa.settings.ppk is not None
    return Notify(NotifyType.PPK_IDENTITY, bytes((FIXED,)) + sa.settings.ppk.id)


def is_ours(sa: IkeSa, named: Notify | None) -> bool:
    """Whether the initiator named the PPK that we have."""
    return named is not None and sa.settings.ppk is not None and named.data == bytes((FIXED,)) + sa.settings.ppk.id


def go_without(sa: IkeSa, detail: str) -> None:
    """The peer has another one, or none any more. PeerError where it is required."""
    assert sa.settings.ppk is not None
    if sa.settings.ppk.required:
        raise PeerError(Violation.PPK, detail, NotifyType.AUTHENTICATION_FAILED)
    sa.ppk = False


def say_unused(sa: IkeSa) -> None:
    """A downgrade does not pass in silence."""
    if sa.settings.ppk is not None and not sa.ppk:
        sa.notice("warning", "ppk-not-used", "no post-quantum protection: the peer does not use our PPK")
