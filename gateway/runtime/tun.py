"""TUN devices: a name for a connection, and the queue fds the data plane serves.

Always IFF_MULTI_QUEUE, also for one queue, so that the number of workers never changes the device's kind. A
multi-queue device would let another process join it silently and take a share of its packets: the first queue is
opened with IFF_TUN_EXCL, which fails where the name exists. The device vanishes when the last fd is closed, and with
it every route on it; what is left is the guard (gateway/routing/guard.py).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct

PREFIX = "gw-"
DEVICE = "/dev/net/tun"
NAME_LENGTH = 15  # IFNAMSIZ - 1

_TUNSETIFF, _TUNGETIFF, _TUNSETQUEUE = 0x400454CA, 0x800454D2, 0x400454D9
_IFF_DETACH_QUEUE = 0x0400
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0001, 0x0100, 0x1000, 0x4000, 0x8000
_FLAGS = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_MULTI_QUEUE
_REQUEST = struct.Struct("=16sH22x")  # struct ifreq: ifr_name, ifr_flags

_REASONS = {
    errno.ENOENT: f"{DEVICE} does not exist: load the tun module (modprobe tun), or pass the device into the container",
    errno.ENODEV: f"{DEVICE} has no driver: load the tun module (modprobe tun)",
    errno.EACCES: f"{DEVICE} may not be opened: allow the device (systemd DeviceAllow={DEVICE} rw) or correct its mode",
    errno.EPERM: "no permission to create a TUN device: the daemon needs CAP_NET_ADMIN",
    errno.EBUSY: "the device exists already: another process holds it, or `gatewayd --cleanup` has to remove a leftover",
    errno.ENOTTY: f"{DEVICE} is not the TUN driver: the file was made by hand or mounted over",
    errno.EINVAL: "the kernel refuses the name or the flags: a device of another kind has this name",
}


class TunError(OSError):
    """A TUN device cannot be opened; str() says why and what to do."""

    def __str__(self) -> str:
        return str(self.strerror)


def interface_name(connection: str) -> str:
    """The connection's device: `gw-NAME`, or a part of the name and a hash where that is too long."""
    name = PREFIX + connection
    if len(name) <= NAME_LENGTH:
        return name
    digest = hashlib.sha256(connection.encode()).hexdigest()[:6]
    return f"{name[: NAME_LENGTH - len(digest) - 1]}-{digest}"


def open_tun(name: str, queues: int) -> list[int]:
    """Non-blocking fds of a new device, one per queue; TunError leaves nothing open."""
    return _open(name, queues, new=True)


def add_queues(name: str, queues: int) -> list[int]:
    """As `open_tun`, of a device that is held already."""
    return _open(name, queues, new=False)


def detach_queues(fds: list[int]) -> None:
    """The device puts nothing into them any more, whoever else holds copies."""
    for fd in fds:
        fcntl.ioctl(fd, _TUNSETQUEUE, _REQUEST.pack(b"", _IFF_DETACH_QUEUE))


def _open(name: str, queues: int, *, new: bool) -> list[int]:
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            _attach(fds[-1], name, first=new and len(fds) == 1)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _explained(error, name) from error
    return fds


def reattach_tun(name: str, fds: list[int]) -> bool:
    """Gives the fds of a deleted device a new one; False if the device is there (it only went down)."""
    try:
        detached = [fd for fd in fds if not is_attached(fd)]
        for fd in detached:
            _attach(fd, name, first=detached == fds and fd == fds[0])
    except OSError as error:
        raise _explained(error, name) from error
    return bool(detached)


def _attach(fd: int, name: str, first: bool) -> None:
    fcntl.ioctl(fd, _TUNSETIFF, _REQUEST.pack(name.encode(), _FLAGS | (_IFF_TUN_EXCL if first else 0)))


def is_attached(fd: int) -> bool:
    """Whether it is a queue of a device that exists."""
    try:
        fcntl.ioctl(fd, _TUNGETIFF, bytes(_REQUEST.size))
    except OSError as error:
        if error.errno == errno.EBADFD:
            return False
        raise
    return True


def _explained(error: OSError, name: str) -> TunError:
    reason = _REASONS.get(error.errno or 0, os.strerror(error.errno or errno.EIO))
    return TunError(error.errno, f"TUN device {name}: {reason}")
