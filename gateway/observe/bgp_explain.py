"""Why a BGP session is down, in one sentence: what happened, whose setting it is, the fix.

Not a log: a NOTIFICATION (RFC 4271 4.5, RFC 4486, RFC 9234, RFC 7313, RFC 8538, RFC 9384) is looked up by who sent it, its
code and its subcode; without one there is only the configuration to go by, and the sentence says what it may be. Values
that the sentence names are the configured ones and what the neighbor's last OPEN said.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.bgp.events import PeerStatus

SENT, RECEIVED = True, False

_PATH = "see its log; this is a defect of one of the two implementations or of the path between"
# who sent it, code, subcode (None: any other) -> the sentence
NOTIFICATIONS: Mapping[tuple[bool, int, int | None], str] = {
    (SENT, 1, None): f"{{peer}} sent what is no BGP message; {_PATH}",
    (RECEIVED, 1, None): f"{{peer}} says that we sent what is no BGP message; {_PATH}",
    # RFC 4271 6.2
    (SENT, 2, 1): "{peer} does not speak BGP-4; set its version",
    (RECEIVED, 2, 1): "{peer} does not speak BGP-4; set its version",
    (SENT, 2, 2): "{peer} says it is AS {told_as}, and `remote_as` of neighbor {name} is {asn}; set `remote_as` to {told_as}, or the neighbor's own AS to {asn}",
    (RECEIVED, 2, 2): "{peer} expects another AS of us than {local_as}; set the neighbor's remote AS to {local_as}, or `local_as` of [bgp] to what it expects",
    (SENT, 2, 3): "{peer} has a BGP identifier that cannot be, or ours; set `router_id` of [bgp], or the neighbor's, so that they differ",
    (RECEIVED, 2, 3): "{peer} refuses our BGP identifier; set `router_id` of [bgp] to another than the neighbor's own",
    (SENT, 2, 6): "{peer} offers a hold time of {told_hold} s, and less than 3 s is not allowed; raise it there",
    (RECEIVED, 2, 6): "{peer} does not accept our hold time of {hold_time} s; raise `hold_time` of neighbor {name}, or lower the least that the neighbor accepts",
    (SENT, 2, 7): "{peer} has not a capability that we need; its address family must be that of its address: see its configuration",
    (RECEIVED, 2, 7): "{peer} asks for a capability that we have not; switch it from required to optional there",
    (RECEIVED, 2, 11): "{peer} insists on a role (RFC 9234), and we tell none; switch its strict mode off",
    (SENT, 2, None): "we did not accept the OPEN of {peer}; compare its configuration with neighbor {name}",
    (RECEIVED, 2, None): "{peer} did not accept our OPEN; compare its configuration with neighbor {name}",
    # RFC 4271 6.3
    (SENT, 3, None): "{peer} sent an UPDATE that cannot be read; its routes stay for `stale_time`, and if it comes again, see the neighbor's log for the route",
    (RECEIVED, 3, None): "{peer} could not read an UPDATE of ours; see its log for the attribute, and leave it out by `export_policy` of neighbor {name}",
    # RFC 4271 6.5
    (SENT, 4, None): "nothing was heard of {peer} for the hold time of {hold_time} s; it hangs, or the path to it broke",
    (RECEIVED, 4, None): "{peer} heard nothing of us for its hold time; the path to it is one-way or loses packets (check the MTU), or `hold_time` of neighbor {name}, {hold_time} s, is too short for it",
    (SENT, 5, None): "{peer} sent a message out of turn; see its log",
    (RECEIVED, 5, None): "{peer} says that we sent a message out of turn; see its log",
    # RFC 4486 3
    (SENT, 6, 1): "{peer} announced more than {limit_in} prefixes; announce less there, or raise `max_prefixes` of neighbor {name}",
    (RECEIVED, 6, 1): "{peer} takes fewer prefixes than we announce; set `max_announced` of neighbor {name} to its limit and `aggregate` what can be, or raise the limit there",
    (RECEIVED, 6, 2): "somebody shut the session down at {peer}; bring it up there",
    (RECEIVED, 6, 3): "{peer} is not configured for us any more; configure {local_address} with AS {local_as} there, or remove neighbor {name}",
    (RECEIVED, 6, 4): "somebody reset the session at {peer}; it comes back by itself",
    (RECEIVED, 6, 5): "{peer} rejects our connection; configure {local_address} with AS {local_as} as a neighbor there, and see that it is not switched off",
    (RECEIVED, 6, 6): "the configuration of {peer} changed; it comes back by itself",
    (RECEIVED, 6, 7): "{peer} has another connection with us at the same time; it settles by itself, and if not set `passive` of neighbor {name} or at the neighbor",
    (RECEIVED, 6, 8): "{peer} is out of resources; announce less to it (`max_announced`, `aggregate` of neighbor {name}) or relieve it",
    (RECEIVED, 6, 9): "{peer} ended the session for good (hard reset); see its log",
    (RECEIVED, 6, 10): "{peer} ended the session because its BFD found us unreachable; check the path, and `bfd` of neighbor {name}",
    (SENT, 6, None): "we ended the session with {peer}; it comes back by itself",
    (RECEIVED, 6, None): "{peer} ended the session; see its log",
    (SENT, 7, None): "{peer} sent a ROUTE-REFRESH that cannot be read; see its log",
    (RECEIVED, 7, None): "{peer} could not read our ROUTE-REFRESH; see its log",
}  # fmt: skip
_OTHER = {SENT: "we ended the session with {peer}", RECEIVED: "{peer} ended the session; see its log"}


def explain_peer(peer: PeerStatus) -> str:
    """One sentence for a session that is not Established, "" for one that is."""
    if peer.state == "Established":
        return ""
    if peer.suspended_until is not None:
        notification: tuple[bool, int, int] | None = (SENT, 6, 1)
    else:
        notification = peer.notification
    values = {
        "peer": peer.address, "name": peer.name, "asn": peer.asn, "local_as": peer.local_as, "hold_time": peer.hold_time,
        "local_address": peer.local_address, "limit_in": peer.limit_in,
        "told_as": peer.told_as or "another", "told_hold": "?" if peer.told_hold is None else peer.told_hold,
    }  # fmt: skip
    if notification is None:
        return _unanswered(peer)
    sent, code, subcode = notification
    sentence = NOTIFICATIONS.get((sent, code, subcode)) or NOTIFICATIONS.get((sent, code, None)) or _OTHER[sent]
    return f"{sentence.format_map(values)} (NOTIFICATION {'sent' if sent else 'received'} {code}/{subcode})"


def _unanswered(peer: PeerStatus) -> str:
    """No NOTIFICATION says why, so nearly always there was no TCP connection: RFC 2385 and RFC 5082 drop in silence."""
    settings = f"neighbor {peer.name}"
    causes = []
    if peer.password:
        causes.append(f"`password` of {settings} is not the one configured there (TCP MD5 drops in silence)")
    if peer.ttl_security:
        causes.append(f"`ttl_security` of {settings} is not set there too, or it is more than one hop away")
    causes.append(f"it has not {peer.local_address} with AS {peer.local_as} as a neighbor")
    if not peer.password:
        causes.append("it expects a password")
    if not peer.ttl_security:
        reach = f"it is more than {peer.multihop} hop{'s' * (peer.multihop > 1)} away (`multihop` of {settings})"
        causes.append(f"{reach} or expects a TTL of 255 (`ttl_security`)")
    causes.append("TCP port 179 is blocked" if not peer.connection else f"connection {peer.connection} is down")
    what = "did not call us" if peer.passive else "does not answer"
    return f"{peer.address} {what}: {'; or '.join(causes)}"
