"""Finds out whether anybody on a path is revoked: with what is there, then OCSP responders, then CRLs (RFC 4806, swanctl's `revocation`).

    path -> judge with files, stapled responses, cache -> fetch by OCSP -> judge -> fetch CRLs -> judge -> decide by `revocation`

Only what a verified certificate names is fetched. An IKE_SA may end while something is fetched; nobody waits then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509

from gateway.ike import revocation
from gateway.ike.certificate_names import described
from gateway.ike.certificate_path import Path, refused
from gateway.ike.errors import Violation
from gateway.ike.payloads import Certificate
from gateway.ike.registry import CertificateEncoding
from gateway.ike.revocation import Evidence, Standing, Verdict
from gateway.ike.revocation_cache import Question
from gateway.ike.revocation_places import crl_urls, ocsp_urls, out_of_reach, places
from gateway.ike.services import Failed
from gateway.ike.settings import Trust

if TYPE_CHECKING:
    from gateway.ike.sa import IkeSa

CRL_OCTETS_MAX, OCSP_OCTETS_MAX = 1 << 20, 1 << 16
OCSP_MEDIA = "application/ocsp-request"
SHOWN_MAX = 8
"""CRLs and OCSP responses that are read out of a peer's CERT payloads."""
RESPONDERS_MAX = 4
"""Delegated responders of whom is asked whether they are revoked themselves."""

Link = tuple[x509.Certificate, x509.Certificate]
_SHOWN = {CertificateEncoding.CRL: True, CertificateEncoding.OCSP: False}


def shown_by(certificates: Iterable[Certificate]) -> tuple[Evidence, ...]:
    """RFC 7296 3.6, RFC 4806: what the peer shows of itself beside its certificates."""
    found = [
        Evidence(one.data, _SHOWN[kind])
        for one in certificates
        if (kind := CertificateEncoding(one.encoding)) in _SHOWN
    ]
    return tuple(one for one in found if len(one.octets) <= CRL_OCTETS_MAX)[:SHOWN_MAX]


@dataclass(slots=True)
class Search:
    """One peer's path. `start` ends in `then`, or in `failed` with a PeerError."""

    sa: IkeSa
    trust: Trust
    path: Path
    shown: tuple[Evidence, ...]
    then: Callable[[float], None]
    failed: Failed
    unknown: dict[Link, str] = field(default_factory=dict)
    """Links nobody vouched for yet, and why not."""
    answers: dict[Question, Evidence] = field(default_factory=dict)
    fetched: set[Question] = field(default_factory=set)
    stages: list[Callable[[Link], list[Question]]] = field(default_factory=list)
    responders: dict[Link, None] = field(default_factory=dict)
    """Who would vouch if it were known that he is not revoked himself (RFC 6960 4.2.2.2.1)."""
    fresher: dict[Link, tuple[str, ...]] = field(default_factory=dict)
    """Links that a complete CRL vouches for, and where its deltas are."""
    deltas: set[Question] = field(default_factory=set)
    """Places of delta CRLs that were looked at already."""
    outstanding: int = 0

    def start(self, now: float) -> None:
        """Call it where a PeerError ends in `failed`."""
        if self.trust.revocation == "off":
            self.then(now)
            return
        self.unknown = dict.fromkeys(self.path.links(), "")
        self._begin(self.unknown, now)
        self._judge(now)

    def _begin(self, links: Iterable[Link], now: float) -> None:
        """Takes what is remembered about them; whatever else there is to ask is asked from the first stage on."""
        self.stages = [_ocsp, _crls]
        wall = self.sa.services.wall(now)
        for question in (one for link in links for stage in self.stages for one in stage(link)):
            octets = self.sa.services.revocations.answer(question, wall)
            if octets is not None:
                self.answers[question] = Evidence(octets, is_crl=not question.body)

    def _judge(self, now: float) -> None:
        links = tuple(self.unknown)
        evidence = (*self.shown, *self.answers.values(), *(Evidence(octets, True) for octets in self.trust.crls))
        at = datetime.fromtimestamp(self.sa.services.wall(now), UTC)

        def job() -> list[Verdict]:
            return [revocation.judge(*link, evidence, at) for link in links]

        if not evidence:
            self._judged(dict(zip(links, job(), strict=True)), now)
            return
        self.sa.compute(job, lambda found, now: self._judged(dict(zip(links, found, strict=True)), now), self.failed)

    def _judged(self, found: dict[Link, Verdict], now: float) -> None:
        self._remember(found.values(), now)
        for verdict in found.values():
            if verdict.standing is Standing.REVOKED:
                raise refused(Violation.CERTIFICATE_REVOKED, verdict.detail)
        self.unknown = {link: one.detail for link, one in found.items() if one.standing is Standing.UNKNOWN}
        self.fresher |= {link: one.fresher for link, one in found.items() if one.fresher}
        fresh = {(one, link[1]): None for link in self.unknown for one in found[link].unchecked}
        fresh = {link: None for link in fresh if link not in self.responders}
        if fresh and len(self.responders) < RESPONDERS_MAX:
            self.responders |= fresh
            self._begin(fresh, now)
            self._judge(now)
            return
        while self.unknown and self.stages:
            if self._ask(self.stages.pop(0), now):
                return
        if self._look_for_deltas(now):
            return
        _decide(self.sa, self.trust, self.unknown)
        self.then(now)

    def _remember(self, found: Iterable[Verdict], now: float) -> None:
        """What verified is kept; who answered with something useless is not asked again at once."""
        valid = {id(evidence): until for one in found for evidence, until in one.valid}
        cache = self.sa.services.revocations
        for question, evidence in self.answers.items():
            until = valid.get(id(evidence))
            if until is not None:
                cache.keep(question, evidence.octets, until.timestamp())
            elif question in self.fetched:
                cache.failed(question, now)
        self.fetched.clear()

    def _ask(self, stage: Callable[[Link], list[Question]], now: float) -> bool:
        """Whether there is anything to wait for."""
        worth_asking = self.sa.services.revocations.worth_asking
        questions = dict.fromkeys(one for link in (*self.unknown, *self.responders) for one in stage(link))
        return self._fetch([one for one in questions if one not in self.answers and worth_asking(one, now)])

    def _look_for_deltas(self, now: float) -> bool:
        """RFC 5280 5.2.6: whom a complete CRL does not list may be revoked since. Whether there is anything to wait for; a
        delta that is not to be had takes nothing from the complete one (6.3.3: using them is a choice)."""
        questions = dict.fromkeys(Question(url) for urls in self.fresher.values() for url in urls)
        new = [one for one in questions if one not in self.answers and one not in self.deltas]
        if not new:
            return False
        self.unknown |= dict.fromkeys(self.fresher, "")
        self.deltas.update(new)
        services = self.sa.services
        known = {one: services.revocations.answer(one, services.wall(now)) for one in new}
        self.answers |= {one: Evidence(octets, is_crl=True) for one, octets in known.items() if octets is not None}
        absent = [one for one, octets in known.items() if octets is None]
        if not self._fetch([one for one in absent if services.revocations.worth_asking(one, now)]):
            self._judge(now)
        return True

    def _fetch(self, wanted: list[Question]) -> bool:
        self.outstanding = len(wanted)
        for one in wanted:
            media, limit = (OCSP_MEDIA, OCSP_OCTETS_MAX) if one.body else ("", CRL_OCTETS_MAX)
            self.sa.services.fetch(self.sa, one.url, one.body, media, limit, self._taker(one), self.failed)
        return bool(wanted)

    def _taker(self, question: Question) -> Callable[[bytes | None, float], None]:
        def take(octets: bytes | None, now: float) -> None:
            if octets is None:
                self.sa.services.revocations.failed(question, now)
            else:
                self.fetched.add(question)
                self.answers[question] = Evidence(octets, is_crl=not question.body)
            self.outstanding -= 1
            if not self.outstanding:
                self._judge(now)

        return take


def _decide(sa: IkeSa, trust: Trust, unknown: dict[Link, str]) -> None:
    """PeerError where `revocation` does not let those in of whom nothing is known."""
    mode = trust.revocation
    for (certificate, issuer), why in unknown.items():
        # Also one whom we cannot ask: else a CA that publishes by LDAP alone would have its revoked ones let in
        names_somebody = bool(places(certificate))
        if mode not in ("strict", "ifuri") and not names_somebody and not trust.crls:
            continue
        whose = f"of {described(certificate.subject)} by {described(issuer.subject)}"
        detail = "; ".join(filter(None, (why, out_of_reach(certificate))))
        if mode == "strict" or (mode == "ifuri" and names_somebody):
            raise refused(Violation.REVOCATION_UNKNOWN, f"{whose}: {detail}")
        if names_somebody or trust.crls:
            sa.notice(
                "warning", "revocation-unknown", f"whether the certificate {whose} is revoked is not known: {detail}"
            )


def _ocsp(link: Link) -> list[Question]:
    urls = ocsp_urls(link[0])
    return [Question(url, revocation.ocsp_request(*link)) for url in urls]


def _crls(link: Link) -> list[Question]:
    return [Question(url) for url in crl_urls(link[0])]


# --- our own ------------------------------------------------------------------------------------------------------


def staple(
    sa: IkeSa,
    link: Link | None,
    then: Callable[[tuple[Certificate, ...], float], None],
    failed: Failed,
    now: float,
) -> None:
    """RFC 4806: goes on in `then` with an OCSP response about our own certificate, or without where there is none to be had.
    `link`: our certificate with its issuer; None: nobody asked, or the issuer is not known."""
    cache, questions = sa.services.revocations, _ocsp(link)[:1] if link is not None else []
    if link is None or not questions:
        then((), now)
        return
    (question,), own = questions, link
    octets = cache.answer(question, sa.services.wall(now))
    if octets is not None or not cache.worth_asking(question, now):
        then(_stapled(octets), now)
        return

    def judged(verdict: Verdict, now: float) -> None:
        # Whether its responder is revoked is for who is shown it to find out
        good = verdict.standing is Standing.GOOD or verdict.unchecked
        for evidence, until in verdict.valid[:1] if good else ():
            cache.keep(question, evidence.octets, until.timestamp())
            then(_stapled(evidence.octets), now)
            return
        cache.failed(question, now)
        then((), now)

    def take(octets: bytes | None, now: float) -> None:
        at = datetime.fromtimestamp(sa.services.wall(now), UTC)
        evidence = [Evidence(octets, is_crl=False)] if octets is not None else []
        sa.compute(lambda: revocation.judge(*own, evidence, at), judged, failed)

    sa.services.fetch(sa, question.url, question.body, OCSP_MEDIA, OCSP_OCTETS_MAX, take, failed)


def _stapled(octets: bytes | None) -> tuple[Certificate, ...]:
    return (Certificate(int(CertificateEncoding.OCSP), octets),) if octets is not None else ()
