"""How a simulated pair is configured, and the weather between its machines. The seconds are short: only their ratios matter."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.ha.roles import ElectionSettings

INTERVAL, DEAD_AFTER, TTL = 0.5, 3, 3.0
DEAD_TIME = INTERVAL * DEAD_AFTER


@dataclass(frozen=True, slots=True)
class HaWeather:
    loss: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (0.001, 0.003)


CALM = HaWeather()
ROUGH = HaWeather(0.05, 0.05, (0.001, 0.15))
FOUL = HaWeather(0.2, 0.1, (0.001, 0.45))


@dataclass(frozen=True, slots=True)
class HaPlan:
    """How the pair is configured."""

    policy: str = "witness"  # or "break", "stay", "promote"
    preempt: bool = False
    paths: int = 1

    @property
    def witness(self) -> bool:
        return self.policy in ("witness", "break")

    def election(self, name: str) -> ElectionSettings:
        return ElectionSettings(
            f"gw-{name}",
            priority=200 if name == "a" else 100,
            witness=self.witness,
            none="promote" if self.policy == "promote" else "stay",
            break_lease=self.policy == "break",
            preempt=self.preempt,
            preempt_delay=5.0,
            init_wait=2.5,
            patience=2.0,
            handover_timeout=2.0,
            drain_time=3.0,
            hold_down=1.0,
            hold_down_max=8.0,
            forgive_after=60.0,
        )
