"""A path of a test's own that another user can get to: pytest's temporary directories are its user's alone."""

from __future__ import annotations

import tempfile
from pathlib import Path


def for_everybody(path: Path) -> None:
    """Its directories from the system's temporary one on."""
    top = Path(tempfile.gettempdir())
    for parent in path.parents:
        if parent.is_relative_to(top) and parent != top:
            parent.chmod(0o755)
