"""Two sites and what connects them, from configuration texts as an operator writes them.

a, at one address or behind a NAT  ====  b, at one address of its own for each connection
                                   ====  c beside it, with the identity of b, to which peers are sent (RFC 5685)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_address

from gateway.config.load import load_text
from gateway.node.settings import GatewaySettings, Secrets, build

PSK = b"thirty-two octets of a shared key"
PPK = b"thirty-two octets no computer has"
NAMES = ("site", "lab", "depot")
"""Of the connections, in the order of the configuration."""
CONNECTION = NAMES[0]
HOSTS = {"a": "192.0.2.1", "b": "198.51.100.1"}
"""Of the first connection."""
ELSEWHERE = "198.51.100.129"
"""Of `c`."""
CONNECTED = {"a": "192.0.2.0/24", "b": "198.51.100.0/24", "c": "198.51.100.0/24"}
NETWORKS = {"a": "10.{}.0.0/16", "b": "172.{}.0.0/16", "c": "172.{}.0.0/16"}
FIRST_NETWORK = {"a": 1, "b": 16, "c": 16}
NAT_HOST = "203.0.113.1"
"""Where `b` sees `a` when a NAT is between them."""
ROAMING = "mobike = true"
"""The option of who may be at other addresses than NAT_HOST, too (RFC 4555)."""


def host(name: str, number: int = 0) -> str:
    """The outer address of a node for the `number`th connection."""
    if name == "a":
        return HOSTS["a"]
    return str(ip_address(HOSTS["b"] if name == "b" else ELSEWHERE) + number)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule varies of a connection, and of those beside it. `starters`: the nodes with start_action start; the others
    only respond."""

    starters: str = "a"
    children: tuple[str, ...] = ("net",)
    ike: str = "aes256gcm16-prfsha256-ecp256"
    pfs: bool = True
    further: str = ""
    """Key exchanges after the first, as in a proposal."""
    nat: bool = False
    options: tuple[str, ...] = field(default=())
    """Further lines of [connection.site], the same on both nodes."""
    groups: tuple[tuple[str, ...], tuple[str, ...]] = (("ecp256",), ("ecp256",))
    """Key exchanges of CHILD_SAs, of `a` and of `b`, in order of preference."""
    child_options: tuple[str, ...] = ()
    """Further lines of each of its children."""
    esn: str = ""
    """Extended sequence numbers, as in a proposal: "-esn", or "" for short ones."""
    ppk: str = ""
    """A post-quantum preshared key (RFC 8784): the nodes that have it."""
    ppk_required: bool = False
    redirect: bool = False
    """Whether `c` is there, and `a` follows who sends it there."""
    beside: tuple[Plan, ...] = ()
    """The further connections; NAT and `c` are as the first one's."""

    @property
    def nodes(self) -> tuple[str, ...]:
        return ("a", "b", "c") if self.redirect else ("a", "b")

    @property
    def connections(self) -> dict[str, Plan]:
        return dict(zip(NAMES, (self, *self.beside), strict=False))

    @property
    def roams(self) -> bool:
        return ROAMING in self.options

    def varied(self, connection: str, **changes: object) -> Plan:
        """The same with one connection changed."""
        number = NAMES.index(connection)
        if not number:
            return replace(self, **changes)  # type: ignore[arg-type]
        changed = replace(self.beside[number - 1], **changes)  # type: ignore[arg-type]
        return replace(self, beside=(*self.beside[: number - 1], changed, *self.beside[number:]))

    @cache  # noqa: B019 - plans are few, and values
    def settings(self, name: str) -> GatewaySettings:
        loaded = load_text(self.text(name), f"{name}.toml")
        assert loaded.config is not None, loaded.diagnostics
        ppks = {one: PPK for one, plan in self.connections.items() if plan.ppk}
        return build(loaded.config, Secrets(dict.fromkeys(self.connections, PSK), ppks=ppks))

    def text(self, name: str) -> str:
        lines = [f'[gateway]\nname = "{name}"']
        for number, plan in enumerate(self.connections.values()):
            lines += plan.section(name, number, self)
        return "\n".join(lines)

    def section(self, name: str, number: int, whole: Plan) -> list[str]:
        """The `number`th connection of one node."""
        connection, is_left = NAMES[number], name == "a"
        own, other = ("a", "b") if is_left else ("b", "a")
        remote = NAT_HOST if whole.nat and not is_left else host(other, number)
        lines = [
            f"[connection.{connection}]",
            f'local_addrs = "{host(name, number)}"',
            f'remote_addrs = "{remote}"',
            f'local_id = "{own}.example"',
            f'remote_id = "{other}.example"',
            'psk = { file = "site.psk" }',
            f'proposals = ["{self.ike}{self.further}"]',
            f'start_action = "{"start" if name in self.starters else "none"}"',
            *self.options,
        ]
        if is_left and whole.redirect:
            lines.append('redirect = "follow"')
        if own in self.ppk:
            lines += [
                'ppk = { file = "site.ppk" }',
                'ppk_id = "of both"',
                f"ppk_required = {str(self.ppk_required).lower()}",
            ]
        for part, child in enumerate(self.children):
            lines += [
                f"[connection.{connection}.child.{child}]",
                f'local_ts = ["{_part(own, number, part)}"]',
                f'remote_ts = ["{_part(other, number, part)}"]',
                f"esp_proposals = {self._esp_proposals(own)}",
                *self.child_options,
            ]
        return lines

    def _esp_proposals(self, name: str) -> list[str]:
        groups = self.groups["ab".index(name)]
        if not self.pfs:
            return [f"aes128gcm16{self.esn}"]
        return [f"aes128gcm16{self.esn}-{group}{self.further}" for group in groups]


def _part(name: str, number: int, part: int) -> str:
    """The `part`th /24 of a site's network of the `number`th connection."""
    first, second = NETWORKS[name].format(FIRST_NETWORK[name] + number).split(".")[:2]
    return f"{first}.{second}.{part}.0/24"
