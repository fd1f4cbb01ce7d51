r"""A pair with an outer address that moves, and the edge that knows of one gateway: as its operators configure them.

a 10.0.0.4 --\                   /-- edge 198.51.100.100
b 10.0.0.5 ---- 198.51.100.10 --/        (whoever is active has it)
w 10.0.9.9
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from gateway.config.load import load_text
from gateway.node.pair_settings import PairSecrets
from gateway.node.settings import GatewaySettings, Secrets, build

SHARED, EDGE = "198.51.100.10", "198.51.100.100"
HOSTS = {"a": "10.0.0.4", "b": "10.0.0.5", "w": "10.0.9.9", "e": EDGE}
CONNECTED = {"a": "10.0.0.0/8", "b": "10.0.0.0/8", "e": "198.51.100.0/24"}
OTHER = {"a": "b", "b": "a"}
CONNECTION, CHILD = "site", "net"
INTERVAL, DEAD_AFTER, TTL = 0.5, 3, 3.0
DEAD_TIME = INTERVAL * DEAD_AFTER
SECRET = b"a secret of the pair, long enough"
PSK = b"thirty-two octets of a shared key"

_CONNECTION = """
[gateway]
name = "{name}"
[connection.site]
local_addrs = "{local}"
remote_addrs = "{remote}"
local_id = "{own}.example"
remote_id = "{other}.example"
psk = {{ file = "site.psk" }}
proposals = ["aes256gcm16-prfsha256-ecp256"]
start_action = "{start}"
dpd_delay = "3s"
retransmit_timeout = "500ms"
retransmit_tries = 4
[connection.site.child.net]
local_ts = ["{inside}"]
remote_ts = ["{beyond}"]
esp_proposals = ["{esp}"]
"""
_PAIR = """
[ha]
local_address = "{host}"
remote_address = "{peer}"
secret = {{ file = "pair.secret" }}
interval = "500ms"
dead_after = 3
priority = {priority}
preempt = {preempt}
preempt_delay = "5s"
drain_time = "3s"
hold_down = "1s"
shared_addresses = ["{shared}"]
[ha.witness]
address = "{witness}"
ttl = "3s"
break_lease = {broken}
"""


@dataclass(frozen=True, slots=True)
class MovePlan:
    """What a schedule varies. `starters`: who begins the negotiation, "g" the gateways, "e" the edge."""

    starters: str = "g"
    preempt: bool = False
    broken: bool = False
    """Whether a standby may take the lease by force."""
    esn: bool = False

    @cache  # noqa: B019 - plans are few, and values
    def settings(self, name: str) -> GatewaySettings:
        text = self._edge() if name == "e" else self._gateway(name)
        loaded = load_text(text, f"{name}.toml")
        assert loaded.config is not None, loaded.diagnostics
        secrets = PairSecrets(SECRET, witness=SECRET)
        return build(loaded.config, Secrets({CONNECTION: PSK}, {}, secrets))

    def _gateway(self, name: str) -> str:
        pair = _PAIR.format(
            host=HOSTS[name], peer=HOSTS[OTHER[name]], priority=200 if name == "a" else 100,
            preempt=str(self.preempt).lower(), shared=SHARED, witness=HOSTS["w"], broken=str(self.broken).lower(),
        )  # fmt: skip
        return self._connection(f"gw-{name}", SHARED, EDGE, "g") + pair

    def _edge(self) -> str:
        return self._connection("edge", EDGE, SHARED, "e")

    def _connection(self, name: str, local: str, remote: str, side: str) -> str:
        networks = ("10.1.0.0/24", "172.16.0.0/24")
        inside, beyond = networks if side == "g" else networks[::-1]
        return _CONNECTION.format(
            name=name, local=local, remote=remote, own=side, other="e" if side == "g" else "g",
            start="start" if side in self.starters else "none", inside=inside, beyond=beyond,
            esp=f"aes128gcm16{'-esn' if self.esn else ''}-ecp256",
        )  # fmt: skip
