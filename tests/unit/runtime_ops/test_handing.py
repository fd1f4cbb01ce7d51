"""What is said between a daemon and the one that takes over, over a real socketpair."""

from __future__ import annotations

import os
import socket

import pytest

from gateway.runtime.handing import AT_ONCE, hear, pair, say, say_kept


def test_a_message_comes_as_it_was_said() -> None:
    ours, theirs = pair()
    with ours, theirs:
        say(ours, "hello", pid=7, reads=("1/a", "2/b"), release="9.9")
        found = hear(theirs)
        assert found is not None
        assert (found.kind, found.number("pid"), found.texts("reads"), found.text("release")) == (
            "hello", 7, ("1/a", "2/b"), "9.9",
        )  # fmt: skip
        assert (found.text("pid"), found.number("release"), found.texts("pid"), found.fds) == ("", 0, (), ())


def test_descriptors_keep_their_names_in_as_many_messages_as_they_need() -> None:
    ours, theirs = pair()
    null = os.open("/dev/null", os.O_RDONLY)
    with ours, theirs:
        say_kept(ours, {"tun-a": [null] * AT_ONCE, "tun-b": [null, null], "nothing": []})
        found: list[tuple[str, int]] = []
        for expected in (AT_ONCE, 2):
            message = hear(theirs)
            assert message is not None
            assert len(message.fds) == expected
            found += zip(message.texts("names"), message.fds, strict=True)
        assert [name for name, _ in found] == ["tun-a"] * AT_ONCE + ["tun-b"] * 2
        for _, fd in found:
            assert os.get_inheritable(fd) is False
            os.close(fd)
    os.close(null)


def test_who_is_gone_says_nothing_more() -> None:
    ours, theirs = pair()
    with theirs:
        ours.close()
        assert hear(theirs) is None
        with pytest.raises(OSError):
            say(theirs, "serving")


@pytest.mark.parametrize("octets", [b"serving", b"[1]", b'{"kind": 1}', b"\xff\xfe"])
def test_nonsense_is_no_message_and_leaves_no_descriptor(octets: bytes) -> None:
    ours, theirs = pair()
    with ours, theirs:
        reading, writing = os.pipe()
        socket.send_fds(ours, [octets], [writing])
        os.close(writing)
        with pytest.raises(ValueError):
            hear(theirs)
        assert os.read(reading, 1) == b"", "nobody holds the other end"
        os.close(reading)
