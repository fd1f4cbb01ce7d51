"""How large an inner packet may be so that its ESP packet fits the link, and the TCP MSS that follows.

Not path MTU discovery: the link MTU is an argument (RFC 4301 8.2; sizes from RFC 4303 2, RFC 4106, RFC 7634, RFC 3602).

    outer IP | UDP 8 (encapsulated) | SPI, sequence 8 | IV | inner packet, padding, 2 | ICV
    <------------------------------- link MTU ------------------------------------------>
                                                           multiple of the alignment
"""

from __future__ import annotations

from gateway.esp.dataplane import AEAD_ICV_OCTETS, ICV_OCTETS, Encryption, Suite

OUTER_IPV4_OCTETS = 20
OUTER_IPV6_OCTETS = 40
UDP_OCTETS = 8
ESP_HEADER_OCTETS = 8
ESP_TRAILER_OCTETS = 2
TCP_OCTETS = 20

IV_OCTETS = {encryption: 8 if encryption.aead else 16 for encryption in Encryption}
# RFC 4303 2.4: the trailer ends on 4 octets, a block cipher's text on its block.
ALIGNMENT_OCTETS = {encryption: 4 if encryption.aead else 16 for encryption in Encryption}


def icv_octets(suite: Suite) -> int:
    """Length of the integrity check value the suite appends."""
    return AEAD_ICV_OCTETS[suite.encryption] if suite.encryption.aead else ICV_OCTETS[suite.integrity]


def inner_mtu(suite: Suite, link_mtu: int, outer_ipv6: bool, encapsulate: bool) -> int:
    """The largest inner IP packet; 0 when the link has no room for any."""
    alignment = ALIGNMENT_OCTETS[suite.encryption]
    text = (link_mtu - _fixed(suite, outer_ipv6, encapsulate)) // alignment * alignment
    return max(text - ESP_TRAILER_OCTETS, 0)


def _fixed(suite: Suite, outer_ipv6: bool, encapsulate: bool) -> int:
    """Octets around the text."""
    outer = OUTER_IPV6_OCTETS if outer_ipv6 else OUTER_IPV4_OCTETS
    udp = UDP_OCTETS if encapsulate else 0
    return outer + udp + ESP_HEADER_OCTETS + IV_OCTETS[suite.encryption] + icv_octets(suite)


def outer_octets(suite: Suite, inner: int, outer_ipv6: bool, encapsulate: bool) -> int:
    """How long an inner packet of so many octets is on the link."""
    alignment = ALIGNMENT_OCTETS[suite.encryption]
    text = -(-(inner + ESP_TRAILER_OCTETS) // alignment) * alignment
    return _fixed(suite, outer_ipv6, encapsulate) + text


def tcp_mss(mtu: int, ipv6: bool) -> int:
    """The MSS of a TCP connection whose packets may have `mtu` octets (RFC 9293 3.7.1); 0 when none fits."""
    return max(mtu - (OUTER_IPV6_OCTETS if ipv6 else OUTER_IPV4_OCTETS) - TCP_OCTETS, 0)
