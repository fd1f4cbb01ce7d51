"""A thousand schedules of everything that can go wrong between two whole nodes: they come back, and lose nothing of their own.

What is asserted stands in the simulator and is asked after every step: world.py, traffic.py, links.py, invariants.py,
snapshots.py, trace.py. `SIM_SEED=n` plays one schedule and prints its whole ladder, `SIM_FACTOR=n` plays n thousand.
"""

from __future__ import annotations

import os

import pytest
from simulation import further
from simulation.scenario import Plan
from simulation.schedules import ACTS, CHILD_OPTIONS, FOUL, OPTIONS, PACES, WEATHERS, Schedule, compose, perform, play
from simulation.shell import Pace
from simulation.world import World

COUNT, BLOCK = 1000 * int(os.environ.get("SIM_FACTOR", "1")), 100
ONLY = os.environ.get("SIM_SEED")
BLOCKS = [range(int(ONLY), int(ONLY) + 1)] if ONLY else [range(one, one + BLOCK) for one in range(0, COUNT, BLOCK)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.start}-{block.stop - 1}")
def test_a_thousand_schedules(block: range) -> None:
    for seed in block:
        play(seed)


# Schedules that found something, as they were
FOUND = {
    "an IKE_SA that was going to be closed, and stayed since the peer closed the other one, had no CHILD_SAs for one worker alone": Schedule(
        90454,
        Plan(
            starters="b",
            children=("net",),
            ike="aes256gcm16-prfsha256-ecp256",
            pfs=False,
            further="-ke1_mlkem768",
            options=("rekey_check = 3", "resource_sas = 3"),
            groups=(("ecp256",), ("ecp256",)),
            esn="-esn-noesn",
            ppk="a",
            beside=(
                Plan(
                    starters="b",
                    children=("net",),
                    ike="aes256gcm16-prfsha256-ecp256",
                    pfs=True,
                    further="-ke1_mlkem768",
                    options=("encap = false", "childless = true"),
                    groups=(("ecp256",), ("ecp256",)),
                    child_options=("rekey_packets = 200",),
                ),
            ),
        ),
        "foul",
        "slow",
        ("long cut", "freeze", "flood"),
    ),
    "one worker's traffic fell back to an IKE_SA that the peer had lost, when its CHILD_SA was rekeyed beside another IKE_SA": Schedule(
        84287,
        Plan(
            starters="b",
            children=("net", "voice"),
            ike="aes256gcm16-prfsha256-ecp256",
            pfs=False,
            further="-ke1_mlkem768-ke2_x25519",
            options=("fragment_size = 296", 'reauth_time = "40s"', "rekey_check = 3", "resource_sas = 3"),
            groups=(("ecp256",), ("ecp256",)),
            child_options=("rekey_packets = 200",),
            beside=(
                Plan(
                    starters="ab",
                    children=("net", "voice"),
                    ike="aes256gcm16-prfsha256-ecp256",
                    pfs=True,
                    options=("rekey_check = 3",),
                    groups=(("ecp256",), ("ecp256",)),
                    esn="-esn",
                    ppk="a",
                ),
                Plan(
                    starters="ab",
                    children=("net", "voice"),
                    ike="aes256gcm16-prfsha256-ecp256",
                    pfs=True,
                    options=("quick_crash_detection = false",),
                    groups=(("ecp256",), ("ecp256",)),
                ),
            ),
        ),
        "rough",
        "slow",
        ("reload", "crash", "removed connection"),
    ),
    "traffic moved to a CHILD_SA that the peer had asked for, because it answered another question": Schedule(
        49523,
        Plan(
            "ab",
            ("net", "voice"),
            pfs=False,
            options=("encap = false", "rekey_check = 3"),
            child_options=("rekey_packets = 200",),
            ppk="ab",
            ppk_required=True,
        ),
        "rough",
        "slow",
        ("long cut", "stop", "reload"),
    ),
    "the DELETE of a rekeyed IKE_SA closed its successor too": Schedule(
        311, Plan(starters="ab"), "foul", "fast", ("reload", "freeze")
    ),
    "a duplicate was closed while a CHILD_SA was still being made on it": Schedule(
        564, Plan(starters="ab", children=("net", "voice"), pfs=False), "foul", "slow", ("reload", "reload")
    ),
    "traffic moved to a CHILD_SA whose answer was still on its way": Schedule(
        411,
        Plan(starters="ab", children=("net", "voice"), pfs=False, options=("quick_crash_detection = false",)),
        "rough",
        "fast",
        ("short cut", "crash"),
    ),
    "the rival of a collision was rekeyed before it had its predecessor's place": Schedule(
        4160,
        Plan("ab", ("net", "voice"), nat=True, options=("rekey_check = 3",), child_options=('rekey_time = "60s"',)),
        "foul",
        "fast",
        ("reload", "rebind", "freeze"),
    ),
    "it counted as up while both deleted a CHILD_SA that had outlived a machine's stand-still": Schedule(
        2574,
        Plan(options=("encap = false",), child_options=('rekey_time = "60s"',)),
        "torn",
        "fast",
        ("lifetimes", "freeze", "forgeries"),
    ),
    "it counted as up while all it had was an IKE_SA that both were closing": Schedule(
        19941,
        Plan("ab", options=('rekey_time = "60s"', "fragment_size = 296"), child_options=("rekey_packets = 200",)),
        "calm",
        "fast",
        ("long cut", "long cut"),
    ),
    "it counted as up while each had moved its CHILD_SA to another IKE_SA of a collision": Schedule(
        31752,
        Plan(
            "b",
            pfs=False,
            options=(
                'rekey_time = "60s"',
                "fragment_size = 296",
                "rekey_check = 3",
                "quick_crash_detection = false",
            ),
            child_options=('rekey_time = "60s"',),
        ),
        "foul",
        "slow",
        ("freeze", "freeze", "busy rekeys"),
    ),
    "five IKE_SAs after two stand-stills have six CHILD_SAs of a name between them": Schedule(
        200091,
        Plan(
            "ab",
            ("net", "voice"),
            pfs=False,
            further="-ke1_mlkem768",
            options=('reauth_time = "40s"', "quick_crash_detection = false"),
        ),
        "foul",
        "fast",
        ("lost TUN", "freeze", "freeze"),
    ),
    "a rekey that nobody answered took the traffic of another IKE_SA when its old CHILD_SA was deleted": Schedule(
        7003,
        Plan(
            starters="ab",
            pfs=False,
            further="-ke1_mlkem768",
            options=('reauth_time = "40s"', "quick_crash_detection = false"),
            child_options=("rekey_packets = 200", 'rekey_time = "60s"'),
            esn="-esn-noesn",
        ),
        "foul",
        "fast",
        ("long cut", "lifetimes"),
    ),
    "one worker's traffic stayed on an IKE_SA whose DELETE was answered, and the answer lost": Schedule(
        7076,
        Plan(
            starters="ab",
            further="-ke1_mlkem768-ke2_x25519",
            options=("quick_crash_detection = false", "resource_sas = 3"),
            esn="-esn",
            ppk="ab",
            ppk_required=True,
        ),
        "rough",
        "fast",
        ("busy rekeys", "long cut", "lost TUN"),
    ),
    "a rekey that nobody answered took the traffic of another IKE_SA when its own one was given up": Schedule(
        14669,
        Plan(
            starters="ab",
            options=('reauth_time = "40s"', "resource_sas = 3"),
            child_options=("rekey_packets = 200",),
            esn="-esn-noesn",
        ),
        "rough",
        "fast",
        ("long cut", "crash"),
    ),
    "a CHILD_SA at its hard limit was not of the IKE_SA that the endpoint prefers, and stayed": Schedule(
        23696,
        Plan(
            starters="ab",
            options=("childless = true", "quick_crash_detection = false"),
            child_options=("rekey_packets = 200",),
            ppk="a",
        ),
        "foul",
        "very slow",
        ("long cut", "operator"),
    ),
    "a complaint of the version, about a forged copy of a request, counted as its answer": Schedule(
        24396,
        Plan(
            starters="ab",
            pfs=False,
            nat=True,
            options=('rekey_time = "60s"', "childless = true", 'reauth_time = "40s"', "rekey_check = 3"),
            esn="-esn",
        ),
        "calm",
        "fast",
        ("operator", "forgeries", "rebind"),
    ),
    "the network kept every answer to a rekey until the end of the old CHILD_SA": Schedule(
        35928,
        Plan(starters="a", options=("rekey_check = 3",), child_options=('rekey_time = "60s"',), ppk="b"),
        "torn",
        "slow",
        ("freeze", "lifetimes"),
    ),
    "who was sent elsewhere deleted its IKE_SA while something sent on it was on its way": Schedule(
        3318,
        Plan(
            further="-ke1_mlkem768",
            options=('rekey_time = "60s"', "resource_sas = 3"),
            esn="-esn",
            redirect=True,
        ),
        "foul",
        "fast",
        ("drain", "rekeys"),
    ),
    "the order to go elsewhere waited behind a rekey of the IKE_SA, and was forgotten with the old one": Schedule(
        429,
        Plan(options=("dpd_delay = 2", "fragment_size = 296", "quick_crash_detection = false"), ppk="b", redirect=True),
        "calm",
        "slow",
        ("rekeys", "forgeries", "drain"),
    ),
    "one for a worker, asked for while there was no common one, was made as a second common one": Schedule(
        53459,
        Plan(
            "ab",
            ("net", "voice"),
            further="-ke1_mlkem768-ke2_x25519",
            nat=True,
            options=(
                'rekey_time = "60s"',
                "fragment_size = 296",
                "encap = false",
                "rekey_check = 3",
                "quick_crash_detection = false",
                "resource_sas = 3",
            ),
            child_options=("rekey_packets = 200",),
            esn="-esn",
            ppk="a",
        ),
        "foul",
        "slow",
        ("reload", "operator", "lifetimes"),
    ),
    "the tap asked for the key of an SA that its last packet had made the node remove": Schedule(
        57510,
        Plan(
            "b",
            ("net", "voice"),
            further="-ke1_mlkem768-ke2_x25519",
            options=(
                'rekey_time = "60s"',
                "fragment_size = 296",
                "quick_crash_detection = false",
                "resource_sas = 3",
            ),
            child_options=("rekey_packets = 200",),
            esn="-esn-noesn",
        ),
        "foul",
        "fast",
        ("crash", "reload", "operator"),
    ),
    "one worker's traffic stayed on an IKE_SA that another one covered, until its DELETE overtook it": Schedule(
        20592,
        Plan(
            further="-ke1_mlkem768",
            options=("resource_sas = 3",),
            child_options=('rekey_time = "60s"',),
            esn="-esn",
            redirect=True,
        ),
        "torn",
        "very slow",
        ("operator", "busy rekeys", "drain", "rekeys"),
    ),
    "the answer to a rekey was lost for half a minute, and who had given it did not hold the old IKE_SA any more": Schedule(
        27307,
        Plan(pfs=False, nat=True, options=('rekey_time = "60s"', "fragment_size = 296", "mobike = true"), ppk="a"),
        "calm",
        "fast",
        ("long cut", "roam", "rekeys", "stop"),
    ),
    "one worker's traffic went back to an IKE_SA that the peer had lost, when a newer one was closed": Schedule(
        37340,
        Plan(
            starters="ab",
            pfs=False,
            further="-ke1_mlkem768-ke2_x25519",
            options=("dpd_delay = 2", "childless = true"),
            beside=(
                Plan(starters="b", options=("encap = false",), ppk="ab", ppk_required=True),
                Plan(
                    starters="b",
                    children=("net", "voice"),
                    options=(
                        "encap = false",
                        "childless = true",
                        'reauth_time = "40s"',
                        "rekey_check = 3",
                        "resource_sas = 3",
                    ),
                    esn="-esn-noesn",
                ),
            ),
        ),
        "foul",
        "slow",
        ("rekeys", "operator", "operator", "flood"),
    ),
    "traffic moved to an IKE_SA whose answer was older than the peer's crash": Schedule(
        40654,
        Plan(beside=(Plan(starters="ab", pfs=False, options=("resource_sas = 3",), ppk="ab"),)),
        "foul",
        "fast",
        ("crash", "short cut", "reload"),
    ),
}


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_once(found: str) -> None:
    perform(FOUND[found])


def test_among_a_thousand_everything_happens_and_often() -> None:
    schedules = [compose(seed) for seed in range(1000)]
    for name in (*ACTS, *further.ACTS):
        assert sum(name in one.acts for one in schedules) > 20, name
    for weather in WEATHERS:
        assert sum(one.weather == weather for one in schedules) > 50, weather
    for pace in PACES:
        assert sum(one.pace == pace for one in schedules) > 50, pace
    for line, _ in OPTIONS:
        assert sum(line in one.plan.options for one in schedules) > 50, line
    for line, _ in CHILD_OPTIONS:
        assert sum(line in one.plan.child_options for one in schedules) > 50, line
    assert sum(len(one.plan.connections) == 2 for one in schedules) > 50
    assert sum(len(one.plan.connections) == 3 for one in schedules) > 20
    assert sum(one.plan.roams for one in schedules) > 50
    assert sum(one.plan.redirect for one in schedules) > 50
    for esn in ("-esn", "-esn-noesn"):
        assert sum(one.plan.esn == esn for one in schedules) > 50, esn
    for ppk, required in (("ab", True), ("ab", False), ("a", False), ("b", False)):
        assert sum((one.plan.ppk, one.plan.ppk_required) == (ppk, required) for one in schedules) > 50, ppk


def test_equal_seeds_give_equal_schedules() -> None:
    def fingerprint(seed: int) -> str:
        slow = Pace(compute=(0.001, 0.05), kernel=(0.001, 0.2))
        world = World(seed, Plan(starters="ab"), FOUL, slow).start()
        return world.disturb(20).fingerprint()

    assert fingerprint(7) == fingerprint(7) != fingerprint(8)
    assert play(7).fingerprint() == play(7).fingerprint() != play(8).fingerprint()
