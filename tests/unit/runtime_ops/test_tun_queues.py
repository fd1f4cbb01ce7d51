"""What the kernel dropped at a TUN's queue, over the lives of its devices."""

from __future__ import annotations

from pathlib import Path

from gateway.runtime.tun_queues import QueueDrops


def device(root: Path, name: str, dropped: int) -> None:
    place = root / name / "statistics"
    place.mkdir(parents=True, exist_ok=True)
    (place / "tx_dropped").write_text(f"{dropped}\n")


def test_drops_add_up_over_devices_that_follow_each_other(tmp_path: Path) -> None:
    queues = QueueDrops(tmp_path)
    names = {1: "gw-a", 2: "gw-b"}
    for dropped, total in ((0, 0), (7, 7), (7, 7), (9, 9), (2, 11), (3, 12)):
        device(tmp_path, "gw-a", dropped)
        queues.read(names)
        assert queues.nonzero() == ({1: total} if total else {})


def test_a_connection_that_is_gone_is_forgotten_and_its_number_begins_anew(tmp_path: Path) -> None:
    queues = QueueDrops(tmp_path)
    device(tmp_path, "gw-a", 5)
    queues.read({1: "gw-a"})
    queues.read({})
    assert queues.nonzero() == {}
    queues.read({1: "gw-other"})
    assert queues.nonzero() == {}
