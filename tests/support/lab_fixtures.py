"""pytest fixtures for tests that play in the laboratory; a conftest imports them by name.

They need root and the peers' programs. Without root they are skipped, so that others can run the rest; a program that
is missing is a failure, for the set-up installs all of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from support.netns import Lab
from support.scene import Scene

PROGRAMS = ("ip", "setpriv", "nft", "tcpdump", "iperf3", "ping", "ss", "charon-systemd", "swanctl", "bird", "birdc")


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A laboratory that leaves nothing behind; on failure the end of every log is printed."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"needs {', '.join(missing)}"
    with Lab() as laboratory:
        yield laboratory
        if request.node.stash.get(FAILED, False):
            print(laboratory.tails())
    left = laboratory.leftovers()
    assert not left, f"left behind: {left}"


@pytest.fixture
def scene(lab: Lab) -> Scene:
    """The six machines; no daemon runs yet."""
    return Scene(lab)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_exception_interact(node: pytest.Item) -> None:
    """Remember that the test failed before its fixtures are torn down."""
    node.stash[FAILED] = True
