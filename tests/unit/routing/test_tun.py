"""TUN names and the sentences for what can go wrong."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.runtime import tun

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")


@given(NAMES)
def test_every_connection_name_gives_a_legal_device_name(name: str) -> None:
    device = tun.interface_name(name)
    assert device.startswith("gw-")
    assert len(device) <= 15
    assert "/" not in device


def test_short_names_are_kept_and_long_ones_stay_apart() -> None:
    assert tun.interface_name("edge-primary") == "gw-edge-primary"
    names = {tun.interface_name(f"branch-office-number-{n}") for n in range(200)}
    assert len(names) == 200
    assert all(name.startswith("gw-branc-") for name in names)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOENT, "modprobe tun"), (errno.EACCES, "DeviceAllow"), (errno.EIO, os.strerror(errno.EIO))],
)
def test_a_missing_or_forbidden_device_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(tun.TunError, match=words) as refused:
        tun.open_tun("gw-edge", 1)
    assert str(refused.value).startswith("TUN device gw-edge: ")
    assert refused.value.errno == number


@pytest.mark.parametrize(
    ("number", "words"), [(errno.EPERM, "CAP_NET_ADMIN"), (errno.EBUSY, "another process holds it")]
)
def test_a_refused_queue_closes_the_queues_before_it(monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    real_open, opened = os.open, []
    flags = []

    def open_null(*arguments: object) -> int:
        opened.append(real_open(os.devnull, os.O_RDWR))
        return opened[-1]

    def ioctl(fd: int, request: int, argument: bytes) -> int:
        flags.append(int.from_bytes(argument[16:18], "little"))
        if len(opened) == 3:
            raise OSError(number, "refused")
        return 0

    monkeypatch.setattr(os, "open", open_null)
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(tun.TunError, match=words):
        tun.open_tun("gw-edge", 4)
    assert [bool(value & 0x8000) for value in flags] == [True, False, False]  # only the first claims the name
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
