"""The configuration text; the installed ExaBGP is asked whether it takes it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from gateway.bgp.exabgp_config import process_section, render, restarted
from gateway.bgp.settings import NeighborSettings, SpeakerSettings


def neighbor(**more: Any) -> NeighborSettings:
    return NeighborSettings("edge", ip_address("10.9.0.2"), 65010, ip_address("10.9.0.1"), **more)


def settings(*neighbors: NeighborSettings) -> SpeakerSettings:
    return SpeakerSettings(65001, IPv4Address("10.9.0.1"), neighbors=neighbors)


def lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines()}


def test_a_plain_external_neighbor_has_ttl_1_and_the_family_of_its_address() -> None:
    text = lines(render(settings(neighbor()), "/usr/bin/true /tmp/x"))
    assert {
        "neighbor 10.9.0.2 {",
        "outgoing-ttl 1;",
        "family { ipv4 unicast; }",
        "hold-time 30;",
        "run /usr/bin/true /tmp/x;",
    } <= text
    assert not [line for line in text if line.startswith(("md5", "passive", "listen", "incoming-ttl"))]


def test_an_internal_neighbor_is_not_limited_to_one_hop() -> None:
    assert "outgoing-ttl" not in render(settings(replace(neighbor(), remote_as=65001)), "/x")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"multihop": 4}, {"outgoing-ttl 4;"}),
        ({"ttl_security": True}, {"outgoing-ttl 255;", "incoming-ttl 255;"}),
        ({"passive": True}, {"passive true;", "listen 179;"}),
        ({"password": b"s3cret"}, {'md5-password "czNjcmV0";', "md5-base64 true;"}),
        ({"hold_time": 9}, {"hold-time 9;"}),
    ],
)
def test_options(option: dict[str, Any], expected: set[str]) -> None:
    assert expected <= lines(render(settings(neighbor(**option)), "/x"))


def test_the_password_is_not_in_the_representation_of_the_settings() -> None:
    assert "s3cret" not in repr(settings(neighbor(password=b"s3cret")))


def test_graceful_restart_stays_off() -> None:
    assert "graceful-restart" not in render(settings(neighbor()), "/x")


def test_exabgp_accepts_every_option_at_once(tmp_path: Path) -> None:
    v6 = NeighborSettings("edge6", ip_address("fd09::2"), 65010, ip_address("fd09::1"), password=bytes(range(60)))
    many = settings(
        neighbor(password=b'quote " and ; } \xff', multihop=3),
        replace(neighbor(ttl_security=True, passive=True), name="b", address=ip_address("10.9.0.3")),
        replace(neighbor(), name="pair", address=ip_address("10.9.0.4"), remote_as=65001),
        v6,
    )
    file = tmp_path / "exabgp.conf"
    file.write_text(render(many, f"{sys.executable} -I /nowhere/relay.py /tmp/bgp.sock"))
    done = subprocess.run(
        [sys.executable, "-m", "exabgp", "validate", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_exabgp_accepts_no_neighbors_at_all(tmp_path: Path) -> None:
    file = tmp_path / "exabgp.conf"
    file.write_text(render(settings(), f"{sys.executable} -I /nowhere/relay.py /tmp/bgp.sock"))
    done = subprocess.run(
        [sys.executable, "-m", "exabgp", "validate", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ({}, ()),
        ({"hold_time": 24}, ("edge",)),
        ({"password": b"another"}, ("edge",)),
        ({"graceful_restart": 60}, ("edge",)),
        ({"max_prefixes": 5, "transit": True}, ()),
    ],
)
def test_only_neighbors_of_which_exabgp_is_told_anything_else_begin_anew(
    change: dict[str, Any], anew: tuple[str, ...]
) -> None:
    other = replace(neighbor(), name="other", address=ip_address("10.9.7.2"))
    before = settings(neighbor(), other)
    assert restarted(before, settings(neighbor(**change), other)) == anew
    assert restarted(before, settings(other)) == ()
    assert restarted(settings(other), before) == ()
    assert set(restarted(before, replace(before, local_as=65009))) == {"edge", "other"}


def test_the_process_section_is_what_stands_before_the_neighbors() -> None:
    one, two = render(settings(neighbor()), "/bin/a"), render(settings(), "/bin/a")
    assert process_section(one).strip() == process_section(two).strip() == two.strip()
    assert process_section(render(settings(), "/bin/b")).strip() != two.strip()
