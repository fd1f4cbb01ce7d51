"""Two sites and one connection between them, from configuration texts as an operator writes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from gateway.config.load import load_text
from gateway.node.settings import GatewaySettings, Secrets, build

PSK = b"thirty-two octets of a shared key"
PPK = b"thirty-two octets no computer has"
CONNECTION = "site"
HOSTS = {"a": "192.0.2.1", "b": "198.51.100.1"}
CONNECTED = {"a": "192.0.2.0/24", "b": "198.51.100.0/24"}
NETWORKS = {"a": "10.1.0.0/16", "b": "172.16.0.0/16"}
NAT_HOST = "203.0.113.1"
"""Where `b` sees `a` when a NAT is between them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule varies. `starters`: the nodes with start_action start; the others only respond."""

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

    @cache  # noqa: B019 - plans are few, and values
    def settings(self, name: str) -> GatewaySettings:
        loaded = load_text(self.text(name), f"{name}.toml")
        assert loaded.config is not None, loaded.diagnostics
        return build(loaded.config, Secrets({CONNECTION: PSK}, ppks={CONNECTION: PPK} if self.ppk else {}))

    def text(self, name: str) -> str:
        other = "b" if name == "a" else "a"
        remote = NAT_HOST if self.nat and other == "a" else HOSTS[other]
        lines = [
            f'[gateway]\nname = "{name}"',
            f"[connection.{CONNECTION}]",
            f'local_addrs = "{HOSTS[name]}"',
            f'remote_addrs = "{remote}"',
            f'local_id = "{name}.example"',
            f'remote_id = "{other}.example"',
            'psk = { file = "site.psk" }',
            f'proposals = ["{self.ike}{self.further}"]',
            f'start_action = "{"start" if name in self.starters else "none"}"',
            *self.options,
        ]
        if name in self.ppk:
            lines += [
                'ppk = { file = "site.ppk" }',
                'ppk_id = "of both"',
                f"ppk_required = {str(self.ppk_required).lower()}",
            ]
        for number, child in enumerate(self.children):
            lines += [
                f"[connection.{CONNECTION}.child.{child}]",
                f'local_ts = ["{_part(NETWORKS[name], number)}"]',
                f'remote_ts = ["{_part(NETWORKS[other], number)}"]',
                f"esp_proposals = {self._esp_proposals(name)}",
                *self.child_options,
            ]
        return "\n".join(lines)

    def _esp_proposals(self, name: str) -> list[str]:
        groups = self.groups["ab".index(name)]
        if not self.pfs:
            return [f"aes128gcm16{self.esn}"]
        return [f"aes128gcm16{self.esn}-{group}{self.further}" for group in groups]


def _part(network: str, number: int) -> str:
    """The `number`th /24 of a site's network."""
    first, second = network.split(".")[:2]
    return f"{first}.{second}.{number}.0/24"
