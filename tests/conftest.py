"""Two processes run the tests (pytest-xdist); those that build networks mostly wait, beside those that compute."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

NETWORKS = ("tests/system/", "tests/interop/", "tests/native/")


class FewNetworksAtATime(LoadScopeScheduling):
    """What builds networks is one piece of work for each directory, so its tests come one after the other; all else goes by files."""

    def _split_scope(self, nodeid: str) -> str:
        return next((kind for kind in NETWORKS if nodeid.startswith(kind)), nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return FewNetworksAtATime(config, log)
