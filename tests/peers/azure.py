"""Azure VPN Gateway as a responder and initiator sees it: its default policy, and custom ones.

From Microsoft's "About VPN devices and IPsec/IKE parameters for site-to-site VPN gateway connections" and "Configure
custom IPsec/IKE connection policies". Route-based, IKEv2, selectors any-to-any.
"""

from __future__ import annotations

from peers.policy import Policy, esp, ike, triple_des

# What Windows' IKE sends in IKE_SA_INIT: 16 octets that name the feature; the first is followed by a version.
VENDOR_IDS = (
    bytes.fromhex("1e2b516905991c7d7c96fcbfb587e46100000009"),  # MS NT5 ISAKMPOAKLEY
    bytes.fromhex("fb1de3cdf341b7ea16b7e5be0855f120"),  # MS-Negotiation Discovery Capable
    bytes.fromhex("26244d38eddb61b3172a36e3d0cfb819"),  # Vid-Initial-Contact
    bytes.fromhex("e3a5966a76379fe707228231e5ce8652"),  # IKE CGA version 1
)
AES256, AES128, GCM256 = ("aes-cbc", 256), ("aes-cbc", 128), ("aes-gcm-16", 256)
# One group for all: DH group 2
_DEFAULT_IKE = (
    ike([AES256], ["sha1"], ["modp1024"]),
    ike([AES256], ["sha256"], ["modp1024"]),
    ike([AES128], ["sha1"], ["modp1024"]),
    ike([AES128], ["sha256"], ["modp1024"]),
    triple_des(ike([AES128], ["sha1"], ["modp1024"])),
    triple_des(ike([AES128], ["sha256"], ["modp1024"])),
)
_OFFERED = (
    esp([GCM256]),
    esp([AES256], ["sha1"]),
    triple_des(esp([AES256], ["sha1"])),
    esp([AES256], ["sha256"]),
    esp([AES128], ["sha1"]),
    triple_des(esp([AES256], ["sha256"])),
)
# As a responder with PFS or without, but GCM never with it
_PFS = ("none", "modp2048", "modp1024")
_ACCEPTED = (
    esp([GCM256]),
    esp([AES256], ["sha1"], _PFS),
    esp([AES256], ["sha256"], _PFS),
    esp([AES128], ["sha1"], _PFS),
    esp([AES128], ["sha256"], _PFS),
)

DEFAULT = Policy(
    "azure-default",
    ike=_DEFAULT_IKE,
    esp_accepted=_ACCEPTED,
    esp_offered=_OFFERED,
    child_life=27_000,
    dpd_delay=45,
    vendor_ids=VENDOR_IDS,
)

# GCMAES256, SHA384, ECP384; GCMAES256, PFS ECP384
CUSTOM = Policy(
    "azure-custom",
    ike=(ike([GCM256], ["sha384"], ["ecp384"]),),
    esp_accepted=(esp([GCM256], (), ["ecp384"]),),
    esp_offered=(esp([GCM256], (), ["ecp384"]),),
    child_life=27_000,
    dpd_delay=45,
    vendor_ids=VENDOR_IDS,
)

# Windows' IKE forgets the group of the first IKE_SA when it rekeys it: libreswan has `ms-dh-downgrade` for that.
WEAKER_AT_REKEY = Policy(
    "azure-weaker-at-rekey",
    ike=(ike([AES256], ["sha256"], ["modp2048"]), ike([AES256], ["sha256"], ["modp1024"])),
    ike_at_rekey=(ike([AES256], ["sha256"], ["modp1024"]),),
    esp_accepted=(esp([AES256], ["sha256"], ["none", "modp2048"]),),
    esp_offered=(esp([AES256], ["sha256"]),),
    child_life=27_000,
    dpd_delay=45,
    vendor_ids=VENDOR_IDS,
)
