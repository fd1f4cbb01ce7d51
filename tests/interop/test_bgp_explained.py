"""What stops a BGP session is told in one sentence by gatewayctl: the cause, whose setting it is, the fix. Each is provoked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.bgp_lab import ClearLab, status
from support.bgp_raw import NOTIFICATION, RawSpeaker, message
from support.netns import Lab
from support.process import LabError, wait_until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

NEIGHBOR = """
[bgp.neighbor.{name}]
address = "10.99.{number}.2"
local_address = "10.99.{number}.1"
remote_as = 65010
hold_time = 9
{more}
"""
NAMES = {"as": "", "hold": "", "keyed": 'password.file = "key"', "secured": "ttl_security = true", "called": ""}
SECTIONS = '[bgp]\nlocal_as = 65001\nrouter_id = "10.99.0.1"\n' + "".join(
    NEIGHBOR.format(name=name, number=number, more=more) for number, (name, more) in enumerate(NAMES.items())
)
RECEIVED = {  # code and subcode: a word of each sentence
    (1, 1): "what is no BGP message",
    (2, 2): "expects another AS of us than 65001",
    (2, 6): "does not accept our hold time of 9 s",
    (3, 1): "could not read an UPDATE of ours",
    (4, 0): "heard nothing of us for its hold time",
    (5, 0): "out of turn",
    (6, 1): "takes fewer prefixes than we announce",
    (6, 2): "shut the session down",
    (6, 3): "not configured for us any more",
    (6, 4): "reset the session",
    (6, 5): "rejects our connection",
    (6, 8): "out of resources",
    (6, 10): "its BFD found us unreachable",
    (7, 1): "ROUTE-REFRESH",
}


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[ClearLab, dict[str, RawSpeaker]]]:
    with Lab() as lab:
        made = ClearLab(lab, SECTIONS, {"key": "the right one"}, count=len(NAMES))
        raw = {
            name: RawSpeaker(made.machines[f"peer{number}"], f"10.99.{number}.2", 65010)
            for number, name in enumerate(NAMES)
        }
        made.gateway.start()
        yield made, raw
        for one in raw.values():
            one.close()


@contextmanager
def answering(speaker: RawSpeaker, octets: bytes) -> Iterator[None]:
    """Each call is answered so, as a neighbor that is configured so does."""
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            try:
                connection = speaker.accept(0.5)
            except LabError:
                continue
            connection.sendall(octets)
            over.wait(0.3)
            connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def explanation(lab: ClearLab, name: str) -> str:
    return next((str(one["explanation"]) for one in status(lab.gateway).get("peers", ()) if one["name"] == name), "")


def told(lab: ClearLab, name: str, *words: str, seconds: float = 10.0) -> str:
    wait_until(
        lambda: all(word in explanation(lab, name) for word in words), seconds, f"{name}: {words}", interval=0.05,
        logs=[lab.gateway.process],
    )  # fmt: skip
    return explanation(lab, name)


def test_settings_that_differ_are_named_with_both_values(bench: tuple[ClearLab, dict[str, RawSpeaker]]) -> None:
    lab, raw = bench
    with answering(raw["as"], raw["as"].open_message(asn=65011)):
        told(lab, "as", "says it is AS 65011, and `remote_as` of neighbor as is 65010", "NOTIFICATION sent 2/2")
    with answering(raw["hold"], raw["hold"].open_message(hold=2)):
        told(lab, "hold", "offers a hold time of 2 s", "raise it there", "NOTIFICATION sent 2/6")
    # these two are dropped by the kernel, and nobody hears of it
    told(lab, "keyed", "does not answer: `password` of neighbor keyed is not the one configured there")
    told(lab, "secured", "`ttl_security` of neighbor secured is not set there too")
    shown = lab.gateway.ctl("explain", check=False).stdout
    assert "BGP as is " in shown and "BGP keyed is " in shown
    assert "set `remote_as` to 65011" in " ".join(shown.split())
    assert not raw["keyed"].sessions and not raw["secured"].sessions


@pytest.mark.parametrize("code", [(2, 2), (6, 3)])
def test_a_notification_is_explained(bench: tuple[ClearLab, dict[str, RawSpeaker]], code: tuple[int, int]) -> None:
    notified(*bench, code)


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for code in RECEIVED if code not in ((2, 2), (6, 3))])
def test_each_other_notification_too(bench: tuple[ClearLab, dict[str, RawSpeaker]], code: tuple[int, int]) -> None:
    notified(*bench, code)


def notified(lab: ClearLab, raw: dict[str, RawSpeaker], code: tuple[int, int]) -> None:
    speaker = raw["called"]
    speaker.establish()
    wait_until(lambda: explanation(lab, "called") == "", 10, "a session that stands has no explanation")
    speaker.notify(*code)
    told(lab, "called", RECEIVED[code], f"(NOTIFICATION received {code[0]}/{code[1]})")


def test_a_notification_in_answer_to_our_open_is_explained_too(
    bench: tuple[ClearLab, dict[str, RawSpeaker]],
) -> None:
    """As a peer does that does not know us: nothing was ever Established."""
    lab, raw = bench
    with answering(raw["called"], message(NOTIFICATION, bytes([6, 5]))):
        told(lab, "called", "rejects our connection; configure 10.99.4.1 with AS 65001", "(NOTIFICATION received 6/5)")
