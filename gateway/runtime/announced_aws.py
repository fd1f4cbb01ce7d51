"""What AWS announces of this instance, by the instance metadata service (IMDSv2: a token of a session comes first).

    events/maintenance/scheduled       a list of reboots, stops, retirements, with their times; days or weeks ahead
    spot/instance-action               a spot instance ends in two minutes; 404 where it does not
    events/recommendations/rebalance   a spot instance is likelier to end than others; 404 where it is not

Maintenance counts from LEAD before its time: were it told weeks ahead, both gateways of a pair would soon be about to leave, and nobody would
hand over. Nothing can be told to begin.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from gateway.runtime.cloud_http import CloudHttp
from gateway.runtime.scheduled_events import LONGEST_WORD, Announced

TOKEN, META = "/latest/api/token", "/latest/meta-data"
MAINTENANCE = "/events/maintenance/scheduled"
SPOT, REBALANCE = "/spot/instance-action", "/events/recommendations/rebalance"
LEAD = timedelta(minutes=15)
"""As long as Azure announces ahead."""
SESSION = 21600.0  # seconds, the most that IMDSv2 grants
_TTL, _TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
_LONGEST_TOKEN = 4096


class AwsAnnouncements:
    """`scheduled_events.Announcements`."""

    def __init__(self, http: CloudHttp, url: str, wall: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._http, self._url, self._wall = http, url.rstrip("/"), wall
        self._token, self._renew_at = "", 0.0

    async def announced(self) -> list[Announced]:
        now = self._wall()
        return [
            *maintenance(await self._get(MAINTENANCE), now),
            *interruption(await self._get(SPOT)),
            *recommendation(await self._get(REBALANCE)),
        ]

    async def approve(self, chosen: Collection[str]) -> bool:
        return False

    async def _get(self, path: str) -> bytes | None:
        """None: there is nothing of that kind. Raises ValueError."""
        for _ in range(2):
            headers = {_TOKEN: await self._session()}
            answer = await self._http.request("GET", self._url + META + path, headers)
            if answer.status == 404:
                return None
            if answer.status == 200:
                return answer.body
            # 401: the token's session is over, as after a migration
            self._token = ""
            if answer.status != 401:
                break
        raise ValueError(f"IMDS answered {answer.status} to the question for {path}")

    async def _session(self) -> str:
        """The token; renewed at half of its life. Raises ValueError."""
        if self._token and time.monotonic() < self._renew_at:
            return self._token
        answer = await self._http.request("PUT", self._url + TOKEN, {_TTL: f"{SESSION:.0f}"})
        text = answer.body.decode("ascii", "replace").strip()
        if answer.status != 200 or not 0 < len(text) <= _LONGEST_TOKEN or not text.isprintable():
            raise ValueError(f"IMDS answered {answer.status} to the question for a session (IMDSv2)")
        self._token, self._renew_at = text, time.monotonic() + SESSION / 2
        return text


def maintenance(body: bytes | None, now: datetime) -> Iterator[Announced]:
    """Of events/maintenance/scheduled: what is still to come and less than LEAD away, or has begun. Raises ValueError."""
    found = json.loads(body) if body else []
    if not isinstance(found, list):
        raise ValueError("IMDS answered without a list of maintenance")
    for one in found:
        # AWS keeps what is over as completed or canceled for a week
        if not isinstance(one, dict) or one.get("State", "active") != "active":
            continue
        number, kind, text = (_text(one, key) for key in ("EventId", "Code", "NotBefore"))
        if not number:
            raise ValueError("IMDS announced maintenance without an EventId")
        at = _date(text)
        if at is None or now >= at - LEAD:
            yield Announced(number, kind or "maintenance", at is not None and now >= at, text)


def interruption(body: bytes | None) -> Iterator[Announced]:
    """Of spot/instance-action. Raises ValueError."""
    if body is not None:
        content = _mapping(body)
        kind = _text(content, "action") or "interruption"
        yield Announced("spot", f"{kind} (spot)", False, _text(content, "time"))


def recommendation(body: bytes | None) -> Iterator[Announced]:
    """Of events/recommendations/rebalance: not an end, but its likelihood. Raises ValueError."""
    if body is not None:
        told = _text(_mapping(body), "noticeTime")
        yield Announced("rebalance", f"interruption (spot, rebalance recommendation of {told or 'now'})", False, "")


def _mapping(body: bytes) -> dict[str, Any]:
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError("IMDS answered with something else than an object")
    return content


def _text(one: dict[str, Any], key: str) -> str:
    value = one.get(key)
    return value if isinstance(value, str) and len(value) <= LONGEST_WORD and value.isprintable() else ""


def _date(text: str) -> datetime | None:
    """Such as 21 Jan 2019 09:00:43 GMT; None for what is no date: it may be now."""
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC)
