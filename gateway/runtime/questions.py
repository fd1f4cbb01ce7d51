"""What may be asked of the daemon about its routes, and how the questions look in HTTP. Parsing only; `answers` answers.

GET  /v1/advertised?peer=NAME|ADDRESS                     what each neighbor is told
GET  /v1/table                                            every entry of our routing tables
GET  /v1/lookup?address=A&from=B&instance=NAME            the way to an address, and why
GET  /v1/places?connection=NAME&keys=KEY,KEY              the lines of the configuration file that set these keys
POST /v1/policy-tests {"peer", "direction", "policy", "file", "text"}   a dry run of policies; `text` is a configuration
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

LONGEST_NAME = 80
LONGEST_FILE = 4 << 20
LONGEST_PATH = 4096
MOST_KEYS = 64
DIRECTIONS = ("in", "out", "both")

Address = IPv4Address | IPv6Address


class NotThere(Exception):
    """There is no such neighbor, instance or policy; str() says which there are."""


class Unusable(Exception):
    """The configuration on trial has mistakes; each argument is one of them, as FILE:LINE:COL."""


@dataclass(frozen=True, slots=True)
class Advertised:
    peer: str = ""  # name or address; none: all


@dataclass(frozen=True, slots=True)
class Table:
    """Everything."""


@dataclass(frozen=True, slots=True)
class Lookup:
    address: Address
    source: Address | None = None
    instance: str = ""


@dataclass(frozen=True, slots=True)
class PolicyTest:
    """`text`: another configuration, None: the running one; `policy`: a policy of it instead of what the neighbor has there."""

    peer: str
    direction: str
    policy: str = ""
    text: str | None = None
    file: str = "gateway.toml"


@dataclass(frozen=True, slots=True)
class Places:
    keys: tuple[str, ...]
    connection: str = ""  # none: of all


Question = Advertised | Table | Lookup | PolicyTest | Places


def advertised(query: Mapping[str, str]) -> Advertised:
    _only(query, ("peer",))
    return Advertised(_name(query.get("peer", ""), "peer"))


def table(query: Mapping[str, str]) -> Table:
    _only(query, ())
    return Table()


def lookup(query: Mapping[str, str]) -> Lookup:
    _only(query, ("address", "from", "instance"))
    address = _address(query.get("address", ""), "address")
    source = _address(query["from"], "from") if query.get("from") else None
    if source is not None and source.version != address.version:
        raise ValueError("address and from must be of one family")
    return Lookup(address, source, _name(query.get("instance", ""), "instance"))


def places(query: Mapping[str, str]) -> Places:
    _only(query, ("connection", "keys"))
    keys = tuple(_name(one, "keys") for one in query.get("keys", "").split(",") if one)
    if len(keys) > MOST_KEYS:
        raise ValueError(f"at most {MOST_KEYS} keys")
    return Places(keys, _name(query.get("connection", ""), "connection"))


def policy_test(body: bytes) -> PolicyTest:
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("expected an object")
    _only(document, ("peer", "direction", "policy", "file", "text"))
    text, file = document.get("text"), document.get("file", "gateway.toml")
    peer, policy = _name(document.get("peer"), "peer"), _name(document.get("policy", ""), "policy")
    direction = document.get("direction", "both")
    if not peer:
        raise ValueError("peer must be the name or the address of a neighbor")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}")
    if policy and direction == "both":
        raise ValueError("a policy is for one direction: in or out")
    if text is None and not policy:
        raise ValueError("either text, a configuration, or the name of a policy is needed")
    if not isinstance(text, str | None) or not isinstance(file, str) or len(file) > LONGEST_PATH:
        raise ValueError("text must be a configuration, and file its name")
    return PolicyTest(peer, direction, policy, text, file)


def _only(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"unknown: {', '.join(map(repr, unknown))[:100]}; known: {', '.join(known) or 'nothing'}")


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        raise ValueError(f"{what} must be a name")
    return value


def _address(text: str, what: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"{what} must be an address") from None
