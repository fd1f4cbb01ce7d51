"""Lives of IKE_SAs, recorded datagram by datagram with the world as it was before each arrived, and what may happen to it then.

A `Moment` is copied, something else arrives in the datagram's place, and both ends go on from there. `keys` are what its sender
seals with, so that whoever writes the something may be a stranger, or the peer itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from support.ike_pair import Flight, Host, Pair, snapshot

from gateway.ike.commands import Command
from gateway.ike.errors import Violation
from gateway.ike.keymat import IkeKeys, open_fragment, open_message, sealed_prefix
from gateway.ike.message import Header, emit_chain
from gateway.ike.sa import IkeSa

SAS_MAX, CHILDREN_MAX, EFFECTS_MAX = 8, 64, 8
"""No single message may leave behind, or set off, more than this."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A datagram about to arrive, in a pair that has come so far; `keys` are its sender's."""

    pair: Pair
    flight: Flight
    keys: IkeKeys | None

    @property
    def receiver(self) -> Host:
        return self.flight.receiver

    @property
    def sealed(self) -> bool:
        message = self.flight.message
        return self.keys is not None and (message.encrypted is not None or message.fragment is not None)


def recording(pair: Pair, script: Sequence[tuple[str, Command]]) -> list[Moment]:
    """Every datagram of what comes of the commands ("left" or "right", what)."""
    moments = []
    for side, command in script:
        pair.run(90)
        (pair.left if side == "left" else pair.right).command(command)
        while pair.in_flight:
            flight = pair.in_flight[0]
            if flight.transmit is not None and flight.octets != b"\xff":
                moments.append(copied(Moment(pair, flight, senders_keys(flight))))
            pair.deliver()
    return moments


def senders_keys(flight: Flight) -> IkeKeys | None:
    """The sender may have forgotten them with the IKE_SA; the receiver's are the same ones, mirrored."""
    sa = receivers_sa(flight)
    if sa is None or sa.keys is None:
        return None
    keys = copy.deepcopy(sa.keys)
    keys.sealing, keys.opening = keys.opening, keys.sealing
    keys.sealing.sealed = keys.opening.sealed = 1 << 32  # no IV of the recording again
    return keys


def receivers_sa(flight: Flight) -> IkeSa | None:
    spi = flight.message.header.initiator_spi
    return next((sa for sa in flight.receiver.core._sas.values() if sa.initiator_spi == spi), None)


def copied(moment: Moment) -> Moment:
    """A world of its own. `services` and settings are shared as they are in the original."""
    return copy.deepcopy(moment)


def arrive(moment: Moment, octets: bytes) -> None:
    transmit = moment.flight.transmit
    assert transmit is not None
    moment.pair.in_flight.clear()
    moment.pair.receive(moment.receiver, octets, transmit.local, transmit.remote)


def resealed(
    moment: Moment, first: int, plaintext: bytes, head: Header | None = None, place: tuple[int, int] | None = None
) -> bytes:
    """The datagram of the moment with another plaintext, under the sender's own keys; with `place` as a fragment."""
    keys = copy.deepcopy(moment.keys)
    assert keys is not None
    head = head or moment.flight.message.header
    length = len(plaintext) + keys.sealing.overhead(len(plaintext))
    prefix = sealed_prefix(head, first, length, place)
    return prefix + keys.sealing.seal(prefix, plaintext, moment.receiver.random)


def plaintext_of(moment: Moment) -> tuple[int, bytes]:
    """The first payload's type and what is sealed; of a fragment, its piece."""
    sa, message = receivers_sa(moment.flight), moment.flight.message
    assert sa is not None and sa.keys is not None
    if message.fragment is not None:
        return message.fragment.first_inner, open_fragment(sa.keys, message, message.fragment)
    return emit_chain(open_message(sa.keys, message).payloads)


def held_to_contract(moment: Moment) -> None:
    """Bounds, and that what it does next is not absurd."""
    core = moment.receiver.core
    assert len(core._sas) - core.half_open <= SAS_MAX
    assert sum(len(sa.children) for sa in core._sas.values()) <= CHILDREN_MAX
    assert len(moment.pair.in_flight) <= EFFECTS_MAX
    assert len(core._tickets) <= SAS_MAX
    assert set(core.rejected) == {violation.value for violation in Violation}
    deadline = core.next_deadline()
    assert deadline is None or deadline > moment.pair.now


def carry_on(moment: Moment) -> None:
    """Whatever was believed, the next two minutes keep to the contract, and an end is an end."""
    moment.pair.run(2)
    moment.pair.silence(120)
    held_to_contract(moment)


def authenticated_state(host: Host) -> object:
    """All that was made with keys; half-open IKE_SAs of strangers come and go."""
    core = host.core
    established = {spi: sa for spi, sa in core._sas.items() if sa.state.name != "CONNECTING"}
    return _snapshot_of(established), dict(core._primary.items()).keys(), set(host.data_plane.inbound)


def _snapshot_of(sas: dict[int, IkeSa]) -> object:
    class Holder:
        pass

    holder = Holder()
    holder.sas = sas  # type: ignore[attr-defined]
    return snapshot(holder)  # type: ignore[arg-type]
