"""Questions about routes as HTTP has them, and the daemon's answers as documents; ten thousand rows hold nobody up."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from support.exabgp_model import attribute, update
from support.glass import CONFIG, EDGE, Glass, glass

from gateway.routing.model import SetRoute, ViaConnection
from gateway.runtime import questions
from gateway.runtime.answers import answer
from gateway.runtime.questions import Advertised, Lookup, NotThere, Places, PolicyTest, Question, Table, Unusable

INNER = "172.16.1.0/24"


@pytest.fixture
def made() -> Glass:
    found = glass()
    found.model.announce(EDGE, "172.16.0.0/16", EDGE, attribute((65001,)))
    found.model.announce(EDGE, INNER, EDGE, attribute((65001,)))
    found.model.settle()
    return found


def ask(made: Glass, question: Question) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(asyncio.run(answer(made.daemon, question)))
    assert document["schema"] == 1
    return document


def test_announcements_come_in_order_and_by_neighbor(made: Glass):
    rows = ask(made, Advertised())["advertised"]
    assert [(row["prefix"], row["peer"]) for row in rows] == [
        ("10.1.0.0/16", "edge"),
        ("10.1.0.0/16", "vnet"),
        ("172.16.0.0/16", "vnet"),
        (INNER, "vnet"),
    ]
    assert {row["peer"] for row in ask(made, Advertised("10.0.1.9"))["advertised"]} == {"vnet"}
    with pytest.raises(NotThere, match=r"no BGP neighbor 'edgy'; there are: edge, vnet"):
        ask(made, Advertised("edgy"))


def test_the_table_and_the_way_to_an_address(made: Glass):
    assert ("172.16.0.0/16", "protected") in {(row["prefix"], row["kind"]) for row in ask(made, Table())["table"]}
    found = ask(made, questions.lookup({"address": "172.16.1.9", "from": "10.1.0.1"}))["lookup"]
    assert (found["address"], found["source"], found["verdict"]) == ("172.16.1.9", "10.1.0.1", "dropped")
    with pytest.raises(NotThere, match="there are: blue"):
        ask(made, questions.lookup({"address": "172.16.1.9", "instance": "red"}))


def test_the_lines_of_settings_are_those_of_the_file_as_it_is_now(made: Glass, tmp_path: Path):
    file = made.daemon.loaded.path = tmp_path / "gateway.toml"
    file.write_text('[connection.site]\npsk.file = "a"\n')
    told = ask(made, Places(("psk", "proposals"), "site"))
    assert told["file"] == str(file)
    assert told["places"] == [
        {"connection": "site", "key": "psk", "lines": [2], "below": 1},
        {"connection": "site", "key": "proposals", "lines": [], "below": 1},
    ]
    file.write_text('# moved\n[connection.site]\npsk.file = "a"\n')
    assert ask(made, Places(("psk",)))["places"][0]["lines"] == [3]
    file.unlink()
    assert ask(made, Places(("psk",)))["places"] == []


def test_a_policy_of_the_running_configuration_by_its_name(made: Glass):
    tried = ask(made, PolicyTest("edge", "in", "few"))["policy_test"]
    assert tried["policies"]["in"] == {"now": "", "then": "few"}
    assert tried["in"]["counts"] == {"same": 0, "accepted": 0, "rejected": 1, "changed": 1}
    changed, rejected = tried["in"]["routes"]
    assert (changed["prefix"], changed["changes"], changed["reason"]) == (
        "172.16.0.0/16",
        ["MED none -> 30"],
        "policy few, rule rest",
    )
    assert (rejected["prefix"], rejected["outcome"], rejected["reason"]) == (
        INNER,
        "rejected",
        "policy few, rule inner",
    )
    assert (rejected["best_now"], rejected["best"]) == ("edge", "")
    assert "out" not in tried
    with pytest.raises(NotThere, match="no policy 'more'; there are: few"):
        ask(made, PolicyTest("edge", "in", "more"))


def test_another_file_is_tried_as_a_whole_and_nothing_changes(made: Glass):
    text = CONFIG.replace("remote_as = 65515", 'remote_as = 65515\nexport_policy = "few"')
    tried = ask(made, PolicyTest("vnet", "both", "", text))["policy_test"]
    assert tried["in"]["counts"]["same"] == 0, "it taught us nothing"
    assert tried["out"]["counts"] == {"same": 0, "accepted": 0, "rejected": 1, "changed": 2}
    assert {row["prefix"] for row in tried["out"]["routes"] if row["outcome"] == "rejected"} == {INNER}
    again = ask(made, PolicyTest("vnet", "out", "", CONFIG))["policy_test"]
    assert again["out"] == {"counts": {"same": 3, "accepted": 0, "rejected": 0, "changed": 0}, "routes": []}
    assert again["notes"] == []


def test_a_file_where_it_is_another_neighbor_says_so(made: Glass):
    text = CONFIG.replace("remote_as = 65001", "remote_as = 65002")
    notes = ask(made, PolicyTest("edge", "out", "", text))["policy_test"]["notes"]
    assert notes == ["edge is also another neighbor there (remote_as): its session would begin anew"]
    before, _, rest = CONFIG.partition("[bgp.neighbor.edge]")
    text = f"{before}[bgp.neighbor.vnet]{rest.partition('[bgp.neighbor.vnet]')[2]}"
    with pytest.raises(NotThere, match=r"new\.toml has no neighbor edge or 169\.254\.21\.2; there are: vnet"):
        ask(made, PolicyTest("edge", "in", "", text, "new.toml"))


def test_mistakes_in_the_file_are_told_with_their_places(made: Glass):
    text = CONFIG.replace("remote_as = 65515", "remot_as = 65515")
    with pytest.raises(Unusable) as refused:
        ask(made, PolicyTest("edge", "in", "", text, "new.toml"))
    line = next(number for number, one in enumerate(text.splitlines(), 1) if "remot_as" in one)
    assert any(one.startswith(f"new.toml:{line}:") and "remote_as" in one for one in refused.value.args)


@pytest.mark.parametrize(
    "query",
    [{}, {"address": "here"}, {"address": "10.0.0.1", "from": "::1"}, {"address": "10.0.0.1", "form": "10.0.0.2"}],
)
def test_a_lookup_needs_addresses_of_one_family(query: dict[str, str]):
    with pytest.raises(ValueError):
        questions.lookup(query)


@pytest.mark.parametrize(
    "body",
    [
        "[]", "{}", '{"peer": ""}', '{"peer": "edge"}', '{"peer": "edge", "policy": "few"}', '{"peer": 1, "text": ""}',
        '{"peer": "edge", "text": 1}', '{"peer": "edge", "text": "", "direction": "up"}', '{"peer": "edge", "text": "", "x": 1}',
    ],
)  # fmt: skip
def test_a_policy_test_names_a_neighbor_and_what_to_try(body: str):
    with pytest.raises(ValueError):
        questions.policy_test(body.encode())


def test_questions_have_their_defaults():
    assert questions.lookup({"address": "2001:db8::1"}) == Lookup(questions.ip_address("2001:db8::1"))
    assert questions.policy_test(b'{"peer": "edge", "policy": "few", "direction": "in"}') == PolicyTest(
        "edge", "in", "few"
    )


def test_ten_thousand_routes_hold_the_loop_up_for_moments_only(made: Glass):
    """Measured on the loop's own thread, so that a busy machine does not count."""
    prefixes = [f"20.{number >> 8}.{number & 255}.0/24" for number in range(10_000)]
    speaker = made.model.speaker
    for start in range(0, len(prefixes), 500):
        speaker.receive(update(EDGE, {EDGE: prefixes[start : start + 500]}, attributes=attribute((65001,))), 200.0)
    while speaker.instances[""].undecided:
        speaker.handle_deadline(200.0)
    for prefix in prefixes:
        made.node.tables[""].command(SetRoute(ip_network(prefix), ViaConnection("site")), 200.0)
    made.obey()
    asked = (Advertised(), Table(), PolicyTest("vnet", "out", "few"), PolicyTest("edge", "in", "few"))

    async def longest(question: Question) -> float:
        worst, done = 0.0, asyncio.create_task(answer(made.daemon, question))
        while not done.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - before)
        await done
        return worst

    assert len(speaker.loc_rib.best) > 10_000
    gc.collect()
    gc.freeze()  # as the daemon does
    try:
        for question in asked:
            assert asyncio.run(longest(question)) < 0.02, question
    finally:
        gc.unfreeze()
