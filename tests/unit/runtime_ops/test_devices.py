"""TUNs are made many at a time, and one that fails, in whichever way, is one that fails."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from support.dataplane_pair import inside
from support.netns import Lab

from gateway.config.model import DataPlane
from gateway.node.effects import OpenTunnel
from gateway.runtime import dataplane, tun
from gateway.runtime.dataplane import NativeDataPlane

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")


def test_a_device_that_fails_in_an_unforeseen_way_fails_alone_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: dict[str, list[int]] = {}

    async def main(lab: Lab) -> None:
        machine = lab.namespace("gateway")

        def open_tun(name: str, queues: int) -> list[int]:
            if name == "gw-raw":
                raise OSError(errno.ENFILE, "Too many open files in system")
            if name == "gw-value":
                raise ValueError("embedded null byte")
            made[name] = inside(machine, lambda: tun.open_tun(name, queues))
            return made[name]

        monkeypatch.setattr(dataplane, "open_tun", open_tun)
        plane = NativeDataPlane(1, "auto", DataPlane(), lambda event: None, lambda *datagram: None)
        names = {
            1: "raw",
            2: "good",
            3: "value",
            4: "last",
            1 << 40: "refused",
        }  # the data plane's own: a number too large
        for connection in names:
            plane.expect(connection)
        carried_out: list[str] = []
        plane._when_made(2, lambda: carried_out.append(str(1 / 0)))
        plane._when_made(2, lambda: carried_out.append("after it"))
        failed = await plane.make([OpenTunnel(number, name, 1400, ()) for number, name in names.items()])
        assert set(failed) == {"raw", "value", "refused"}
        assert failed["raw"].errno == errno.ENFILE
        assert "Too many open files" in str(failed["raw"])
        assert "embedded null byte" in str(failed["value"])
        assert carried_out == ["after it"]
        assert set(plane.held) == {"tun-gw-good", "tun-gw-last"}
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(made["gw-refused"][0])
        await plane.leave()

    with Lab() as lab:
        asyncio.run(main(lab))
    assert "ZeroDivisionError" in caplog.text
