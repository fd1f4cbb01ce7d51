"""The two endpoints of ike_pair, proving themselves with certificates of a PKI made for the test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from support.ike_pair import LEFT, RIGHT, Flight, Host, Pair, identity
from support.pki import EPOCH, Authority, Issued

from gateway.contract import Fetch
from gateway.ike.commands import Initiate
from gateway.ike.events import IkeDown
from gateway.ike.settings import Credentials, Identity, Trust
from gateway.ike.signatures import SigningKey

START = EPOCH.timestamp()
ADDRESSES = {"left": LEFT, "right": RIGHT}


def credentials(issued: Issued, **changes: Any) -> Credentials:
    return Credentials(issued.certificate, issued.chain, SigningKey.of(issued.key), **changes)


def trust(*authorities: Issued, **changes: Any) -> Trust:
    return Trust(tuple(one.certificate for one in authorities), **changes)


def fqdn(text: str) -> Identity:
    return Identity(2, text.encode(), text)


def subject_of(issued: Issued) -> Identity:
    return Identity(9, issued.certificate.subject.public_bytes(), issued.certificate.subject.rfc4514_string())


class CertifiedPair(Pair):
    """`left` and `right` show what they are given, and trust `ca`; nothing is sent before `begin`."""

    def __init__(
        self, left: Issued, right: Issued, ca: Sequence[Issued], *, defer: bool = False, **changes: Any
    ) -> None:
        self.judge: Host | None = None
        self.staples = True
        self.web: dict[str, Callable[[bytes], bytes | None]] = {}
        self.fetched: list[tuple[Host, Fetch]] = []
        super().__init__(defer=defer)
        self.now = START
        self.shown = {"left": left, "right": right}
        self.given: dict[str, dict[str, Any]] = {"left": dict(changes), "right": dict(changes)}
        self.anchors = tuple(ca)
        for side in ("left", "right"):
            self.settle_on(side)

    def settle_on(self, side: str, **changes: Any) -> None:
        """(Re)configures one side; `changes` as in ConnectionSettings, kept for the next time."""
        host = self.left if side == "left" else self.right
        other = "right" if side == "left" else "left"
        self.given[side] |= changes
        settings = {
            "psk": b"",
            "credentials": credentials(self.shown[side]),
            "trust": trust(*self.anchors),
            "local_id": identity(ADDRESSES[side]),
            "remote_id": identity(ADDRESSES[other]),
        }
        self.configure(host, **(settings | self.given[side]))

    def _effect(self, host: Host, effect: object) -> None:
        """What is fetched comes from `web`, by URL; with `defer` in its own time."""
        if not isinstance(effect, Fetch):
            super()._effect(host, effect)
            return
        self.fetched.append((host, effect))

        def run() -> None:
            heard = self.staples or host is self.judge
            octets = self.web.get(effect.url, lambda _: None)(effect.body) if heard else None
            host.core.computed(effect.ticket, octets, self.now)

        if self.defer:
            self.in_flight.append(Flight(host, run=run))
        else:
            run()

    @property
    def fetches(self) -> list[Fetch]:
        """Of whoever looks at the other; what the other asks about itself, to show it, is left out."""
        return [fetch for host, fetch in self.fetched if host is self.judge]

    def begin(self) -> None:
        self.left.command(Initiate("c"))
        self.settle()

    def failures(self) -> tuple[str, str]:
        """Why the last IKE_SA of either side ended; "" where it did not."""
        left, right = (host.seen(IkeDown) for host in self.hosts)
        return (left[-1].reason if left else "", right[-1].reason if right else "")


def ends(ca: Authority, kind: str = "p256", **options: Any) -> tuple[Issued, Issued]:
    """One certificate for each side's address."""
    left = ca.issue("left", kind, ip=[LEFT], **options)
    return left, ca.issue("right", kind, ip=[RIGHT], **options)
