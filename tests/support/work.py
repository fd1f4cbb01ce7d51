"""Work as a number that does not depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable


def calls_while(action: Callable[[], object]) -> int:
    """How many functions the action calls."""
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count
