"""Three processes run the tests (pytest-xdist): two those that build networks and mostly wait, one those that compute."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

NETWORKS = ("tests/system/test_[a-o]*", "tests/interop/*", "tests/system/*")
"""What builds networks, in the order in which it is begun. The tests of each come one after the other."""

LONG = ("tests/simulation/*", "tests/native/*")
"""What computes for long, the longest last. Those of the second share what they build, and come one after the other."""

COMPUTES = 2
"""The place of the process that computes while the others have networks."""


class TwoNetworksAtATime(LoadScopeScheduling):
    """All processes take from one queue, of files but for what must stay together: two from its beginning, where the networks are,
    the third from its end."""

    def _split_scope(self, nodeid: str) -> str:
        together = (*NETWORKS, LONG[-1])
        return next((one for one in together if fnmatchcase(nodeid, one)), nodeid.partition("::")[0])

    def _assign_work_unit(self, node: Any) -> None:
        if self.nodes.index(node) == COMPUTES:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def pytest_configure() -> None:
    if os.environ.get("PYTEST_XDIST_WORKER") == f"gw{COMPUTES}":
        os.nice(5)  # what waits for a network shall not wait for this as well


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return TwoNetworksAtATime(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _place(item.nodeid))


def _place(nodeid: str) -> int:
    """In the queue."""
    for at, start in enumerate(NETWORKS):
        if fnmatchcase(nodeid, start):
            return at
    return next((len(NETWORKS) + 1 + at for at, start in enumerate(LONG) if fnmatchcase(nodeid, start)), len(NETWORKS))
