"""IANA numbers of IKEv2 ("Internet Key Exchange Version 2 (IKEv2) Parameters").

Numbers this implementation does not know are legal on the wire: every enum accepts them as
`UNKNOWN_<n>` so that decoding never fails for an unknown number alone.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any, Self


class Number(IntEnum):
    """An IntEnum that makes a nameless member for a number it does not list."""

    @classmethod
    def _missing_(cls, value: Any) -> Self | None:
        if not isinstance(value, int) or value < 0:
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNKNOWN_{value}"
        member._value_ = value
        return member

    @property
    def known(self) -> bool:
        """Whether this implementation has a name for the number."""
        return not self.name.startswith("UNKNOWN_")


class ExchangeType(Number):
    IKE_SA_INIT = 34  # RFC 7296 3.1
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_SESSION_RESUME = 38  # RFC 5723
    IKE_INTERMEDIATE = 43  # RFC 9242
    IKE_FOLLOWUP_KE = 44  # RFC 9370


class Flags(IntFlag):
    """RFC 7296 3.1, header flags."""

    INITIATOR = 0x08
    VERSION = 0x10
    RESPONSE = 0x20


class PayloadType(Number):
    NONE = 0
    SA = 33  # RFC 7296 3.2
    KE = 34
    IDI = 35
    IDR = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TSI = 44
    TSR = 45
    SK = 46
    CP = 47
    EAP = 48
    SKF = 53  # RFC 7383


class Protocol(Number):
    """RFC 7296 3.3.1, security protocol identifiers."""

    NONE = 0
    IKE = 1
    AH = 2
    ESP = 3


class TransformType(Number):
    ENCRYPTION = 1  # RFC 7296 3.3.2
    PRF = 2
    INTEGRITY = 3
    KEY_EXCHANGE = 4
    ESN = 5
    ADDITIONAL_KEY_EXCHANGE_1 = 6  # RFC 9370 2.2.1
    ADDITIONAL_KEY_EXCHANGE_2 = 7
    ADDITIONAL_KEY_EXCHANGE_3 = 8
    ADDITIONAL_KEY_EXCHANGE_4 = 9
    ADDITIONAL_KEY_EXCHANGE_5 = 10
    ADDITIONAL_KEY_EXCHANGE_6 = 11
    ADDITIONAL_KEY_EXCHANGE_7 = 12


ADDITIONAL_KEY_EXCHANGES = tuple(TransformType(number) for number in range(6, 13))


class EncryptionId(Number):
    AES_CBC = 12  # RFC 3602
    AES_GCM_8 = 18  # RFC 4106, RFC 5282
    AES_GCM_12 = 19
    AES_GCM_16 = 20
    CHACHA20_POLY1305 = 28  # RFC 7634


class PrfId(Number):
    HMAC_SHA1 = 2  # RFC 2104
    HMAC_SHA2_256 = 5  # RFC 4868
    HMAC_SHA2_384 = 6
    HMAC_SHA2_512 = 7


class IntegrityId(Number):
    NONE = 0
    HMAC_SHA1_96 = 2  # RFC 2404
    HMAC_SHA2_256_128 = 12  # RFC 4868
    HMAC_SHA2_384_192 = 13
    HMAC_SHA2_512_256 = 14


class KeyExchangeId(Number):
    NONE = 0
    MODP_1024 = 2  # RFC 7296 B.2
    MODP_2048 = 14  # RFC 3526
    MODP_3072 = 15
    MODP_4096 = 16
    ECP_256 = 19  # RFC 5903
    ECP_384 = 20
    ECP_521 = 21
    CURVE25519 = 31  # RFC 8031
    ML_KEM_512 = 35  # draft-ietf-ipsecme-ikev2-mlkem
    ML_KEM_768 = 36
    ML_KEM_1024 = 37


class EsnId(Number):
    NO_ESN = 0  # RFC 7296 3.3.2
    ESN = 1


TRANSFORM_IDS: dict[int, type[Number]] = {
    TransformType.ENCRYPTION: EncryptionId,
    TransformType.PRF: PrfId,
    TransformType.INTEGRITY: IntegrityId,
    TransformType.KEY_EXCHANGE: KeyExchangeId,
    TransformType.ESN: EsnId,
    **dict.fromkeys(ADDITIONAL_KEY_EXCHANGES, KeyExchangeId),
}

KEY_LENGTH_ATTRIBUTE = 14  # RFC 7296 3.3.5


class IdType(Number):
    IPV4_ADDR = 1  # RFC 7296 3.5
    FQDN = 2
    RFC822_ADDR = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11


class AuthMethod(Number):
    RSA_SIGNATURE = 1  # RFC 7296 3.8
    SHARED_KEY_MIC = 2
    DSS_SIGNATURE = 3
    ECDSA_SHA256_P256 = 9  # RFC 4754
    ECDSA_SHA384_P384 = 10
    ECDSA_SHA512_P521 = 11
    NULL = 13  # RFC 7619
    DIGITAL_SIGNATURE = 14  # RFC 7427


class HashAlgorithm(Number):
    """Of signatures."""

    SHA1 = 1  # RFC 7427 7
    SHA2_256 = 2
    SHA2_384 = 3
    SHA2_512 = 4
    IDENTITY = 5  # RFC 8420 2


class CertificateEncoding(Number):
    X509_SIGNATURE = 4  # RFC 7296 3.6
    CRL = 7
    OCSP = 14  # RFC 4806


class TsType(Number):
    IPV4_ADDR_RANGE = 7  # RFC 7296 3.13.1
    IPV6_ADDR_RANGE = 8


class NotifyType(Number):
    # Errors, RFC 7296 3.10.1
    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    INVALID_SELECTORS = 39
    UNACCEPTABLE_ADDRESSES = 40  # RFC 4555
    UNEXPECTED_NAT_DETECTED = 41
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    STATE_NOT_FOUND = 47  # RFC 9370
    TS_MAX_QUEUE = 48  # RFC 9611
    # Status
    INITIAL_CONTACT = 16384
    SET_WINDOW_SIZE = 16385
    ADDITIONAL_TS_POSSIBLE = 16386
    IPCOMP_SUPPORTED = 16387
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    USE_TRANSPORT_MODE = 16391
    HTTP_CERT_LOOKUP_SUPPORTED = 16392
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    NON_FIRST_FRAGMENTS_ALSO = 16395
    MOBIKE_SUPPORTED = 16396  # RFC 4555
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    AUTH_LIFETIME = 16403  # RFC 4478
    MULTIPLE_AUTH_SUPPORTED = 16404  # RFC 4739
    REDIRECT_SUPPORTED = 16406  # RFC 5685
    REDIRECT = 16407
    REDIRECTED_FROM = 16408
    EAP_ONLY_AUTHENTICATION = 16417  # RFC 5998
    CHILDLESS_IKEV2_SUPPORTED = 16418  # RFC 6023
    QUICK_CRASH_DETECTION = 16419  # RFC 6290
    IKEV2_MESSAGE_ID_SYNC_SUPPORTED = 16420  # RFC 6311
    IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED = 16421
    IKEV2_MESSAGE_ID_SYNC = 16422
    IPSEC_REPLAY_COUNTER_SYNC = 16423
    IKEV2_FRAGMENTATION_SUPPORTED = 16430  # RFC 7383
    SIGNATURE_HASH_ALGORITHMS = 16431  # RFC 7427
    USE_PPK = 16435  # RFC 8784
    PPK_IDENTITY = 16436
    NO_PPK_AUTH = 16437
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438  # RFC 9242
    ADDITIONAL_KEY_EXCHANGE = 16441  # RFC 9370
    USE_AGGFRAG = 16442  # RFC 9347
    SUPPORTED_AUTH_METHODS = 16443  # RFC 9593
    SA_RESOURCE_INFO = 16444  # RFC 9611

    @property
    def is_error(self) -> bool:
        """RFC 7296 3.10.1: 0..16383 are errors, the rest status."""
        return self < 16384
