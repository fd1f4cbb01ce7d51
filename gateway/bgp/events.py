"""What goes into the speaker as intent, what comes out as effects, and its two views for status."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.bgp.path import Path
from gateway.bgp.settings import Prefix, SpeakerSettings


@dataclass(frozen=True, slots=True)
class ProcessUp:
    """The relay is connected. `generation` grows with every connection."""

    generation: int


@dataclass(frozen=True, slots=True)
class ProcessDown:
    """The relay is gone: ExaBGP, the relay or the socket ended."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Withdraw everything; `Drained` follows."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    settings: SpeakerSettings


Command = ProcessUp | ProcessDown | Shutdown | Reconfigure


@dataclass(frozen=True, slots=True)
class SendLine:
    """One line for ExaBGP, without its end."""

    text: str


@dataclass(frozen=True, slots=True)
class BestChanged:
    """The loc-RIB's path for `prefix` is now `path`; None: there is none."""

    prefix: Prefix
    path: Path | None


@dataclass(frozen=True, slots=True)
class PeerUp:
    name: str


@dataclass(frozen=True, slots=True)
class PeerDown:
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The first path refused for `reason` since the session began; further ones are only counted."""

    name: str
    prefix: Prefix
    reason: str


@dataclass(frozen=True, slots=True)
class Resynchronized:
    """The RIBs agree with ExaBGP's again."""

    generation: int


@dataclass(frozen=True, slots=True)
class AnswersMissing:
    """ExaBGP does not answer. The shell drops the link, so that a full synchronisation follows; and from the second time in a
    row it ends ExaBGP itself."""

    times: int


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """ExaBGP said `error` to this command."""

    text: str


@dataclass(frozen=True, slots=True)
class Drained:
    """After `Shutdown`: every withdrawal was answered, or there is nobody to tell."""


Effect = (
    SendLine | BestChanged | PeerUp | PeerDown | Rejected | Resynchronized | AnswersMissing | CommandRefused | Drained
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One neighbor, as status shows it."""

    name: str
    address: str
    asn: int
    state: str
    local_address: str
    connection: str
    established_at: float | None
    prefixes: dict[str, int] = field(default_factory=dict)
    messages_sent: int = 0
    messages_received: int = 0
    flaps: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One learned path, as status shows it. `installed` is the FIB's to say."""

    prefix: str
    peer: str
    next_hop: str
    as_path: tuple[int, ...]
    origin: str
    med: int | None
    local_preference: int | None
    communities: tuple[str, ...]
    best: bool
    reason: str
    installed: bool = False
    stale: bool = False
