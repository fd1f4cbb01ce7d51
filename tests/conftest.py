"""Two processes run the tests (pytest-xdist): one those that build networks and look at the time, the other all that only computes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

NETWORKS = frozenset({"system", "interop", "native"})
FIXTURES = frozenset({"lab", "scene"})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Before xdist reads them. One after the other: they share two cores with no more than the one process that computes."""
    for item in items:
        if NETWORKS & set(item.path.parts) or FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("network"))
