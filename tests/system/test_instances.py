"""Two customers with the same prefixes on one gateway: each reaches its own site, neither the other, and nothing in clear."""

from __future__ import annotations

import pytest
from support.capture import Capture
from support.customers import BLUE, RED, SESSION, SITE, Customers, configuration
from support.netns import Lab
from support.operated import run_to_end
from support.process import wait_until

pytestmark = pytest.mark.system


@pytest.fixture
def customers(lab: Lab) -> Customers:
    made = Customers(lab)
    made.start()
    return made


def test_each_reaches_its_own_site_and_neither_the_other(customers: Customers) -> None:
    assert (customers.hears(BLUE), customers.hears(RED)) == ("blue", "red")
    for table in ("301", "302"):
        assert customers.gateway.has_route(SITE, table)
    assert not customers.gateway.has_route(SITE, "221")
    # what each edge was taught: its own LAN, and nothing of the other's
    assert [set(customers.birds[name].learned(SESSION)) for name in ("blue", "red")] == [
        {"10.1.1.0/24"},
        {"10.2.1.0/24"},
    ]
    # from LAN to LAN, and from one site to the other's LAN
    assert customers.ask(customers.hosts["blue"], "10.2.1.10") == ""
    customers.edges["red"].batch("route add 10.1.1.0/24 dev ipsec0 src 169.254.22.2")
    assert customers.ask(customers.edges["red"], "10.1.1.10") == ""
    assert customers.ask(customers.edges["blue"], "10.1.1.10") == "lan of blue", "or this would prove nothing"
    rows = {(row["instance"], row["prefix"], row["installed"]) for row in customers.daemon.status()["routes"]}
    assert rows == {("blue", SITE, True), ("red", SITE, True)}
    for name in ("blue", "red"):
        way = customers.daemon.ctl("lookup", "172.16.1.10", "--instance", name).stdout
        assert f"leaves encrypted, in {name}/" in way and f"from {name}" in way, way
    nowhere = customers.daemon.ctl("lookup", "192.0.2.1", "--instance", "blue").stdout
    assert "the table of instance blue says nothing about it, so it goes nowhere" in nowhere
    assert customers.daemon.ctl("lookup", "192.0.2.1", "--instance", "green", check=False).returncode == 4
    shown = customers.daemon.ctl("bgp", "routes").stdout
    assert "blue" in shown and "red" in shown


@pytest.mark.slow
def test_one_that_fails_fails_closed_and_leaves_the_other_alone(customers: Customers) -> None:
    capture = Capture(customers.wan, "gateway")
    capture.start()
    charon = customers.charons["blue"].process
    assert charon is not None
    charon.kill()
    customers.daemon.ctl("terminate", "blue", check=False)
    assert customers.hears(BLUE) == ""
    assert customers.hears(RED) == "red"
    # as after a crash: the TUNs go, the guards stay
    customers.daemon.kill()
    assert (customers.hears(BLUE), customers.hears(RED)) == ("", "")
    assert capture.stop().clear == 0
    # and as after a reboot
    for table in ("301", "302", "221"):
        customers.gateway.run("ip", "route", "flush", "table", table)
    customers.gateway.run("sh", "-c", "while ip rule del protocol 221 2>/dev/null; do :; done")
    again = Capture(customers.wan, "gateway", "again")
    again.start()
    assert customers.hears(BLUE) == "", "the edge does not answer in clear"
    assert again.stop().clear > 0, "or this would prove nothing"
    done = run_to_end(customers.daemon, "--guard", "--config", str(customers.daemon.config))
    assert done.returncode == 0, done.stderr
    assert "instance blue" in done.stdout
    last = Capture(customers.wan, "gateway", "last")
    last.start()
    assert (customers.hears(BLUE), customers.hears(RED)) == ("", "")
    assert last.stop().clear == 0


def test_rules_of_customers_who_left_while_the_daemon_was_down_go_also_where_no_tun_is_opened(lab: Lab) -> None:
    scene = Customers(lab)
    scene.daemon.start()

    def leading() -> list[str]:
        rules = scene.gateway.run("ip", "rule") + scene.gateway.run("ip", "-6", "rule")
        return [table for table in ("301", "302") if f"lookup {table}" in rules]

    wait_until(lambda: "gw-red" in scene.gateway.run("ip", "rule"), 10, "rules", logs=[scene.daemon.process])
    assert leading() == ["301", "302"]
    scene.daemon.kill()
    scene.daemon.config.write_text(configuration().partition("[bgp]")[0])
    assert scene.gateway.routes("301") and scene.gateway.routes("302"), "their guards"
    scene.daemon.start()
    wait_until(lambda: leading() == [], 5, "no rule of theirs", logs=[scene.daemon.process])
    wait_until(lambda: not scene.gateway.routes("301") and not scene.gateway.routes("302"), 5, "and empty tables")
    left = scene.gateway.run("ip", "rule", "show", "protocol", "221")
    assert "lan-" not in left and "gw-" not in left


@pytest.mark.slow
def test_a_customer_comes_and_goes_by_reload_while_the_other_works(customers: Customers) -> None:
    daemon = customers.daemon
    daemon.config.write_text(configuration(BLUE))
    assert daemon.ctl("reload").returncode == 0
    assert customers.hears(BLUE) == "blue"
    wait_until(
        lambda: not customers.gateway.routes("302"),
        10,
        "an empty table",
        logs=[daemon.process],
    )
    wait_until(lambda: "302" not in customers.gateway.run("ip", "rule"), 10, "no rule that leads there")
    assert customers.birds["blue"].learned(SESSION)
    daemon.config.write_text(configuration(BLUE, RED))
    assert daemon.ctl("reload").returncode == 0
    wait_until(lambda: customers.hears(RED) == "red", 40, "the customer back again", logs=[daemon.process])
    assert customers.hears(BLUE) == "blue"
    done = run_to_end(daemon, "--cleanup", "--config", str(daemon.config)) if daemon.stop() == 0 else None
    assert done is not None and "instance red: kept the guard" in done.stdout
    # nor is the guard of one that is configured no longer given up
    daemon.config.write_text(configuration(BLUE))
    done = run_to_end(daemon, "--cleanup", "--config", str(daemon.config))
    assert "instance 302: kept the guard" in done.stdout
    assert "302" in customers.gateway.run("ip", "rule")
    done = run_to_end(daemon, "--cleanup", "--all", "--config", str(daemon.config))
    assert not customers.gateway.routes("301") and not customers.gateway.routes("302")
    assert "lookup 30" not in customers.gateway.run("ip", "rule")
