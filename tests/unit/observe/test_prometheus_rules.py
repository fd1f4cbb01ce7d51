"""The rules shipped use only metrics, labels and label values that exist. What they say of series is promtool's to check."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.snapshots import ELSEWHERE, TROUBLED

from gateway.observe import metrics
from gateway.observe.metrics import FAMILIES

RULES = Path(__file__).parents[3] / "config" / "prometheus"
LABELS = {family.name: set(family.labels) for family in FAMILIES}
TEXT = metrics.render(replace(TROUBLED, addresses=ELSEWHERE)).decode()


def references() -> list[tuple[str, str, str]]:
    found = []
    for path in sorted(RULES.glob("*.rules.yml")):
        for name, selector in re.findall(r"\b(gateway_\w+)(?:\{([^}]*)\})?", path.read_text()):
            found.append((path.name, name, selector))
    return found


@pytest.mark.parametrize(("file", "name", "selector"), references())
def test_a_rule_names_what_exists(file: str, name: str, selector: str):
    assert name in LABELS
    for label, _, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', selector):
        assert label in LABELS[name]
        for word in value.split("|"):
            assert re.search(rf'^{name}\{{.*\b{label}="{word}"', TEXT, re.MULTILINE), f"no series has {label}={word}"


def test_every_alert_is_complete():
    text = (RULES / "gatewayd.rules.yml").read_text()
    alerts = re.split(r"\n      - alert: ", text)[1:]
    assert len(alerts) >= 15
    for alert in alerts:
        for key in ("expr: ", "labels: {severity: ", "summary: ", "description: "):
            assert key in alert, alert.splitlines()[0]
        used = set(re.findall(r"\$labels\.(\w+)", alert)) - {"instance"}
        names = re.findall(r"\b(gateway_\w+)", alert.split("labels:")[0])
        assert all(used <= LABELS[name] for name in names[:1]), alert.splitlines()[0]


def test_help_of_the_alerts_names_commands_that_exist():
    from gateway.cli.main import main

    for words in set(re.findall(r"gatewayctl ([a-z]+(?: peers)?)", (RULES / "gatewayd.rules.yml").read_text())):
        assert main([*words.split(), "--help"]) == 0, words


# --- as Prometheus reads them (its package is one of those for the slow tests) -----------------------------------------------------


def promtool(*words: str | Path, said: str = "") -> None:
    done = subprocess.run(["promtool", *words], input=said, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(RULES.glob("*.rules.yml")), ids=lambda path: path.name)
def test_prometheus_takes_the_rules(path: Path):
    promtool("check", "rules", path)


@pytest.mark.slow
def test_prometheus_takes_the_example_of_a_configuration(tmp_path: Path):
    for path in RULES.iterdir():
        shutil.copy(path, tmp_path)
    promtool("check", "config", "--syntax-only", tmp_path / "scrape.yml")


@pytest.mark.slow
def test_prometheus_finds_nothing_amiss_with_the_metrics():
    promtool("check", "metrics", said=TEXT)


@pytest.mark.slow
def test_alerts_are_raised_by_what_they_are_for(tmp_path: Path):
    for path in (RULES / "gatewayd.rules.yml", Path(__file__).with_name("alerts.test.yml")):
        shutil.copy(path, tmp_path)
    promtool("test", "rules", tmp_path / "alerts.test.yml")
