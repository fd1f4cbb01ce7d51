"""What the election knows of the other gateway: whether it is up, heard or silent, and what it last said of itself."""

from __future__ import annotations

from enum import Enum

from gateway.ha.heartbeat import DownReason, PeerDown, PeerSaid, PeerUp
from gateway.ha.message import Advertised, Handover, Level, Role


class Contact(Enum):
    SILENT = "silent"
    HEARD = "heard"  # but it does not hear us
    UP = "up"


class PeerView:
    """Silence counts only when the dead timer said so: at the start, after the time that a start takes."""

    def __init__(self, silent_from: float, both_carry: bool = False) -> None:
        self.name = "the peer"
        self.contact = Contact.SILENT
        self.silent_from = silent_from
        self.quiet_since = float("inf")
        """Since when it says that it attracts nothing; infinity: it does, or nothing is heard."""
        self.idle_since = float("inf")
        """Since when it is there, and neither acts nor would; infinity: it does, or is not there."""
        self._said = Advertised()
        self._both_carry = both_carry

    def configure(self, both_carry: bool, now: float) -> None:
        """Whether a standby carries traffic, too."""
        self._both_carry = both_carry
        self._note_quiet(now)

    def receive(self, event: PeerUp | PeerDown | PeerSaid, now: float) -> None:
        self._take(event, now)
        self._note_quiet(now)
        rests = self.up and not self._said.ready and self._said.role in (Role.STANDBY, Role.FAULT, Role.INIT)
        self.idle_since = min(self.idle_since, now) if rests else float("inf")

    def _note_quiet(self, now: float) -> None:
        self.quiet_since = float("inf") if self.attracts else min(self.quiet_since, now)

    def _take(self, event: PeerUp | PeerDown | PeerSaid, now: float) -> None:
        match event:
            case PeerUp(name, said):
                self.name, self._said, self.contact = name or self.name, said, Contact.UP
            case PeerSaid(name, said):
                self.name, self._said = name or self.name, said
                self.contact = Contact.HEARD if self.contact is Contact.SILENT else self.contact
            case PeerDown(DownReason.ONE_WAY):
                self.contact = Contact.HEARD
            case PeerDown(DownReason.SILENCE):
                self.contact, self.silent_from = Contact.SILENT, now
            case PeerDown():
                pass  # restarted: PeerUp follows at once

    @property
    def up(self) -> bool:
        return self.contact is Contact.UP

    @property
    def said(self) -> Advertised | None:
        """What it says now; None while it is silent."""
        return None if self.contact is Contact.SILENT else self._said

    @property
    def ready(self) -> bool:
        """It would take over, were it asked."""
        return self.up and self._said.ready and self._said.role in (Role.STANDBY, Role.DRAINING)

    @property
    def attracts(self) -> bool:
        """It announces itself as more than a standby does, as far as is known."""
        usual = Level.ACTIVE if self._both_carry and self._said.role is Role.STANDBY else Level.STANDBY
        return self.contact is Contact.SILENT or self._said.level > usual

    @property
    def offers(self) -> bool:
        return self.up and self._said.handover is Handover.OFFERED

    @property
    def wants(self) -> bool:
        return self.up and self._said.handover is Handover.WANTED

    def dead(self, now: float) -> bool:
        """The dead timer has run out."""
        return self.contact is Contact.SILENT and now >= self.silent_from
