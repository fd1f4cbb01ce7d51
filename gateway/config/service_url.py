"""The check of an address of a cloud's service: a token of the gateway's identity goes there."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from gateway.config.diagnostics import KeyPath
from gateway.config.findings import Finding


def service_url(path: KeyPath, url: str | None, *, token: bool) -> Iterator[Finding]:
    """`token`: one is sent there, which nobody may read on the way."""
    if not url:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        yield "error", path, f"'{url}' is no address of a service; write it as \"https://HOST\""
    elif token and not is_private(url):
        yield "error", path, f"tokens would go to {parts.hostname} in clear; use https"


def is_private(url: str) -> bool:
    """Whether nobody on the way can read or change what goes there."""
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
