"""Which ip rules there should be, and that each survives the way to the kernel and back."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from gateway.config.model import Gateway
from gateway.runtime.rules import BLACKHOLE, Entry, Rule, difference, rule_of, wanted_rules

SETTINGS = Gateway()
FOUR, SIX = ip_network("10.1.0.0/16"), ip_network("2001:db8:1::/48")
BOTH = {"gw-a": Entry((FOUR, SIX), (ip_address("169.254.21.1"), ip_address("fd00::1"))), "gw-b": Entry((FOUR,))}


class Message(dict[str, Any]):
    """A rule as pyroute2 decodes it: header fields as items, attributes by name."""

    def get_attr(self, name: str) -> Any:
        return self.get(name)


def kernel_says(rule: Rule) -> Message:
    """The kernel's own account of a rule: every attribute there, also those that select nothing."""
    request = rule.request()
    return Message(
        {
            "family": rule.family,
            "table": rule.table,
            "action": request["action"],
            "dst_len": request.get("dst_len", 0),
            "src_len": request.get("src_len", 0),
            "FRA_PRIORITY": request["priority"],
            "FRA_TABLE": request.get("table", 0),
            "FRA_FWMARK": request.get("fwmark"),
            "FRA_DST": request.get("dst"),
            "FRA_SRC": request.get("src"),
            "FRA_IIFNAME": request.get("iifname"),
            "FRA_SUPPRESS_PREFIXLEN": request.get("suppress_prefixlen", 0xFFFFFFFF),
        }
    )


def test_a_tun_has_its_guard_behind_our_table_in_both_families() -> None:
    tunnels = {"gw-a": Entry((FOUR, SIX), (ip_address("169.254.21.1"), ip_address("fd00::1"))), "gw-b": Entry()}
    rules = wanted_rules(SETTINGS, True, tunnels)
    assert [str(rule) for rule in rules] == [
        "IPv4 rule 22100: fwmark 0x67770001 lookup 254",
        "IPv4 rule 22101: to 169.254.169.254/32 iif lo lookup 254",
        "IPv4 rule 22102: to 168.63.129.16/32 iif lo lookup 254",
        "IPv4 rule 22103: from all lookup 221",
        "IPv4 rule 22101: to 169.254.169.254/32 iif gw-a blackhole",
        "IPv4 rule 22102: to 168.63.129.16/32 iif gw-a blackhole",
        "IPv4 rule 22104: iif gw-a lookup 254 suppress_prefixlength 7",
        "IPv4 rule 22105: to 10.1.0.0/16 iif gw-a lookup 254",
        "IPv4 rule 22106: iif gw-a blackhole",
        "IPv4 rule 22104: from 169.254.21.1/32 iif lo lookup 254 suppress_prefixlength 7",
        "IPv4 rule 22105: from 169.254.21.1/32 to 10.1.0.0/16 iif lo lookup 254",
        "IPv4 rule 22106: from 169.254.21.1/32 iif lo blackhole",
        "IPv4 rule 22101: to 169.254.169.254/32 iif gw-b blackhole",
        "IPv4 rule 22102: to 168.63.129.16/32 iif gw-b blackhole",
        "IPv4 rule 22104: iif gw-b lookup 254 suppress_prefixlength 7",
        "IPv4 rule 22106: iif gw-b blackhole",
        "IPv6 rule 22100: fwmark 0x67770001 lookup 254",
        "IPv6 rule 22103: from all lookup 221",
        "IPv6 rule 22104: iif gw-a lookup 254 suppress_prefixlength 6",
        "IPv6 rule 22105: to 2001:db8:1::/48 iif gw-a lookup 254",
        "IPv6 rule 22106: iif gw-a blackhole",
        "IPv6 rule 22104: from fd00::1/128 iif lo lookup 254 suppress_prefixlength 6",
        "IPv6 rule 22105: from fd00::1/128 to 2001:db8:1::/48 iif lo lookup 254",
        "IPv6 rule 22106: from fd00::1/128 iif lo blackhole",
        "IPv6 rule 22104: iif gw-b lookup 254 suppress_prefixlength 6",
        "IPv6 rule 22106: iif gw-b blackhole",
    ]


def test_every_guard_ends_in_a_blackhole_after_all_its_permissions() -> None:
    rules = wanted_rules(SETTINGS, True, BOTH)
    guards = {(rule.family, rule.interface, rule.source) for rule in rules if rule.suppress > 0}
    assert len(guards) == 6  # two TUNs and one address, in both families
    for guard in guards:
        own = [rule for rule in rules if (rule.family, rule.interface, rule.source) == guard]
        last = max(own, key=lambda rule: rule.priority)
        assert last.action == BLACKHOLE and not last.destination
        allowed = [rule for rule in own if rule.action != BLACKHOLE]
        assert all(rule.priority < last.priority for rule in allowed)
        # Only a named prefix may use the default route.
        assert all(rule.suppress > 0 or rule.destination for rule in allowed)


def test_without_ipv6_there_are_no_ipv6_rules() -> None:
    assert {rule.family for rule in wanted_rules(SETTINGS, False, BOTH)} == {socket.AF_INET}


@pytest.mark.parametrize("rule", wanted_rules(SETTINGS, True, BOTH), ids=str)
def test_what_the_kernel_says_of_a_rule_is_that_rule(rule: Rule) -> None:
    assert rule_of(kernel_says(rule)) == rule


def test_a_rule_that_somebody_bent_is_not_ours() -> None:
    (guard,) = [r for r in wanted_rules(SETTINGS, False, {"gw-a": Entry()}) if r.suppress > 0]
    bent = kernel_says(guard)
    bent["FRA_SUPPRESS_PREFIXLEN"] = 0xFFFFFFFF
    assert difference([guard], [rule_of(bent)]) == ([guard], [rule_of(bent)])


def test_missing_rules_are_added_and_surplus_ones_removed_but_not_all_of_a_pair() -> None:
    one, two, three = wanted_rules(SETTINGS, False)[:3]
    assert difference([one, two], [two, two, three]) == ([one], [three, two])
