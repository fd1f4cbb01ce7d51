"""The shared addresses in the cloud as the snapshot has them: plain values of the core's picture, samples for the metrics, sentences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.ha.address_interface import WORDS
from gateway.ha.address_values import AddressFabricView, InterfaceView, Place

PLACES = tuple(place.value for place in Place)
_NOT_HERE = {place.value: words for place, words in WORDS.items() if place is not Place.OURS}


@dataclass(frozen=True, slots=True)
class CloudAddressStatus:
    """A shared address, and where the cloud has it."""

    address: str
    place: str  # ours, peer, absent, foreign, fixed (an interface's own first address), unknown (nothing was read yet)
    interface: str  # the cloud's name of where it is
    public: str  # the public address that goes along, or the cloud's name of it
    error: str  # why it could not be moved


@dataclass(frozen=True, slots=True)
class CloudInterfaceStatus:
    """One network interface of ours, and the other gateway's."""

    name: str
    ours: str  # the cloud's names of them
    theirs: str
    addresses: tuple[CloudAddressStatus, ...]
    planned: tuple[str, ...]  # calls that would bring the addresses here
    read_at: float | None
    last_call: str
    last_call_at: float | None
    last_error: str  # of the last call, also of one that is being repeated
    trouble: str  # one sentence: what lasts, and what to do
    remarks: tuple[str, ...]  # sentences about what was seen on the way
    drift: int  # addresses that somebody took, since the start
    calls: int
    failures: int
    settled: bool  # we are active, and the cloud has every address here
    move_seconds: float | None  # of the last move to us


@dataclass(frozen=True, slots=True)
class CloudAddresses:
    """All of them."""

    active: bool
    epoch: int
    dry_run: bool
    interfaces: tuple[CloudInterfaceStatus, ...]


def cloud_addresses(view: AddressFabricView) -> CloudAddresses:
    """The core's picture without its types."""
    return CloudAddresses(view.active, view.epoch, view.dry_run, tuple(map(_interface, view.interfaces)))


def hindrances(status: CloudAddresses) -> Iterator[str]:
    """Sentences for people who look at the gateway, not at the cloud: it must not seem to have an address that the cloud has elsewhere."""
    for interface in status.interfaces:
        if interface.trouble:
            away = [one for one in interface.addresses if one.place in _NOT_HERE]
            yield f"shared addresses at {interface.name}: {_claim(away) if status.active else ''}{interface.trouble}"
        yield from (f"shared addresses at {interface.name}: {remark}" for remark in interface.remarks)


def place_samples(status: CloudAddresses | None) -> Iterator[tuple[tuple[str, ...], float]]:
    """(interface, address, place) -> 1 at exactly one place."""
    for interface in status.interfaces if status is not None else ():
        for one in interface.addresses:
            for place in PLACES:
                yield (interface.name, one.address, place), one.place == place


def call_samples(status: CloudAddresses | None) -> Iterator[tuple[tuple[str, ...], float]]:
    """(interface, result) -> calls."""
    for interface in status.interfaces if status is not None else ():
        yield (interface.name, "begun"), interface.calls
        yield (interface.name, "failed"), interface.failures


def _claim(away: list[CloudAddressStatus]) -> str:
    if not away:
        return ""
    return f"this gateway is active, and for the cloud {away[0].address} {_NOT_HERE[away[0].place]}: "


def _interface(view: InterfaceView) -> CloudInterfaceStatus:
    return CloudInterfaceStatus(
        name=view.name,
        ours=view.ours,
        theirs=view.theirs,
        addresses=tuple(
            CloudAddressStatus(one.address, one.place.value, one.interface, one.public, one.error)
            for one in view.addresses
        ),
        planned=view.planned,
        read_at=view.read_at,
        last_call=view.last_call,
        last_call_at=view.last_call_at,
        last_error=view.last_error,
        trouble=view.trouble,
        remarks=view.remarks,
        drift=view.drift,
        calls=view.calls,
        failures=view.failures,
        settled=view.settled,
        move_seconds=view.move_seconds,
    )
