"""File descriptors that outlive the process: what is told to the manager, and what is taken from it."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.runtime.fd_store import AT_ONCE, FdStore, Inherited


def listener(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(path))
    made.settimeout(2)
    return made


def taken(manager: socket.socket) -> tuple[str, list[int]]:
    data, rights, _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(253 * 4))
    fds = array.array("i")
    for _, _, content in rights:
        fds.frombytes(content)
    return data.decode(), list(fds)


def test_descriptors_go_to_the_manager_under_their_name_and_are_not_polled(tmp_path: Path) -> None:
    with listener(tmp_path / "notify") as manager:
        store = FdStore({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        reading, writing = os.pipe()
        store.keep("tun-gw-azure", [writing])
        text, (copy,) = taken(manager)
        assert text.splitlines() == ["FDSTORE=1", "FDNAME=tun-gw-azure", "FDPOLL=0"]
        os.write(copy, b"the same pipe")
        assert os.read(reading, 100) == b"the same pipe"
        store.drop("tun-gw-azure")
        assert taken(manager) == ("FDSTOREREMOVE=1\nFDNAME=tun-gw-azure", [])
        for fd in (reading, writing, copy):
            os.close(fd)


def test_many_go_in_several_messages(tmp_path: Path) -> None:
    with listener(tmp_path / "notify") as manager:
        fd = os.open("/dev/null", os.O_RDONLY)
        FdStore({"NOTIFY_SOCKET": str(tmp_path / "notify")}).keep("udp", [fd] * (AT_ONCE + 1))
        counts = []
        for _ in range(2):
            _, fds = taken(manager)
            counts.append(len(fds))
            for copy in fds:
                os.close(copy)
        assert counts == [AT_ONCE, 1]
        os.close(fd)


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    store = FdStore(environment)
    store.keep("udp", [0])
    store.drop("udp")
    assert store.exists == bool(environment)


_CHILD = """
import os, json
from gateway.runtime.fd_store import Inherited
os.environ["LISTEN_PID"] = str(os.getpid() + {offset})
found = Inherited.of_environment()
print(json.dumps([found.take("a b"), found.take("udp"), found.take("udp"), found.close(),
                  [name for name in os.environ if name.startswith("LISTEN")]]))
"""


@pytest.mark.parametrize(("offset", "expected"), [
    (0, '[[4], [3, 5], [], ["rest"], []]'),
    (1, "[[], [], [], [], []]"),
])  # fmt: skip
def test_what_the_manager_passes_is_taken_once_and_by_its_name(offset: int, expected: str) -> None:
    """sd_listen_fds(3): what is passed to another process is not ours."""
    program = f"for i in 3 4 5 6; do eval \"exec $i</dev/null\"; done; exec {sys.executable} -c '{_CHILD.format(offset=offset)}'"
    names = {"LISTEN_FDS": "4", "LISTEN_FDNAMES": "udp:a b:udp:rest"}
    done = subprocess.run(
        ["bash", "-c", program], env={**os.environ, **names}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected


def test_no_child_of_ours_inherits_them() -> None:
    """Inherited descriptors come without FD_CLOEXEC, and ExaBGP must not hold a TUN."""
    program = (
        "import fcntl, os\nfrom gateway.runtime.fd_store import Inherited\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='tun')\n"
        "print(fcntl.fcntl(Inherited.of_environment().take('tun')[0], fcntl.F_GETFD))"
    )
    done = subprocess.run(
        ["bash", "-c", f"exec 3</dev/null; exec {sys.executable} -c \"{program}\""],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == fcntl.FD_CLOEXEC


def test_what_nobody_takes_is_closed() -> None:
    reading, writing = os.pipe()
    assert Inherited({"tun-gw-gone": [writing]}).close() == ["tun-gw-gone"]
    assert os.read(reading, 1) == b""
    os.close(reading)
