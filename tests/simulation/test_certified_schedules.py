"""Schedules between two whole nodes that prove themselves by certificates: larger messages, in fragments, and more work in the middle.

As test_schedules.py, of which each is one: the same acts, weathers and paces, and the same that is asked after every step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

import pytest
from simulation import schedules
from simulation.scenario import Plan
from support.pki import Authority

from gateway.config.load import load_text
from gateway.ike.settings import Credentials, Trust
from gateway.ike.signatures import SigningKey
from gateway.node.settings import GatewaySettings, Secrets, build

# The simulator's clock begins in 1970. Ed25519: signatures without chance, so that an equal seed gives equal octets
BEGIN = datetime(1970, 1, 2, tzinfo=UTC)
ROOT = Authority("root", "ed25519", at=BEGIN, serial=1)
SUB = ROOT.sub("sub", "ed25519", at=BEGIN, serial=2)
ENDS = {name: SUB.issue(name, "ed25519", at=BEGIN, serial=1000 + ord(name), dns=[f"{name}.example"]) for name in "ab"}
COUNT = 120
BUILT: dict[tuple[object, str], GatewaySettings] = {}


@dataclass(frozen=True, slots=True)
class CertifiedPlan(Plan):
    """The same connection without a pre-shared key."""

    def settings(self, name: str) -> GatewaySettings:
        if (self, name) not in BUILT:
            loaded = load_text(self.text(name), f"{name}.toml")
            assert loaded.config is not None, loaded.diagnostics
            own = ENDS["a" if name == "a" else "b"]
            credentials = Credentials(own.certificate, own.chain, SigningKey.of(own.key))
            names = self.connections
            trusts = dict.fromkeys(names, Trust((ROOT.certificate,)))
            secrets = Secrets({}, certificates=dict.fromkeys(names, credentials), trusts=trusts)
            BUILT[self, name] = build(loaded.config, secrets)
        return BUILT[self, name]

    def text(self, name: str) -> str:
        certified = 'local_cert = "x.pem"\nlocal_key = { file = "x.key" }\nca = ["ca.pem"]\nrevocation = "off"'
        return Plan.text(self, name).replace('psk = { file = "site.psk" }', certified)


def certified(seed: int) -> schedules.Schedule:
    schedule = schedules.compose(seed)
    given = {one.name: getattr(schedule.plan, one.name) for one in fields(Plan)}
    return replace(schedule, plan=CertifiedPlan(**given))


@pytest.mark.parametrize(
    "block",
    [pytest.param(range(one, one + 40), marks=[pytest.mark.slow] if one else []) for one in range(0, COUNT, 40)],
    ids=str,
)
def test_schedules_with_certificates(block: range, monkeypatch: pytest.MonkeyPatch) -> None:
    compose = schedules.compose
    composed = {seed: certified(seed) for seed in block}
    monkeypatch.setattr(schedules, "compose", lambda seed: composed.get(seed) or compose(seed))
    for seed in block:
        world = schedules.play(seed)
        assert all(shell.node.settings.tunnels[0].ike.psk == b"" for shell in world.shells.values())
