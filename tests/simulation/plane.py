"""The reference data plane with packets that cost nothing: what is sealed carries a checksum over its key instead of an ICV.

    SPI | sequence number | IV | inner packet | CRC-32 (key, all before)

Everything else is `ReferenceDataPlane`: SAs, policies, replay windows, limits, whom an SA follows. Not a cipher; a wrong
key, a wrong SA and a damaged octet are refused as they are by the real one. Inner packets are the probes of
world.py: IPv4, and whoever has the same addresses has the same selectors.
"""

from __future__ import annotations

from zlib import crc32

from gateway.contract import Endpoint, RandomSource
from gateway.esp.dataplane import Direction, SaParameters
from gateway.esp.packet import Drop
from gateway.esp.reference import KEEPALIVE, NON_ESP_MARKER, Datagram, ReferenceDataPlane, _Sa
from gateway.esp.spd import parse_flow

BEFORE = 16
"""Octets of SPI, sequence number and IV."""
CHECKSUM = 4
ADDRESSES = slice(12, 20)


class LightDataPlane(ReferenceDataPlane):
    """For schedules by the thousand."""

    def __init__(self, random: RandomSource) -> None:
        super().__init__(random)
        self._inbound: dict[int, _Sa] = {}
        # Which SA carries packets between two addresses, until an SA or a policy changes
        self._chosen: dict[tuple[int, bytes, int], _Sa] = {}
        # (SPI, addresses) that lie inside the inbound SA's selectors
        self._admitted: set[tuple[int, bytes]] = set()

    def outbound(self, connection: int, packet: bytes, now: float, worker: int = 0) -> list[Datagram]:
        sa = self._chosen.get((connection, packet[ADDRESSES], worker))
        if sa is None:
            flow = parse_flow(packet)
            sa = self._choose(connection, flow, worker) if flow is not None else None
            if sa is None:
                return super().outbound(connection, packet, now, worker)
            self._chosen[connection, packet[ADDRESSES], worker] = sa
        if sa.parameters.fenced and now >= self._fence:
            return self._dropped(connection, Drop.NOT_ACTIVE)
        if sa.sequence >= sa.sequence_limit:
            return self._dropped(connection, Drop.SEQUENCE_EXHAUSTED)
        if not self._account(sa, len(packet)):
            return self._dropped(connection, Drop.HARD_LIMIT)
        sa.sequence += 1
        sa.last_used = now
        number = sa.sequence
        body = b"".join(
            (sa.parameters.spi.to_bytes(4, "big"), number.to_bytes(8, "big")[4:], number.to_bytes(8, "big"), packet)
        )
        datagram = body + crc32(body, crc32(sa.parameters.encryption_key)).to_bytes(CHECKSUM, "big")
        if sa.parameters.encapsulate:
            return [(datagram, sa.parameters.local, sa.remote)]
        return [(datagram, Endpoint(sa.parameters.local.host, 0), Endpoint(sa.remote.host, 0))]

    def inbound(self, datagram: bytes, local: Endpoint, remote: Endpoint, now: float) -> list[tuple[int, bytes]]:
        sa = self._inbound_sa(int.from_bytes(datagram[:4], "big"))
        if sa is None or datagram == KEEPALIVE or datagram.startswith(NON_ESP_MARKER) or len(datagram) < BEFORE:
            return super().inbound(datagram, local, remote, now)
        refusal = self._refusal(sa, datagram, remote, now)
        if refusal is not None:
            return self._refused(sa.parameters.connection, refusal)
        return [(sa.parameters.connection, datagram[BEFORE:-CHECKSUM])]

    def _refusal(self, sa: _Sa, datagram: bytes, remote: Endpoint, now: float) -> Drop | None:
        """The steps of `ReferenceDataPlane._open`, in their order."""
        sequence = sa.window.infer(int.from_bytes(datagram[4:8], "big"))
        if sa.hard_reached:
            return Drop.HARD_LIMIT
        if not sa.window.check(sequence):
            sa.replay_drops += 1
            return Drop.REPLAY
        body, checksum = datagram[:-CHECKSUM], datagram[-CHECKSUM:]
        if crc32(body, crc32(sa.parameters.encryption_key)).to_bytes(CHECKSUM, "big") != checksum:
            self._integrity_failure(sa, now)
            return Drop.INTEGRITY
        newest = sequence > sa.window.top
        sa.window.accept(sequence)
        if newest:
            self._follow(sa, remote)
        if not self._account(sa, len(body) - BEFORE):
            return Drop.HARD_LIMIT
        sa.last_used = now
        return None if self._admits(sa, body[BEFORE:]) else Drop.SELECTOR

    def _admits(self, sa: _Sa, packet: bytes) -> bool:
        key = (sa.parameters.spi, packet[ADDRESSES])
        if key in self._admitted:
            return True
        flow = parse_flow(packet)
        if flow is None or not sa.carries(flow):
            sa.selector_drops += 1
            return False
        self._admitted.add(key)
        return True

    # --- what makes the memory of choices stale -----------------------------------------------------------------

    def add_connection(self, connection: int, name: str, mtu: int) -> None:
        super().add_connection(connection, name, mtu)
        self._forget()

    def remove_connection(self, connection: int) -> None:
        super().remove_connection(connection)
        self._forget()

    def add_sa(self, sa: SaParameters) -> None:
        super().add_sa(sa)
        self._forget()

    def remove_sa(self, direction: Direction, connection: int, spi: int) -> None:
        super().remove_sa(direction, connection, spi)
        self._forget()

    def replace_policies(self, connection: int, spis: tuple[int, ...]) -> None:
        super().replace_policies(connection, spis)
        self._forget()

    def _forget(self) -> None:
        self._chosen = {}
        self._admitted = set()
        self._inbound = {key[2]: sa for key, sa in self._sas.items() if key[0] is Direction.INBOUND}

    def _inbound_sa(self, spi: int) -> _Sa | None:
        return self._inbound.get(spi)
