"""Which ip rules there should be, and that each survives the way to the kernel and back."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import pytest

from gateway.config.model import Gateway
from gateway.runtime.rules import (
    ANY_LENGTH,
    BLACKHOLE,
    ENTRY,
    GOTO,
    LINKS,
    LOOKUP,
    NOTHING,
    PAST,
    TABLE,
    UNREACHABLE,
    Entry,
    Rule,
    decode_rule,
    difference,
    inside,
    wanted_rules,
)

SETTINGS = Gateway()
FOUR, SIX = ip_network("10.1.0.0/16"), ip_network("2001:db8:1::/48")
INSIDE = (ip_address("169.254.21.1"), ip_address("fd00::1"))
BOTH = {"gw-a": Entry((FOUR, SIX), INSIDE), "gw-b": Entry((FOUR,))}
MAIN, OTHER_MAIN = 32766, 32767


def test_a_tun_has_its_guard_behind_our_table_in_both_families() -> None:
    rules = wanted_rules(SETTINGS, True, {"gw-a": Entry((FOUR, SIX), INSIDE), "gw-b": Entry()}, ["eth0"])
    assert [str(rule) for rule in rules] == [
        "IPv4 rule 22100: fwmark 0x67770001 lookup 254",
        "IPv4 rule 22100: fwmark 0x27770001 lookup 254",
        "IPv4 rule 22101: to 169.254.169.254/32 iif lo lookup 254",
        "IPv4 rule 22102: to 168.63.129.16/32 iif lo lookup 254",
        "IPv4 rule 22105: not fwmark 0x67770001 lookup 221",
        "IPv4 rule 3210000000: from all unreachable",
        "IPv4 rule 3210000013: from all blackhole",
        "IPv4 rule 3210000010: to 169.254.169.254/32 blackhole",
        "IPv4 rule 3210000010: to 168.63.129.16/32 blackhole",
        "IPv4 rule 3210000011: from all lookup 254 suppress_prefixlength 7",
        "IPv4 rule 3210044123: from all blackhole",
        "IPv4 rule 3210044120: to 169.254.169.254/32 blackhole",
        "IPv4 rule 3210044120: to 168.63.129.16/32 blackhole",
        "IPv4 rule 3210044121: from all lookup 254 suppress_prefixlength 7",
        "IPv4 rule 3210044122: to 10.1.0.0/16 lookup 254",
        "IPv4 rule 22108: iif gw-a blackhole",
        "IPv4 rule 22108: from 169.254.21.1/32 iif lo blackhole",
        "IPv4 rule 22108: iif gw-b blackhole",
        "IPv4 rule 22107: iif gw-a goto 3210044120",
        "IPv4 rule 22107: from 169.254.21.1/32 iif lo goto 3210044120",
        "IPv4 rule 22107: iif gw-b goto 3210000010",
        "IPv4 rule 22109: from all nop",
        "IPv4 rule 22106: iif eth0 goto 22109",
        "IPv6 rule 22100: fwmark 0x67770001 lookup 254",
        "IPv6 rule 22100: fwmark 0x27770001 lookup 254",
        "IPv6 rule 22105: not fwmark 0x67770001 lookup 221",
        "IPv6 rule 3210000000: from all unreachable",
        "IPv6 rule 3210000013: from all blackhole",
        "IPv6 rule 3210000011: from all lookup 254 suppress_prefixlength 6",
        "IPv6 rule 3210076783: from all blackhole",
        "IPv6 rule 3210076781: from all lookup 254 suppress_prefixlength 6",
        "IPv6 rule 3210076782: to 2001:db8:1::/48 lookup 254",
        "IPv6 rule 22108: iif gw-a blackhole",
        "IPv6 rule 22108: from fd00::1/128 iif lo blackhole",
        "IPv6 rule 22108: iif gw-b blackhole",
        "IPv6 rule 22107: iif gw-a goto 3210076781",
        "IPv6 rule 22107: from fd00::1/128 iif lo goto 3210076781",
        "IPv6 rule 22107: iif gw-b goto 3210000011",
        "IPv6 rule 22109: from all nop",
        "IPv6 rule 22106: iif eth0 goto 22109",
    ]


def _block(rules: list[Rule], goto: Rule) -> list[Rule]:
    """Where the goto leads, in the kernel's order, up to the first rule that every packet ends in."""
    found = []
    for rule in sorted(rules, key=lambda rule: rule.priority):
        if rule.family == goto.family and rule.priority >= goto.target:
            found.append(rule)
            if rule.action == BLACKHOLE and not rule.destination:
                break
    return found


def test_every_way_out_of_a_tun_ends_in_a_blackhole_after_all_its_permissions() -> None:
    rules = wanted_rules(SETTINGS, True, BOTH)
    gotos = [rule for rule in rules if rule.priority == SETTINGS.rule_priority + ENTRY]
    assert all(rule.action == GOTO for rule in gotos)
    assert len(gotos) == 6  # two TUNs and one address, in both families
    for goto in gotos:
        block = _block(rules, goto)
        assert block[0].priority == goto.target, "the kernel takes no later rule for a target that is missing"
        assert (block[-1].action, block[-1].destination) == (BLACKHOLE, "")
        allowed = [rule for rule in block if rule.action == LOOKUP]
        # Only a named prefix may use the default route.
        assert all(rule.suppress > 0 or rule.destination for rule in allowed)
        entry = BOTH.get(goto.interface) or BOTH["gw-a"]
        version = 4 if goto.family == socket.AF_INET else 6
        named = [str(prefix) for prefix in entry.destinations if prefix.version == version]
        assert [rule.destination for rule in allowed if rule.destination] == named
        closed = [r for r in block if r.destination and r.action == BLACKHOLE]
        assert len(closed) == (2 if version == 4 else 0)
        assert all(rule.priority < allowed[0].priority for rule in closed)


def test_a_goto_that_leads_nowhere_is_followed_by_a_blackhole_for_the_same_packets() -> None:
    rules = wanted_rules(SETTINGS, True, BOTH)
    for goto in (rule for rule in rules if rule.priority == SETTINGS.rule_priority + ENTRY):
        between = [
            rule
            for rule in rules
            if rule.family == goto.family
            and goto.priority < rule.priority < MAIN
            and (rule.interface, rule.source) == (goto.interface, goto.source)
        ]
        assert [(rule.action, rule.destination, rule.fwmark) for rule in between] == [(BLACKHOLE, "", 0)]


def test_nobody_enters_a_block_but_by_goto() -> None:
    """Main's and default's rule decide for everyone else, and what they do not know is as unreachable as ever."""
    for family in (socket.AF_INET, socket.AF_INET6):
        rules = [rule for rule in wanted_rules(SETTINGS, True, BOTH) if rule.family == family]
        behind = sorted((rule for rule in rules if rule.priority > OTHER_MAIN), key=lambda rule: rule.priority)
        assert behind[0] == Rule(family, behind[0].priority, 0, action=UNREACHABLE)
        assert behind[1].priority > behind[0].priority
        before = [rule for rule in rules if rule.priority < MAIN and rule.priority > SETTINGS.rule_priority + TABLE]
        assert all(rule.interface or rule.action == NOTHING for rule in before)


def test_what_is_closed_is_made_before_what_is_opened() -> None:
    made: list[Rule] = []
    for rule in wanted_rules(SETTINGS, True, BOTH):
        if rule.action == GOTO and rule.interface in (*BOTH, "lo"):
            block = _block(made, rule)
            assert block and block[0].priority == rule.target and not block[-1].destination
            assert any(
                r.action == BLACKHOLE and r.interface == rule.interface and r.family == rule.family for r in made
            )
        made.append(rule)


def test_a_thousand_tuns_with_the_same_destinations_share_one_block() -> None:
    many = {f"gw-{number}": Entry((FOUR,)) for number in range(1000)}
    rules = wanted_rules(SETTINGS, False, many)
    assert len([rule for rule in rules if rule.priority > OTHER_MAIN]) == 6
    assert len(rules) == 5 + 6 + 2 * 1000 + 2


def test_what_came_by_another_link_goes_past_the_tuns_and_meets_nothing_of_theirs() -> None:
    names = [f"eth{number}" for number in range(LINKS + 5)]
    rules = wanted_rules(SETTINGS, True, BOTH, names)
    cuts = [rule for rule in rules if rule.priority == SETTINGS.rule_priority + PAST]
    assert [(rule.family, rule.interface) for rule in cuts] == [
        (family, name) for family in (socket.AF_INET, socket.AF_INET6) for name in sorted(names)[:LINKS]
    ]
    for cut in cuts:
        (end,) = [rule for rule in rules if rule.priority == cut.target and rule.family == cut.family]
        assert (end.action, end.interface, end.destination) == (NOTHING, "", "")
        guards = [rule for rule in rules if rule.interface in BOTH and rule.family == cut.family]
        assert all(cut.priority < guard.priority < cut.target for guard in guards)
        assert rules.index(end) < rules.index(cut)
    # Nothing of a TUN's, and nothing of this host's own
    assert not {rule.interface for rule in cuts} & {*BOTH, "lo", ""}
    assert wanted_rules(SETTINGS, True, {}, names) == wanted_rules(SETTINGS, True)


def test_this_host_s_own_packets_have_the_short_cut_only_where_no_tun_has_an_address() -> None:
    def cut(entries: dict[str, Entry]) -> set[int]:
        rules = wanted_rules(SETTINGS, True, entries)
        return {rule.family for rule in rules if (rule.interface, rule.action, rule.source) == ("lo", GOTO, "")}

    assert cut({"gw-a": Entry((FOUR,))}) == {socket.AF_INET, socket.AF_INET6}
    assert cut({"gw-a": Entry((FOUR,), INSIDE[:1])}) == {socket.AF_INET6}
    assert cut(BOTH) == set()


def test_blocks_keep_their_places_when_others_come_and_go() -> None:
    sets = {f"gw-{n}": Entry((ip_network((0x0A000000 + (n << 8), 24)),)) for n in range(3000)}
    all_of_them = wanted_rules(SETTINGS, False, sets)
    starts = {rule.interface: rule.target for rule in all_of_them if rule.interface in sets and rule.action == GOTO}
    assert len(set(starts.values())) == 3000
    assert all(rule.priority < 2**32 for rule in all_of_them)
    one = wanted_rules(SETTINGS, False, {"gw-7": sets["gw-7"], "gw-2999": sets["gw-2999"]})
    kept = {rule.interface: rule.target for rule in one if rule.interface in sets and rule.action == GOTO}
    assert kept == {name: starts[name] for name in kept}


def test_two_gateways_on_one_host_have_blocks_of_their_own() -> None:
    last = Gateway(rule_priority=32700)
    ours, theirs = (
        {rule.priority for rule in wanted_rules(settings, False, BOTH) if rule.priority > OTHER_MAIN}
        for settings in (SETTINGS, last)
    )
    assert not ours & theirs and max(ours | theirs) < 2**32


@pytest.mark.parametrize("mark", [1, 0x67770001, 0x40000000, 0x80000000, 0x80000001, 0xFFFFFFFF])
def test_the_mark_of_what_is_inside_is_one_of_its_own_and_never_none(mark: int) -> None:
    """No mark at all has whatever is not ours, and all of that would pass our table by."""
    assert inside(mark) not in (0, mark)
    marks = [rule.fwmark for rule in wanted_rules(Gateway(mark=mark), False) if rule.table == 254 and rule.fwmark]
    assert marks == [mark, inside(mark)]


def test_without_ipv6_there_are_no_ipv6_rules() -> None:
    assert {rule.family for rule in wanted_rules(SETTINGS, False, BOTH)} == {socket.AF_INET}


@pytest.mark.parametrize("rule", wanted_rules(SETTINGS, True, BOTH), ids=str)
def test_what_goes_to_the_kernel_is_that_rule(rule: Rule) -> None:
    assert decode_rule(rule.add(221).body) == (221, rule)
    assert decode_rule(rule.remove(99).body) == (99, rule)


def test_a_rule_that_somebody_bent_is_not_ours() -> None:
    (guard,) = [r for r in wanted_rules(SETTINGS, False, {"gw-a": Entry()}) if r.suppress != ANY_LENGTH]
    bent = Rule(guard.family, guard.priority, guard.table)
    _, seen = decode_rule(bent.add(221).body)
    assert difference([guard], [seen]) == ([guard], [seen])


def test_missing_rules_are_added_and_surplus_ones_removed_but_not_all_of_a_pair() -> None:
    one, two, three = wanted_rules(SETTINGS, False)[:3]
    assert difference([one, two], [two, two, three]) == ([one], [three, two])
