"""An error of the system as a sentence: what could not be had, why, and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Unavailable(OSError):
    """Something the daemon needs cannot be had; str() is the whole sentence."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def explained(what: str, fixes: Mapping[int, str]) -> Iterator[None]:
    """An OSError inside becomes `Unavailable`: "WHAT: reason; fix" by its number."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        fix = fixes.get(number)
        raise Unavailable(number, f"{what}: {os.strerror(number)}{'; ' + fix if fix else ''}") from error


def listening(section: str, address: str = "address") -> dict[int, str]:
    """Fixes for a socket whose port and address are configured in this section."""
    return {
        errno.EADDRINUSE: f"another process uses the port (see `ss -lntup`): stop it, or change {section}.port",
        errno.EADDRNOTAVAIL: f"the address is not on this host: correct {section}.{address}, or add the address to the interface",
        errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
    }


DIRECTORY = dict.fromkeys(
    (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EPERM, errno.EACCES, errno.EROFS),
    "correct gateway.run_directory; the shipped unit makes /run/gatewayd by RuntimeDirectory=",
)
