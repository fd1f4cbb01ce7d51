"""Message IDs and cached responses (RFC 7296 2.1 to 2.3)."""

from __future__ import annotations

import pytest

from gateway.ike.errors import LocalError, PeerError, Violation
from gateway.ike.registry import ExchangeType
from gateway.ike.window import Request, Window


def _request(message_id: int) -> Request:
    return Request(message_id, (b"octets",), 1.0, (ExchangeType.INFORMATIONAL, ()))


def test_requests_count_up_and_one_is_outstanding() -> None:
    window = Window()
    for number in range(3):
        window.sent(_request(window.next_request))
        assert window.pending is not None
        assert (window.pending.message_id, window.next_request) == (number, number + 1)
        with pytest.raises(LocalError, match="outside the window"):
            window.sent(_request(window.next_request))
        window.pending = None


def test_ike_sa_init_is_repeated_with_message_id_zero() -> None:
    """RFC 7296 2.6: after a COOKIE or INVALID_KE_PAYLOAD."""
    window = Window()
    for _ in range(3):
        window.sent(_request(0))
        assert window.pending is not None
        assert (window.pending.message_id, window.next_request) == (0, 1)
        window.pending = None


def test_only_the_answer_to_the_outstanding_request_is_taken() -> None:
    window = Window(next_request=5)
    for number in (0, 4, 5, 6, 2**32 - 1):
        with pytest.raises(PeerError) as refused:
            window.check_response(number)
        assert refused.value.why is Violation.UNEXPECTED_RESPONSE
    window.sent(_request(window.next_request))
    window.check_response(5)
    for number in (4, 6):
        with pytest.raises(PeerError, match="unexpected_response"):
            window.check_response(number)


def test_requests_come_in_order_and_one_at_a_time() -> None:
    window = Window(expected=7)
    for number in (0, 6, 8, 9, 2**32 - 1):
        with pytest.raises(PeerError) as refused:
            window.check_request(number)
        assert (refused.value.why, refused.value.notify) == (Violation.MESSAGE_ID, None)
    window.check_request(7)
    window.answering = True
    with pytest.raises(PeerError, match="message_id"):
        window.check_request(7)
    window.answered(b"reply")
    assert (window.expected, window.answering, window.cached_response) == (8, False, b"reply")
    assert window.is_repeat(7)
    assert not window.is_repeat(6)
    assert not window.is_repeat(8)
    window.check_request(8)


def test_nothing_is_a_repeat_before_the_first_answer() -> None:
    assert not any(Window().is_repeat(number) for number in (-1, 0, 1, 2**32 - 1))
