"""Merging of arriving UDP datagrams on interfaces of the inner network (`dataplane.udp_gro`).

Between subnets and tunnels the kernel forwards. Without this it hands every UDP datagram to the TUN by itself, at the
cost of a system call each; with generic receive offload and its UDP half for forwarded packets (Linux 5.12) up to 64 of
a flow come as one, and are split again, unchanged, before they are sealed. What was switched on is not switched off.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import closing

from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice, NotSupportedError

_WANTED = {"rx-gro": True, "rx-udp-gro-forwarding": True, "rx-gro-list": False}

_MISSING = "dataplane.udp_gro: interface {} does not exist; configuration, fix: correct the name"


def merge_udp(interfaces: Iterable[str]) -> list[str]:
    """Sees to it on each interface; blocking. Gives what is wrong, a sentence each."""
    with closing(IoctlEthtool()) as ethtool:
        return [problem for name in interfaces if (problem := _merge(ethtool, name))]


def _merge(ethtool: IoctlEthtool, name: str) -> str:
    try:
        ethtool.change_ifname(name)
        features = ethtool.get_features()
        known = {feature: on for feature, on in _WANTED.items() if feature in features}
        wrong = {feature: on for feature, on in known.items() if features[feature] != on}
        for feature, on in wrong.items():
            features[feature] = on
        if wrong:
            ethtool.set_features(features)
        features = ethtool.get_features()
    except NoSuchDevice:
        return _MISSING.format(name)
    except NotSupportedError:
        return _told(name, "the device has no such features")
    except OSError as error:
        return _MISSING.format(name) if error.errno == errno.ENODEV else _told(name, error.strerror or str(error))
    left = [feature for feature, on in _WANTED.items() if on and (feature not in features or not features[feature])]
    return _told(name, f"{' and '.join(left)} stays off") if left else ""


def _told(name: str, what: str) -> str:
    return (
        f"dataplane.udp_gro: interface {name} cannot merge UDP datagrams: {what}; its driver's or this kernel's limit,"
        f" fix: take {name} out of dataplane.udp_gro"
    )
