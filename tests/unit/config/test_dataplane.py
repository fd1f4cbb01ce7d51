"""[dataplane]: how many workers, where they run, how long they look before they sleep."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.derive import workers_of
from gateway.config.load import load_text
from gateway.config.model import DataPlane
from gateway.runtime.loading import Loaded, LoadError, load_all, refuse_foreign_cpus


def told(keys: str) -> list[str]:
    return [str(one) for one in load_text(f"[dataplane]\n{keys}\n", "x").diagnostics]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("workers = 0", 'x:2:1: dataplane.workers: expected a whole number, 1 to 64, or "auto"'),
        ("workers = 65", 'x:2:1: dataplane.workers: expected a whole number, 1 to 64, or "auto"'),
        ("workers = true", 'x:2:1: dataplane.workers: expected a whole number, 1 to 64, or "auto"'),
        ('workers = "2"', 'x:2:1: dataplane.workers: expected a whole number, 1 to 64, or "auto"'),
        ('cpus = "0-1"', "x:2:1: dataplane.cpus: expected an array such as [0, 1], got text in quotes"),
        ("cpus = [-1]", "x:2:9: dataplane.cpus[0]: -1 is too small; at least 0"),
        ("cpus = [0, 1024]", "x:2:12: dataplane.cpus[1]: 1024 is too large; at most 1023"),
        (
            "cpus = [3, 1, 3]",
            "x:2:1: dataplane.cpus: CPU 3 is given twice; two workers on one CPU only wait for each other",
        ),
        (
            "workers = 1\ncpus = [0, 1]",
            "x:3:1: dataplane.cpus: 2 given for 1 workers; name one for each, or leave `workers` out",
        ),
        ('udp_gro = "eth1"', 'x:2:1: dataplane.udp_gro: expected an array such as ["eth1"], got text in quotes'),
        (
            'udp_gro = ["eth1", "a/b"]',
            "x:2:20: dataplane.udp_gro[1]: 'a/b' is no interface name: 1 to 15 octets, no '/', ':' or space",
        ),
        ('packet_socket = "yes"', "x:2:1: dataplane.packet_socket: expected true or false, got text in quotes"),
        ("busy_poll_us = 10001", "x:2:1: dataplane.busy_poll_us: 10001 is too large; at most 10000"),
    ],
)
def test_a_mistake_is_told_with_its_place(keys: str, message: str) -> None:
    assert told(keys) == [message]


@pytest.mark.parametrize(
    "keys",
    [
        'workers = "auto"\ncpus = [0, 1]',
        "workers = 2\ncpus = [5, 3]",
        "busy_poll_us = 10000",
        'udp_gro = ["eth1"]',
        "packet_socket = true",
    ],
)
def test_what_may_be_written(keys: str) -> None:
    assert told(keys) == []


def test_how_many_workers_that_makes() -> None:
    assert workers_of(DataPlane(), 6) == 6
    assert workers_of(DataPlane(), 500) == 64
    assert workers_of(DataPlane(cpus=(4, 2)), 6) == 2
    assert workers_of(DataPlane(workers=3), 6) == 3


def loaded(directory: Path, text: str) -> Loaded:
    file = directory / "gateway.toml"
    file.write_text(text)
    return load_all(file)[0]


def test_a_cpu_this_process_may_not_use_is_told_with_its_place_and_those_it_may(tmp_path: Path) -> None:
    config = loaded(tmp_path, "[dataplane]\nbusy_poll_us = 50\ncpus = [2, 5]\n")
    refuse_foreign_cpus(config, {2, 3, 5})
    with pytest.raises(LoadError) as error:
        refuse_foreign_cpus(config, {2, 3})
    (only,) = error.value.diagnostics
    assert str(only).startswith(
        f"{tmp_path}/gateway.toml:3:1: dataplane.cpus: CPU 5 is not one that gatewayd may run on: 2, 3 "
    )


def test_without_cpus_any_machine_will_do(tmp_path: Path) -> None:
    refuse_foreign_cpus(loaded(tmp_path, "[dataplane]\nworkers = 7\n"), {0})
