"""What ExaBGP said and the speaker has not taken yet: lines in, messages out, in slices.

A long UPDATE is taken in parts, so that no table holds anybody up. No meaning here; the lines are `messages.py`'s to read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.bgp import messages

SLICE = 32  # prefixes taken in one go: some milliseconds, also where others want the core


class Inbox:
    """In order."""

    def __init__(self) -> None:
        self._unread: deque[messages.Message] = deque()

    def __bool__(self) -> bool:
        return bool(self._unread)

    def put(self, lines: str) -> None:
        for line in lines.split("\n"):
            message = messages.parse_line(line)
            if isinstance(message, messages.Update) and len(message.announced) > SLICE:
                self._unread.extend(messages.in_parts(message, SLICE))
            else:
                self._unread.append(message)

    def some(self) -> Iterator[messages.Message]:
        """At most one message more than SLICE prefixes."""
        prefixes = 0
        while self._unread and prefixes < SLICE:
            message = self._unread.popleft()
            prefixes += len(message.announced) + len(message.withdrawn) if isinstance(message, messages.Update) else 1
            yield message

    def clear(self) -> None:
        self._unread.clear()
