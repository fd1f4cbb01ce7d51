"""Kernel settings of the host that forwarding depends on: each wrong one a sentence with its fix.

Reads /proc/sys only and changes nothing: these are the administrator's settings. Interfaces that do not exist
(yet) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc/sys")


def host_problems(interfaces: Iterable[str], *, ipv6: bool = False, proc: Path = PROC) -> list[str]:
    """`interfaces`: the underlay interface(s) and our TUNs. `ipv6`: some prefix or address in use is IPv6."""
    names = [name for name in interfaces if (proc / "net/ipv4/conf" / name).is_dir()]
    problems = _forwarding(proc, ipv6)
    for name in names:
        problems += _interface(proc, name)
    # The kernel takes the larger of `all` and the interface; without any reverse path filter the setting has no effect.
    filtered = any(_effective(proc, name, "rp_filter") for name in names)
    if filtered and not all(_effective(proc, name, "src_valid_mark") for name in names):
        problems.append(
            "src_valid_mark is off: the reverse path filter ignores the mark of our IKE and ESP packets and may drop the"
            f" peer's; host setting, fix: {_line('net.ipv4.conf.all.src_valid_mark', 1)}"
        )
    if _read(proc, "net/ipv4/fib_multipath_hash_policy") == 0:
        problems.append(
            "fib_multipath_hash_policy is 0: with several paths to one destination all flows between two hosts take the"
            f" same path; host setting, fix: {_line('net.ipv4.fib_multipath_hash_policy', 1)}"
        )
    return problems


def _forwarding(proc: Path, ipv6: bool) -> list[str]:
    problems = []
    if _read(proc, "net/ipv4/ip_forward") == 0:
        problems.append(
            "IPv4 forwarding is off: nothing passes between the tunnels and the subnets;"
            f" host setting, fix: {_line('net.ipv4.ip_forward', 1)}"
        )
    if ipv6 and _read(proc, "net/ipv6/conf/all/forwarding") == 0:
        problems.append(
            "IPv6 forwarding is off: no IPv6 passes between the tunnels and the subnets;"
            f" host setting, fix: {_line('net.ipv6.conf.all.forwarding', 1)}"
        )
    return problems


def _interface(proc: Path, name: str) -> list[str]:
    problems = []
    # The larger of the two values counts: loose mode (2) for `all` cures strict mode (1) also on TUNs made later.
    if _effective(proc, name, "rp_filter") == 1:
        problems.append(
            f"rp_filter is strict on {name}: packets that return another way than they went are dropped silently;"
            f" host setting, fix: {_line('net.ipv4.conf.all.rp_filter', 2)}"
        )
    # Redirects are sent if either of the two is on.
    on = [scope for scope in ("all", name) if _read(proc, f"net/ipv4/conf/{scope}/send_redirects")]
    if on and not name.startswith("gw-"):
        fix = "sysctl -w " + " ".join(f"{_key(scope, 'send_redirects')}=0" for scope in on)
        problems.append(
            f"send_redirects is on for {name}: hosts of the subnet are told to go around this gateway;"
            f" host setting, fix: {fix}"
        )
    return problems


def _effective(proc: Path, name: str, setting: str) -> int:
    values = (_read(proc, f"net/ipv4/conf/{scope}/{setting}") for scope in ("all", name))
    return max((value for value in values if value is not None), default=0)


def _read(proc: Path, setting: str) -> int | None:
    """None where this kernel has no such setting."""
    try:
        return int((proc / setting).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _key(name: str, setting: str) -> str:
    """sysctl swaps dots and slashes: a dot inside an interface name is written as a slash."""
    return f"net.ipv4.conf.{name.replace('.', '/')}.{setting}"


def _line(key: str, value: int) -> str:
    return f"sysctl -w {key}={value}"
