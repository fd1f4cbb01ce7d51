"""IKE identities as they are written in the configuration.

Not the ID payload: `ike/payloads.py` maps `kind` to the ID type of RFC 7296 3.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

_FQDN = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?", re.ASCII)
_MAILBOX = re.compile(r"[^@\s\x00-\x1f\x7f]+", re.ASCII)
_FORMS = 'an address, a domain name ("@gw.example.com"), a mailbox ("gw@example.com") or "keyid:HEX"'


class IdentityError(ValueError):
    """Text that is no identity; the message says what is."""


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """An identity: its kind, the octets that are compared, and the text as written."""

    kind: str
    """ipv4 | ipv6 | fqdn | rfc822 | key_id."""
    data: bytes
    text: str


def parse_identity(text: str) -> IdentitySpec:
    """`192.0.2.1`, `@gw.example.com`, `gw.example.com`, `gw@example.com` or `keyid:0a0b`."""
    word = text.strip()
    address = _address(word)
    if address is not None:
        return IdentitySpec("ipv4" if address.version == 4 else "ipv6", address.packed, text)
    if word.lower().startswith("keyid:"):
        return IdentitySpec("key_id", _key_id(text, word[len("keyid:") :]), text)
    local, at, domain = word.rpartition("@")
    if at and local:
        if not _MAILBOX.fullmatch(local) or not _FQDN.fullmatch(domain):
            raise IdentityError(f"'{text}' is not a mailbox such as gw@example.com")
        return IdentitySpec("rfc822", word.encode("utf-8"), text)
    if not _FQDN.fullmatch(domain):
        raise IdentityError(f"'{text}' is not an identity; allowed are {_FORMS}")
    # "10.1.2" or "10.1.2.300" is a mistyped address, not a name: no top-level domain is all digits.
    if not at and domain.rstrip(".").rpartition(".")[2].isdigit():
        raise IdentityError(f"'{text}' is neither an address nor a domain name; write \"@{domain}\" if it is a name")
    return IdentitySpec("fqdn", domain.encode("ascii"), text)


def _address(word: str) -> IPv4Address | IPv6Address | None:
    if "%" in word:
        return None
    try:
        return ip_address(word)
    except ValueError:
        return None


def _key_id(text: str, digits: str) -> bytes:
    try:
        data = bytes.fromhex(digits.removeprefix("0x"))
    except ValueError:
        as_hex = digits.encode("utf-8", "backslashreplace").hex()
        raise IdentityError(
            f"'{text}': keyid takes hexadecimal digits; for the text '{digits}' write \"keyid:{as_hex}\""
        ) from None
    if not data:
        raise IdentityError(f"'{text}': the key ID is empty; write it as keyid:0a0b0c")
    return data
