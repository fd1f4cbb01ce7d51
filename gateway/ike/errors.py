"""What a peer did wrong, and what we answer (RFC 7296 2.21).

`PeerError` never leaves the core: it becomes a reply, a counter and an event. `LocalError` is our own
mistake and may escape. Every `Violation` is a counter label and has a test.
"""

from __future__ import annotations

from enum import Enum

from gateway.ike.registry import NotifyType


class Violation(Enum):
    """Alphabetical; the value is the `reason` label of gateway_ike_rejected_total."""

    AUTHENTICATION = "authentication"
    AUTH_METHOD = "auth_method"
    BAD_ICV = "bad_icv"
    BAD_KEY_EXCHANGE = "bad_key_exchange"
    BAD_NONCE = "bad_nonce"
    CERTIFICATE_CHAIN = "certificate_chain"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_IDENTITY = "certificate_identity"
    CERTIFICATE_MISSING = "certificate_missing"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    CERTIFICATE_REVOKED = "certificate_revoked"
    CERTIFICATE_UNKNOWN_CA = "certificate_unknown_ca"
    CERTIFICATE_WEAK = "certificate_weak"
    CHILD_NOT_FOUND = "child_not_found"
    CRASH_TOKEN = "crash_token"
    CRITICAL_PAYLOAD = "critical_payload"
    GRAMMAR = "grammar"
    HALF_OPEN_LIMIT = "half_open_limit"
    IDENTITY = "identity"
    MAJOR_VERSION = "major_version"
    MALFORMED = "malformed"
    MESSAGE_ID = "message_id"
    NO_COMMON_SIGNATURE = "no_common_signature"
    NO_COOKIE = "no_cookie"
    NO_PROPOSAL = "no_proposal"
    OUT_OF_STATE = "out_of_state"
    PPK = "ppk"
    REDIRECT = "redirect"
    REVOCATION_UNKNOWN = "revocation_unknown"
    SIGNATURE = "signature"
    TEMPORARY = "temporary"
    TOO_MANY_SAS = "too_many_sas"
    TRAFFIC_SELECTORS = "traffic_selectors"
    UNEXPECTED_RESPONSE = "unexpected_response"
    UNKNOWN_PEER = "unknown_peer"
    UNKNOWN_SPI = "unknown_spi"
    WRONG_KE_GROUP = "wrong_ke_group"


AUTHENTICATION_REASONS: dict[Violation, str] = {
    Violation.IDENTITY: "WRONG_PEER_IDENTITY",
    Violation.AUTH_METHOD: "WRONG_AUTH_METHOD",
    Violation.SIGNATURE: "WRONG_SIGNATURE",
    **{one: one.name for one in Violation if one.name.startswith("CERTIFICATE_")},
    Violation.REVOCATION_UNKNOWN: "REVOCATION_UNKNOWN",
    Violation.NO_COMMON_SIGNATURE: "NO_COMMON_SIGNATURE",
    Violation.PPK: "USE_PPK",
    Violation.TOO_MANY_SAS: "TOO_MANY_IKE_SAS",
}
"""What observe/explain.py calls a peer's failure to prove itself; any other is AUTHENTICATION_FAILED."""


class PeerError(Exception):
    """The peer sent something we refuse.

    `why` names it, `notify`/`data` are what we answer (None: drop silently), `detail` is for people.
    """

    def __init__(self, why: Violation, detail: str = "", notify: NotifyType | None = None, data: bytes = b"") -> None:
        super().__init__(f"{why.value}: {detail}" if detail else why.value)
        self.why = why
        self.detail = detail
        self.notify = notify
        self.data = data


class LocalError(Exception):
    """The core was used against its contract: a bug on our side."""


def malformed(detail: str) -> PeerError:
    """RFC 7296 2.21: INVALID_SYNTAX, sent only where the message was authenticated."""
    return PeerError(Violation.MALFORMED, detail, NotifyType.INVALID_SYNTAX)
