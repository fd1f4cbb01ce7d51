"""An AWS Site-to-Site VPN tunnel endpoint with its default options: everything allowed, the lowest value wins.

From "Tunnel options for your Site-to-Site VPN connection", "Tunnel initiation options" and "Tunnel endpoint
replacements". PFS always, one pair of SAs per tunnel; it neither begins nor comes back by itself (startup action `add`,
DPD action `clear`), and a tunnel that carries nothing for about ten seconds may go down. Groups and hashes that gatewayd
does not have (17, 18, 22 to 24) are left out.
"""

from __future__ import annotations

from peers.policy import Policy, esp, ike

CBC = (("aes-cbc", 128), ("aes-cbc", 256))
GCM = (("aes-gcm-16", 128), ("aes-gcm-16", 256))
HASHES = ("sha1", "sha256", "sha384", "sha512")
GROUPS = ("modp1024", "modp2048", "modp3072", "modp4096", "ecp256", "ecp384", "ecp521")

DEFAULT = Policy(
    "aws-default",
    ike=(ike(CBC, HASHES, GROUPS), ike(GCM, HASHES, GROUPS)),
    esp_accepted=(esp(CBC, HASHES, GROUPS), esp(GCM, (), GROUPS)),
    esp_offered=(esp(CBC, HASHES, GROUPS), esp(GCM, (), GROUPS)),
    dpd_delay=10,
    lowest_value=True,
    never_initiates=True,
    idle=10,
)

# modify-vpn-tunnel-options with one value each, as is wise
RESTRICTED = Policy(
    "aws-restricted",
    ike=(ike([("aes-gcm-16", 256)], ["sha384"], ["ecp384"]),),
    esp_accepted=(esp([("aes-gcm-16", 256)], (), ["ecp384"]),),
    esp_offered=(esp([("aes-gcm-16", 256)], (), ["ecp384"]),),
    dpd_delay=10,
    lowest_value=True,
    never_initiates=True,
    idle=10,
)
