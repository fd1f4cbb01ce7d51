"""Two processes run the tests (pytest-xdist): one those that build networks and look at the time, the other all that only computes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

NETWORKS = ("tests/system/", "tests/interop/", "tests/native/")


class OneNetworkAtATime(LoadScopeScheduling):
    """What builds networks is one piece of work, so its tests come one after the other; all else goes by files."""

    def _split_scope(self, nodeid: str) -> str:
        return "networks" if nodeid.startswith(NETWORKS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return OneNetworkAtATime(config, log)
