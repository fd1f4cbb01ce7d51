"""Host settings, read from a made-up /proc/sys: every wrong one is named with its fix, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.runtime.host_checks import host_problems

GOOD = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/fib_multipath_hash_policy": 1,
    "net/ipv4/conf/all/rp_filter": 2,
    "net/ipv4/conf/all/send_redirects": 0,
    "net/ipv4/conf/all/src_valid_mark": 1,
    "net/ipv4/conf/eth0/rp_filter": 1,
    "net/ipv4/conf/eth0/send_redirects": 0,
    "net/ipv4/conf/eth0/src_valid_mark": 0,
}


def problems(root: Path, *interfaces: str, **changes: int) -> list[str]:
    for name, value in (GOOD | {key.replace("__", "/"): value for key, value in changes.items()}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return host_problems(interfaces or ("eth0",), ipv6=True, proc=root)


def test_a_good_host_has_no_problems_and_loose_for_all_cures_strict_on_one(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


def test_an_interface_that_does_not_exist_is_left_out(tmp_path: Path) -> None:
    assert problems(tmp_path, "eth7", net__ipv4__conf__all__rp_filter=0) == []


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("net__ipv4__ip_forward", 0, "sysctl -w net.ipv4.ip_forward=1"),
        ("net__ipv6__conf__all__forwarding", 0, "sysctl -w net.ipv6.conf.all.forwarding=1"),
        ("net__ipv4__conf__all__rp_filter", 0, "sysctl -w net.ipv4.conf.all.rp_filter=2"),
        ("net__ipv4__conf__all__rp_filter", 1, "sysctl -w net.ipv4.conf.all.rp_filter=2"),
        ("net__ipv4__conf__all__send_redirects", 1, "sysctl -w net.ipv4.conf.all.send_redirects=0"),
        ("net__ipv4__conf__eth0__send_redirects", 1, "sysctl -w net.ipv4.conf.eth0.send_redirects=0"),
        ("net__ipv4__conf__all__src_valid_mark", 0, "sysctl -w net.ipv4.conf.all.src_valid_mark=1"),
        ("net__ipv4__fib_multipath_hash_policy", 0, "sysctl -w net.ipv4.fib_multipath_hash_policy=1"),
    ],
)
def test_each_wrong_setting_is_one_sentence_with_its_fix(tmp_path: Path, setting: str, value: int, fix: str) -> None:
    (found,) = problems(tmp_path, **{setting: value})
    assert found.endswith(f"host setting, fix: {fix}")


def test_src_valid_mark_does_not_matter_without_a_reverse_path_filter(tmp_path: Path) -> None:
    off = {"net__ipv4__conf__all__rp_filter": 0, "net__ipv4__conf__eth0__rp_filter": 0}
    assert problems(tmp_path, net__ipv4__conf__all__src_valid_mark=0, **off) == []


def test_a_dot_in_an_interface_name_is_written_as_sysctl_reads_it(tmp_path: Path) -> None:
    dotted = {f"net/ipv4/conf/eth0.5/{name}": 0 for name in ("rp_filter", "src_valid_mark")}
    (found,) = problems(tmp_path, "eth0.5", **dotted, **{"net/ipv4/conf/eth0.5/send_redirects": 1})
    assert found.endswith("sysctl -w net.ipv4.conf.eth0/5.send_redirects=0")
