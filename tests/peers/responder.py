"""The other end of a tunnel, as a process: a policy table (azure.py, aws.py) over the IKE core and the ESP of the oracle.

    UDP 500, 4500 -> IkeEndpoint -> SAs -> ReferenceDataPlane <-> TUN `cloud0`
    UNIX socket   -> one JSON request a connection: rekey, forget, misbehave, status

It is not a second IKEv2: messages and keys are made by gateway/ike, which other peers' tests hold to the RFCs. What is
emulated is the policy: what is chosen, offered, refused and forgotten, and when. What the core leaves no choice in is
rebound in this process alone (`speak_as`).
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers import aws, azure
from peers.policy import Policy

from gateway.contract import Compute, Endpoint, Transmit
from gateway.esp.dataplane import Direction, Limits
from gateway.esp.reference import ReferenceDataPlane
from gateway.ike import authentication, proposal
from gateway.ike.child import ChildSa
from gateway.ike.commands import Configure, Initiate, Terminate, TrafficSeen
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.errors import PeerError
from gateway.ike.events import ChildActivate, ChildInstall, ChildMoved, ChildRemove, IkeDown, IkeUp, Notice
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.exchanges.rekey_ike import RekeyIke
from gateway.ike.exchanges.synchronise import Synchronise
from gateway.ike.key_exchange import Libcrypto
from gateway.ike.message import Header, emit_message
from gateway.ike.payloads import Notify, VendorId
from gateway.ike.registry import ExchangeType, Flags, KeyExchangeId, NotifyType
from gateway.ike.sa import NON_ESP_MARKER, IkeSa
from gateway.ike.settings import ChildSettings, ConnectionSettings
from gateway.ike.states import ChildInput
from gateway.ike.traffic_selector import from_range
from gateway.node.security_associations import parameters
from gateway.node.settings import identity
from gateway.runtime.randomness import SystemRandom

POLICIES = {one.name: one for one in (azure.DEFAULT, azure.CUSTOM, azure.WEAKER_AT_REKEY, aws.DEFAULT, aws.RESTRICTED)}
NAME, CHILD, DEVICE = "customer", "vpn", "cloud0"
NUMBER = 1
MTU = 1400
NEVER = 1e7
"""Rekeys and ends by time are what a test asks for."""
IKE, NATT = 500, 4500
LONGEST = 65535
_ANY = from_range(bytes(4), b"\xff" * 4)
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def speak_as(policy: Policy) -> None:
    """Rebinds what a peer of this kind does otherwise than gatewayd, in this process."""
    if policy.lowest_value:
        by_preference = proposal.select
        # The tables are in ascending order; the KE that the other end sent is no reason to take a higher group
        proposal.select = lambda offers, received, protocol, method=None: by_preference(offers, received, protocol)
    announced = authentication.capability
    authentication.capability = lambda sa: (*announced(sa), *map(VendorId, policy.vendor_ids))


class KeepingRekey(CreateChild):
    """A rekey after which the old CHILD_SA is not deleted."""

    def _replace(self, sa: IkeSa, old: ChildSa, new: ChildSa, now: float) -> None:
        old.successor = new
        old.advance(ChildInput.REPLACED)


class Responder:
    """One peer of one gatewayd."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.policy = POLICIES[options["policy"]].with_(**options.get("changes", {}))
        self.options = options
        self.faults: dict[str, Any] = options.get("faults", {})
        self.log: list[str] = []
        self.idle_drops = 0
        self.packets = [0, 0]
        self.last_traffic = self.up_since = 0.0
        self.sockets = {port: _udp(options["local"], port) for port in (IKE, NATT)}
        self.elsewhere = {port: _udp(options["second"], port) for port in (IKE, NATT)} if "second" in options else {}
        self.tun = _tun()
        self.control = _listening(Path(options["control"]))
        speak_as(self.policy)
        self.forget()

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        readers: dict[Any, Callable[[], None]] = {self.control: self._command, self.tun: self._inner}
        for port, one in (*self.sockets.items(), *self.elsewhere.items()):
            readers[one] = lambda port=port, one=one: self._outer(one, port)  # type: ignore[misc]
        while True:
            ready, _, _ = select.select(list(readers), [], [], self._patience())
            for one in ready:
                readers[one]()
            now = time.monotonic()
            if (due := self.core.next_deadline()) is not None and now >= due:
                self.core.handle_deadline(now)
            self._drain(now)
            self._ends(now)
            self._drain(now)

    def forget(self) -> None:
        """Another machine takes the endpoint's place: not one SA is left, and nobody is told."""
        self.core = IkeEndpoint(SystemRandom(), Libcrypto())
        self.plane = ReferenceDataPlane(SystemRandom())
        self.plane.add_connection(NUMBER, CHILD, MTU)
        self.core.command(Configure((self._settings(),)), time.monotonic())

    def _settings(self) -> ConnectionSettings:
        options, policy = self.options, self.policy
        child = ChildSettings(CHILD, policy.esp_accepted, (_ANY,), (_ANY,), NEVER, NEVER)
        return ConnectionSettings(
            NAME,
            Endpoint(options["local"], IKE),
            Endpoint(options["remote"], IKE),
            identity(options.get("local_id", options["local"])),
            identity(options.get("remote_id", options["remote"])),
            options["psk"].encode(),
            policy.ike,
            (child,),
            quick_crash_detection=False,
            rekey_time=NEVER,
            dpd_delay=policy.dpd_delay,
        )

    def _patience(self) -> float:
        deadline = self.core.next_deadline()
        return min(0.2, max(0.0, deadline - time.monotonic())) if deadline is not None else 0.2

    def _ends(self, now: float) -> None:
        """What this peer ends by itself."""
        sa = self.core.primary(NAME)
        if sa is None:
            return
        quiet_since = max(self.last_traffic, self.up_since)
        if self.policy.idle and now - quiet_since > self.policy.idle:
            self.idle_drops += 1
            self._terminate("idle", now)
        elif (life := self.faults.get("life")) and now - self.up_since > life:
            self._terminate("its lifetime is over", now)

    def _terminate(self, why: str, now: float) -> None:
        self.log.append(f"closed: {why}")
        self.up_since = now
        self.core.command(Terminate(NAME), now)

    # --- datagrams and packets ----------------------------------------------------------------------------------

    def _outer(self, one: socket.socket, port: int) -> None:
        data, (host, remote_port) = one.recvfrom(LONGEST)
        local, remote, now = Endpoint(self.options["local"], port), Endpoint(host, remote_port), time.monotonic()
        if self.faults.get("mute"):
            return
        if port == IKE:
            self._ike(data, local, remote, now)
        elif data.startswith(NON_ESP_MARKER):
            self._ike(data[len(NON_ESP_MARKER) :], local, remote, now)
        else:
            for _, packet in self.plane.inbound(data, local, remote, now):
                self._seen(0, now)
                os.write(self.tun, packet)
                self.core.command(TrafficSeen(NAME, frozenset({int.from_bytes(data[:4], "big")})), now)

    def _ike(self, data: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        kind = data[18] if len(data) > 18 else 0
        if kind == ExchangeType.IKE_AUTH and self.faults.get("silent_in_auth"):
            return
        if kind == ExchangeType.IKE_SA_INIT and (group := self.faults.get("asks_for_group")):
            header = Header(int.from_bytes(data[:8], "big"), 0, ExchangeType.IKE_SA_INIT, Flags.RESPONSE, 0)
            self._send(
                emit_message(header, (Notify(NotifyType.INVALID_KE_PAYLOAD, group.to_bytes(2, "big")),)), local, remote
            )
            return
        self.core.receive(data, local, remote, now)

    def _inner(self) -> None:
        now = time.monotonic()
        packet = os.read(self.tun, LONGEST)
        if packet[0] >> 4 != 4:
            return  # router solicitations of the kernel's
        for datagram, local, remote in self.plane.outbound(NUMBER, packet, now):
            self._seen(1, now)
            damaged = datagram[:-1] + bytes([datagram[-1] ^ 1])
            self._send(damaged if self.faults.get("damages_esp") else datagram, local, remote)

    def _seen(self, direction: int, now: float) -> None:
        self.packets[direction] += 1
        self.last_traffic = now

    def _send(self, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        sockets = self.elsewhere if self.faults.get("from_elsewhere") else self.sockets
        if self.faults.get("ike_between_500") and data.startswith(NON_ESP_MARKER):
            data, local, remote = data[len(NON_ESP_MARKER) :], Endpoint(local.host, IKE), Endpoint(remote.host, IKE)
        try:
            sockets[local.port].sendto(data, (remote.host, remote.port))
        except OSError as error:
            self.log.append(f"not sent: {error}")

    # --- what the core says -------------------------------------------------------------------------------------

    def _drain(self, now: float) -> None:
        for effect in self.core.poll():
            match effect:
                case Transmit(data, local, remote):
                    self._send(data, local, remote)
                case Compute(ticket, job):
                    try:
                        result: object = job()
                    except PeerError as error:
                        result = error
                    self.core.computed(ticket, result, now)
                case ChildInstall():
                    for sa in parameters(effect, NUMBER, Limits(), 1024):
                        self.plane.add_sa(sa)
                case ChildActivate(_, _, spi):
                    self.plane.replace_policies(NUMBER, (spi,))
                case ChildRemove(_, _, spi_in, spi_out):
                    for direction, spi in ((Direction.OUTBOUND, spi_out), (Direction.INBOUND, spi_in)):
                        if spi:
                            self.plane.remove_sa(direction, NUMBER, spi)
                case ChildMoved(_, spi, remote, local):
                    self.plane.move_sa(NUMBER, spi, remote, local)
                case IkeUp(rekeyed=rekeyed):
                    self._up(rekeyed, now)
                case IkeDown(reason=reason):
                    self.log.append(f"down: {reason}")
                case Notice(text=text):
                    self.log.append(text)

    def _up(self, rekeyed: bool, now: float) -> None:
        self.log.append("rekeyed" if rekeyed else "up")
        self.up_since = self.up_since if rekeyed else now
        if self.faults.get("deletes_after_auth") and not rekeyed:
            self._terminate("at once", now)

    # --- what a test asks for -----------------------------------------------------------------------------------

    def _command(self) -> None:
        connection, _ = self.control.accept()
        with connection:
            asked = json.loads(connection.makefile("r").readline())
            answer = getattr(self, f"do_{asked.pop('verb')}")(**asked)
            self._drain(time.monotonic())
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def do_status(self) -> dict[str, Any]:
        sa = self.core.primary(NAME)
        child = sa.usable_child(CHILD) if sa is not None else None
        return {
            "up": child is not None,
            "ike_sas": sum(one.established for one in self.core.sas(NAME)),
            "initiator": sa is not None and sa.is_initiator,
            "ike": str(sa.keys.choice) if sa is not None and sa.keys is not None else "",
            "child": str(child.choice) if child is not None else "",
            "group": KeyExchangeId(child.choice.key_exchange).name if child is not None else "",
            "spi": child.spi_in if child is not None else 0,
            "sequence_in": self._sequence_in(child),
            "initiator_spi": sa.initiator_spi if sa is not None else 0,
            "message_ids": [sa.window.next_request, sa.window.expected] if sa is not None else [],
            "rejected": {reason: count for reason, count in self.core.rejected.items() if count},
            "packets": self.packets,
            "idle_drops": self.idle_drops,
            "log": self.log[-200:],
        }

    def _sequence_in(self, child: ChildSa | None) -> int:
        if child is None:
            return 0
        return self.plane.sa_counters()[Direction.INBOUND, NUMBER, child.spi_in].sequence

    def do_faults(self, **faults: Any) -> bool:
        self.faults = faults
        return True

    def do_forget(self) -> bool:
        self.forget()
        return True

    def do_change_member(self, behind: int, delta: int) -> bool:
        """RFC 6311: another member of a cluster goes on in its place, and missed the last exchanges. Not in the middle of one."""
        sa = self.core.primary(NAME)
        if sa is None or sa.exchange is not None:
            return False
        window = sa.window
        window.moved(max(0, window.next_request - behind), max(0, window.expected - behind))
        sa.enqueue(Synchronise(delta), time.monotonic())
        return True

    def do_initiate(self) -> bool:
        if not self.policy.never_initiates:
            self.core.command(Initiate(NAME), time.monotonic())
        return not self.policy.never_initiates

    def do_terminate(self) -> bool:
        self._terminate("asked to", time.monotonic())
        return True

    def do_rekey_child(self) -> bool:
        sa = self.core.primary(NAME)
        child = sa.usable_child(CHILD) if sa is not None else None
        if sa is None or child is None:
            return False
        offered = replace(child.settings, offers=self.policy.esp_offered)
        exchange = KeepingRekey if self.faults.get("keeps_old") else CreateChild
        sa.enqueue(exchange(offered, child), time.monotonic())
        return True

    def do_rekey_ike(self) -> bool:
        sa = self.core.primary(NAME)
        if sa is None:
            return False
        self._offer_at_rekey(sa)
        sa.enqueue(RekeyIke(), time.monotonic())
        return True

    def _offer_at_rekey(self, sa: IkeSa) -> None:
        if self.policy.ike_at_rekey:
            sa.settings = replace(sa.settings, offers=self.policy.ike_at_rekey)


def _udp(host: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, port))
    return made


def _tun() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("=16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def _listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen()
    return made


if __name__ == "__main__":
    Responder(json.loads(Path(sys.argv[1]).read_text())).run()
