"""Two processes run the tests (pytest-xdist); those that build networks mostly wait, beside those that compute."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

PIECES = ("tests/system/test_[a-o]", "tests/interop/", "tests/native/", "tests/system/")
"""What builds networks, in the order in which it is begun. The tests of a piece come one after the other."""


class FewNetworksAtATime(LoadScopeScheduling):
    """The long pieces come first, one in each process; all else goes by files, of which the last ones are short."""

    def _split_scope(self, nodeid: str) -> str:
        return PIECES[at] if (at := _piece(nodeid)) < len(PIECES) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return FewNetworksAtATime(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _piece(item.nodeid))


def _piece(nodeid: str) -> int:
    """Its place in PIECES; their number for what belongs to none."""
    if nodeid.startswith("tests/system/test_") and nodeid[len("tests/system/test_")] <= "o":
        return 0
    return next((at for at, start in enumerate(PIECES) if nodeid.startswith(start)), len(PIECES))
