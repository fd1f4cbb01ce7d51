"""IKE identities as they are written in the configuration.

Not the ID payload: `ike/payloads.py` maps `kind` to the ID type of RFC 7296 3.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography.x509 import Name, NameAttribute
from cryptography.x509.oid import NameOID

_FQDN = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?", re.ASCII)
_MAILBOX = re.compile(r"[^@\s\x00-\x1f\x7f]+", re.ASCII)
_FORMS = (
    'an address, a domain name ("@gw.example.com"), a mailbox ("gw@example.com"), "keyid:HEX" '
    'or the subject of a certificate ("C=CH, O=Example, CN=gw")'
)
_ATTRIBUTES = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "S": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "STREET": NameOID.STREET_ADDRESS,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "E": NameOID.EMAIL_ADDRESS,
    "EMAIL": NameOID.EMAIL_ADDRESS,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
}
_SUBJECT = re.compile(r"\s*[A-Za-z]+\s*=")
_ATTRIBUTE = re.compile(r"\s*([A-Za-z]+)\s*=\s*((?:[^,\\]|\\.)+?)\s*(?:,|$)")


class IdentityError(ValueError):
    """Text that is no identity; the message says what is."""


@dataclass(frozen=True, slots=True)
class IdentitySpec:
    """An identity: its kind, the octets that are compared, and the text as written."""

    kind: str
    """ipv4 | ipv6 | fqdn | rfc822 | key_id | dn."""
    data: bytes
    text: str


def parse_identity(text: str) -> IdentitySpec:
    """`192.0.2.1`, `@gw.example.com`, `gw.example.com`, `gw@example.com`, `keyid:0a0b` or `C=CH, O=Example, CN=gw`."""
    word = text.strip()
    if _SUBJECT.match(word):
        return IdentitySpec("dn", _subject(text, word), text)
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


def _subject(text: str, word: str) -> bytes:
    """In the order in which certificates have it and swanctl writes it, C first; `\\,` is a comma in a value."""
    attributes, at = [], 0
    while at < len(word):
        found = _ATTRIBUTE.match(word, at)
        if found is None:
            raise IdentityError(f"'{text}' is not the subject of a certificate such as C=CH, O=Example, CN=gw")
        at = found.end()
        name, value = found[1].upper(), re.sub(r"\\(.)", r"\1", found[2])
        if name not in _ATTRIBUTES:
            raise IdentityError(f"'{found[1]}' in '{text}' is not known; known are {', '.join(_ATTRIBUTES)}")
        try:
            attributes.append(NameAttribute(_ATTRIBUTES[name], value))
        except ValueError as error:
            raise IdentityError(f"'{text}': {error}") from None
    return Name(attributes).public_bytes()


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
