"""Why something is down, in one sentence: what happened, whose setting it is, both values, the fix.

Not a log: `explain` is given the *named* failure and what is known about it, and picks the sentence from a
table. A clause whose values are unknown is left out; nothing is guessed. Values may come from a peer, so
control characters are escaped and long ones cut.

Context keys: tunnel, peer (address or address:port), ours, theirs, tries, times, octets, fragments, port, seconds, expected,
got, reason, detail; `protocol` ("IKE" or "ESP") and `direction` ("sent" or "received") choose between variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from gateway.observe.refusals import REFUSALS
from gateway.observe.text import printable

_LIMIT = 200

# A failure whose sentence depends on one more word: failure -> context key; the table has "FAILURE/word".
_VARIANTS = {
    "AUTHENTICATION_FAILED": "direction",
    "CHILD_ANSWER": "reason",
    "IKE_REKEY_FAILED": "reason",
    "INVALID_KE_PAYLOAD": "protocol",
    "INVALID_SYNTAX": "direction",
    "LOWEST_CHOSEN": "protocol",
    "NO_ANSWER_YET": "reason",
    "NO_PROPOSAL_CHOSEN": "protocol",
    "PEER_REKEY_REFUSED": "reason",
    "REKEY_FAILED": "reason",
    "TAKEN_DOWN_AGAIN": "reason",
    "TS_UNACCEPTABLE": "direction",
    "UNSUPPORTED_CRITICAL_PAYLOAD": "direction",
}

# Each sentence is a list of clauses. The first needs no value but the ones defaulted below; the others are dropped
# when a value they name is unknown.
SENTENCES: dict[str, tuple[str, ...]] = {
    # RFC 7296 3.10.1
    "NO_PROPOSAL_CHOSEN": (
        "{peer} accepted none of our proposals (NO_PROPOSAL_CHOSEN)",
        ", we offered {ours}",
        ", it wants {theirs}",
        "; make `proposals` and `esp_proposals` of connection {tunnel} contain what the peer is configured with",
    ),
    "NO_PROPOSAL_CHOSEN/IKE": (
        "{peer} accepted none of our IKE proposals (NO_PROPOSAL_CHOSEN)",
        ", we offered {ours}",
        ", it wants {theirs}",
        "; add the peer's IKE (phase 1) algorithms and group to `proposals` of connection {tunnel}, or ours to the peer (Azure without a custom policy takes group 2, modp1024, alone)",
    ),
    "NO_PROPOSAL_CHOSEN/ESP": (
        "the IKE_SA with {peer} is fine but the peer accepted none of our ESP proposals (NO_PROPOSAL_CHOSEN)",
        ", we offered {ours}",
        ", it wants {theirs}",
        "; add the peer's ESP (phase 2) algorithms to `esp_proposals` of connection {tunnel}, and compare the PFS group",
    ),
    "NO_POST_QUANTUM": (
        "{peer} accepted none of our IKE proposals (NO_PROPOSAL_CHOSEN)",
        ", we offered {ours}",
        '; all have ML-KEM (RFC 9370), as `post_quantum = "require"` of connection {tunnel} asks: configure it at the peer, or set "prefer"',
    ),
    "BAD_ANSWER": (
        "{peer} answered IKE_SA_INIT with something we did not ask for",
        " ({detail})",
        "; it misreads our proposals: offer less in `proposals` of connection {tunnel}, and set `post_quantum` to off if it is older than RFC 9370",
    ),
    "NO_ANSWER_TO_IKE_INTERMEDIATE": (
        "{peer} answered IKE_SA_INIT but not IKE_INTERMEDIATE",
        "; large datagrams get lost on the way: lower `fragment_size` of connection {tunnel}, and check that UDP 4500 passes",
    ),
    "NO_PROPOSAL_ACCEPTABLE": (
        "the IKE_SA with {peer} is fine but we refused every ESP proposal that it makes",
        " ({detail})",
        "; add one of the peer's ESP (phase 2) algorithms to `esp_proposals` of connection {tunnel}, or change the peer",
    ),
    "USE_PPK": (
        "{peer} does not use our post-quantum preshared key, and `ppk_required` of connection {tunnel} lets nobody in without",
        " ({detail})",
        "; configure the same PPK and its name at the peer, or set `ppk_required` to false",
    ),
    "AUTHENTICATION_FAILED": (
        "authentication with {peer} failed",
        "; compare the pre-shared key and the identities of connection {tunnel} with the peer's",
    ),
    "AUTHENTICATION_FAILED/received": (
        "{peer} refused our authentication (AUTHENTICATION_FAILED)",
        ", we said we are {ours}",
        "; either `psk` of connection {tunnel} is not the peer's key, or the peer expects another identity than our `local_id`",
    ),
    "AUTHENTICATION_FAILED/sent": (
        "we refused the authentication of {peer}: its AUTH payload does not fit our `psk`",
        " ({detail})",
        "; the pre-shared keys differ (look for trailing blanks or newlines), correct `psk` (or `ppk`) of connection {tunnel} or the peer's key",
    ),
    "WRONG_PEER_IDENTITY": (
        "{peer} gives another identity than the one configured",
        " ({detail})",
        "; set `remote_id` of connection {tunnel} to the identity the peer sends, or change the peer's local identity",
    ),
    "WRONG_AUTH_METHOD": (
        "{peer} does not prove itself in the way that connection {tunnel} asks for",
        " ({detail})",
        "; configure the peer with the pre-shared key of `psk`, or with a certificate under `ca`, whichever the connection has, and without EAP",
    ),
    "TOO_MANY_IKE_SAS": (
        "{peer} sets up one IKE_SA after the other and ends none of them, so we refused another one",
        "; nothing to change here: let the peer say INITIAL_CONTACT or delete its old ones, and look in its log for why it begins anew",
    ),
    "WRONG_SIGNATURE": (
        "we refused the authentication of {peer}: its signature is not one of its certificate's key that we take",
        " ({detail})",
        "; the peer must sign with the key of the certificate that it sends, by a method that is taken: see the peer's log for connection {tunnel}",
    ),
    "CERTIFICATE_MISSING": (
        "{peer} does not prove itself by a certificate, which `ca` of connection {tunnel} asks for",
        " ({detail})",
        "; configure the peer with one and have it sent, or remove `ca` and set `psk`",
    ),
    "CERTIFICATE_UNKNOWN_CA": (
        "no CA that we trust has certified {peer}",
        " ({detail})",
        "; add the CA to `ca` of connection {tunnel}, or have the peer send the intermediate certificates too",
    ),
    "CERTIFICATE_EXPIRED": (
        "a certificate of {peer} or above it has expired",
        " ({detail})",
        "; renew it there, or the CA in `ca` of connection {tunnel}; if it has not expired, correct the clock of this machine",
    ),
    "CERTIFICATE_NOT_YET_VALID": (
        "a certificate of {peer} or above it is not valid yet",
        " ({detail})",
        "; correct the clock of this machine, or of the one that issued the certificate for connection {tunnel}",
    ),
    "CERTIFICATE_REVOKED": (
        "a certificate of {peer} or above it is revoked",
        " ({detail})",
        "; it may never be used again: the peer of connection {tunnel} needs another one",
    ),
    "CERTIFICATE_IDENTITY": (
        "the certificate of {peer} is of somebody else",
        " ({detail})",
        "; set `remote_id` of connection {tunnel} to a name that the certificate has, exactly, or give the peer a certificate with that name in subjectAltName",
    ),
    "CERTIFICATE_WEAK": (
        "the certificate of {peer}, or one above it, is too weak to prove anything",
        " ({detail})",
        "; have it issued anew with RSA of 2048 bits or more, ECDSA or EdDSA, and SHA-2, for connection {tunnel}",
    ),
    "CERTIFICATE_CHAIN": (
        "the certificates of {peer} do not make a path to a CA of ours",
        " ({detail})",
        "; have the certificate issued anew by a CA that may do so, for connection {tunnel}",
    ),
    "CERTIFICATE_REFUSED_BY_PEER": (
        "{peer} refused our certificate or our signature (AUTHENTICATION_FAILED)",
        ", we said we are {ours}",
        "; the peer must trust the CA of `local_cert` of connection {tunnel} and expect our identity; if it does not know RSASSA-PSS set `rsa_pss` to false",
    ),
    "NO_COMMON_SIGNATURE": (
        "our key makes no signature that {peer} takes",
        " ({detail})",
        "; use a `local_cert` with another kind of key for connection {tunnel}; for an RSA key and a peer without RFC 7427 there is `rsa_sha1`",
    ),
    "REVOCATION_UNKNOWN": (
        "whether a certificate of {peer} is revoked could not be found out, and `revocation` of connection {tunnel} lets nobody in without",
        " ({detail})",
        "; publish the CRL or OCSP responder by http:// where this machine reaches it, name a file in `crl`, or set `revocation` to relaxed",
    ),
    "TS_UNACCEPTABLE": (
        "{peer} refused our traffic selectors (TS_UNACCEPTABLE)",
        ", we proposed {local_ts} on our side and {remote_ts} on its",
        "; `local_ts` and `remote_ts` of connection {tunnel} must mirror the peer's networks (ours local = its remote)",
    ),
    "TS_UNACCEPTABLE/sent": (
        "we refused the traffic selectors of {peer}",
        " ({detail})",
        "; `local_ts` and `remote_ts` of connection {tunnel} must mirror the peer's networks (ours local = its remote)",
    ),
    "INVALID_KE_PAYLOAD": (
        "{peer} keeps asking for another key exchange group (INVALID_KE_PAYLOAD)",
        ", we sent {ours}",
        ", it asks for {theirs}",
        "; put a group both sides have first in `proposals` of connection {tunnel}",
    ),
    "INVALID_KE_PAYLOAD/ESP": (
        "{peer} keeps asking for another PFS group (INVALID_KE_PAYLOAD)",
        ", we sent {ours}",
        ", it asks for {theirs}",
        "; put the peer's PFS group into `esp_proposals` of connection {tunnel}, or none on both sides",
    ),
    "PEER_UNREACHABLE": (
        "{peer} did not answer IKE_SA_INIT",
        " after {tries} tries",
        "; check `remote_addrs` of connection {tunnel}, that the peer runs, and that firewalls and security groups pass UDP 500 and 4500 both ways",
    ),
    "NO_ANSWER_ON_4500": (
        "{peer} answered on UDP 500 but not on UDP 4500",
        " after {tries} tries",
        ", each in {fragments} fragments of up to {octets} octets",
        "; allow UDP 4500 both ways between the addresses of connection {tunnel}; if it passes, the peer dropped our IKE_AUTH without a word: see its log",
    ),
    "IP_FRAGMENTS_LOST": (
        "{peer} answered IKE_SA_INIT but not our IKE_AUTH, which is too long for one IP packet",
        " ({octets} octets)",
        "; the path drops IP fragments: set `fragment_size` of connection {tunnel} to 1280 and let the peer fragment IKE too (RFC 7383), or use smaller certificates",
    ),
    "STRANGER_CALLS": (
        "nothing is heard of {peer}",
        ", but {got} asks for an IKE_SA, and no connection has it as `remote_addrs`",
        "; if that is the peer, behind a NAT or with a new address, set `remote_addrs` of connection {tunnel} to it, or have the peer send from {peer}",
    ),
    "LOWEST_CHOSEN/IKE": (
        "{peer} takes the lowest of what we offer for the IKE_SA, whatever stands first",
        " ({theirs})",
        ", we offered {ours}",
        "; leave one value of each kind in `proposals` of connection {tunnel}, and at the peer (AWS: modify-vpn-tunnel-options)",
    ),
    "LOWEST_CHOSEN/ESP": (
        "{peer} takes the lowest of what we offer for the CHILD_SA, whatever stands first",
        " ({theirs})",
        ", we offered {ours}",
        "; leave one value of each kind in `esp_proposals` of connection {tunnel}, and at the peer (AWS: modify-vpn-tunnel-options)",
    ),
    "ESP_UNVERIFIED": (
        "the IKE_SA with {peer} is fine, but not one of its ESP packets verifies",
        " ({got} did not)",
        ", agreed on was {ours}",
        "; its keys or its integrity value are others (as with HMAC-SHA2-256 cut to 96 bits): offer AES-GCM first in `esp_proposals` of connection {tunnel}",
    ),
    "REPLAY_DROPS": (
        "packets of {peer} come twice, or so late that the replay window drops them",
        " ({got} dropped, {expected} taken)",
        "; if nothing on the way doubles them, the path or the peer's queues reorder: raise `replay_window` of connection {tunnel}",
        " from {ours}",
    ),
    "MTU_BLACK_HOLE": (
        "the tunnel to {peer} passes small packets, but those as long as its MTU vanish without a word",
        " ({octets} octets; the longest that are answered have {got})",
        ": a link on the way is narrower than `link_mtu`",
        " ({ours})",
        " and its ICMP is lost; set `link_mtu = {expected}` in [connection.{tunnel}], or have the path take more",
    ),
    "TAKEN_DOWN_AGAIN": (
        "{peer} deletes the IKE_SA again and again",
        " ({times} times)",
        "; see its log for connection {tunnel}",
    ),
    "TAKEN_DOWN_AGAIN/AT_ONCE": (
        "{peer} deletes the IKE_SA as soon as it is set up",
        " ({times} times now)",
        "; it accepts our proof and then has no place for connection {tunnel}: see its log (a second configuration of the same peer, a limit, an address or CHILD_SA that it cannot install)",
    ),
    "TAKEN_DOWN_AGAIN/IDLE": (
        "{peer} deletes the IKE_SA whenever it carried nothing for a while",
        " ({seconds} s, {times} times now)",
        "; keep traffic in the tunnel of connection {tunnel}, as BGP or a monitoring ping does (AWS drops idle tunnels), or switch its idle timeout off",
    ),
    "TAKEN_DOWN_AGAIN/LIFETIME": (
        "{peer} deletes the IKE_SA each time it reaches a certain age",
        " ({seconds} s, {times} times now)",
        "; its lifetime ends before either side rekeys: set `rekey_time` of connection {tunnel} well below that, or raise the peer's lifetime",
    ),
    "NO_ANSWER_TO_IKE_AUTH": (
        "{peer} answered IKE_SA_INIT but not IKE_AUTH",
        " after {tries} tries",
        "; it dropped us without a word: look into its log for an unknown identity or key, and check UDP 4500 for connection {tunnel}",
    ),
    "DPD_TIMEOUT": (
        "{peer} stopped answering",
        ", last heard {seconds} s ago",
        "; it crashed, or the path to it broke: check the circuit of connection {tunnel}, and that UDP 4500 still passes",
    ),
    "PEER_CRASHED": (
        "{peer} has lost its IKE_SAs and proves it (RFC 6290): it crashed, or was restarted without a word",
        "; connection {tunnel} is set up anew at once",
    ),
    "ADDRESS_CHECK_FAILED": (
        "{peer} said that it moved, but did not answer from there (RFC 4555)",
        " ({remote})",
        "; connection {tunnel} was closed: somebody on the way may have changed the address of its packets",
    ),
    "ADDRESS_REFUSED": (
        "{peer} does not take our new address for the tunnel that stood (RFC 4555)",
        " ({local}: {theirs})",
        "; connection {tunnel} is set up anew from there: let the peer accept this address as `remote_addrs`",
    ),
    "REDIRECT_REFUSED": (
        "{peer} sends us to another gateway (RFC 5685), and we did not go there",
        " ({detail})",
        '; set `redirect` of connection {tunnel} to "follow", or `remote_addrs` to a gateway that takes us',
    ),
    "DELETED_BY_PEER": (
        "{peer} deleted the IKE_SA",
        " of connection {tunnel}",
        "; somebody or its configuration took it down there: see the peer's log (idle timeout, reload, lifetime, duplicate connection)",
    ),
    "CHILD_DELETED_BY_PEER": (
        "{peer} deleted the CHILD_SA",
        " {child}",
        " of connection {tunnel}",
        "; it could not install it or its configuration took it down: see the peer's log, we ask for it again by ourselves",
    ),
    "INIT_REFUSED": (
        "the beginning of an IKE_SA with {peer} was refused",
        " ({detail})",
        "; make `proposals` of connection {tunnel} contain what the peer offers, or change the peer",
    ),
    "INIT_BROKEN": (
        "the beginning of an IKE_SA with {peer} was refused, for it breaks the protocol",
        " ({detail})",
        "; this is a defect of one of the two implementations and no setting: report it with a trace of connection {tunnel}",
    ),
    "NO_ANSWER_YET": (
        "{peer} does not answer",
        " {exchange}, sent {sent} times so far",
        "; check `remote_addrs` of connection {tunnel}, that the peer runs, and that firewalls and security groups pass UDP 500 and 4500 both ways",
    ),
    "NO_ANSWER_YET/IKE_AUTH": (
        "{peer} answered IKE_SA_INIT but does not answer IKE_AUTH",
        ", sent {sent} times so far",
        "; allow UDP 4500 both ways between the addresses of connection {tunnel}; if it passes, see the peer's log",
    ),
    "NO_ANSWER_YET/ESTABLISHED": (
        "{peer} does not answer any more",
        " ({exchange} sent {sent} times so far)",
        "; it crashed, or the path to it broke: check the circuit of connection {tunnel}, and that UDP 4500 still passes",
    ),
    "TUN_FAILED": (
        "the device of connection {tunnel} cannot be made, so nothing is negotiated",
        " ({detail})",
        "; it is tried again by itself",
    ),
    "DELETED_BY_OPERATOR": (
        "connection {tunnel} was terminated from this side by an operator; bring it back with `gatewayctl initiate {tunnel}`",
    ),
    "AT_THE_OTHER_GATEWAY": ("connection {tunnel} is the active gateway's, which is not this one",),
    "CONFIGURATION_CHANGED": ("connection {tunnel} was given other addresses or identities and is being set up anew",),
    "CHILD_DELETED_BY_OPERATOR": (
        "a CHILD_SA of connection {tunnel} was terminated from this side by an operator",
        "; bring it back with `gatewayctl initiate {tunnel}/{child}`",
    ),
    "WAITING_FOR_PEER": (
        "connection {tunnel} only responds, for its `start_action` is none, and {peer} has not called yet; let the peer initiate, or set that to start",
    ),
    "WAITING_FOR_TRAFFIC": (
        "connection {tunnel} starts with the first packet, for its `start_action` is trap, and none came yet",
    ),
    "UNSUPPORTED_CRITICAL_PAYLOAD": (
        "{peer} refuses a payload of ours as critical and unknown to it (UNSUPPORTED_CRITICAL_PAYLOAD), and we mark none so",
        "; this is a defect of one of the two implementations: report it with a trace of connection {tunnel}",
    ),
    "UNSUPPORTED_CRITICAL_PAYLOAD/sent": (
        "{peer} sends a payload that we do not know and may not ignore",
        " ({detail})",
        "; switch off at the peer the extension that it belongs to, for connection {tunnel}",
    ),
    "UNUSUAL_NOTIFICATION": (
        "{peer} refuses us by a notification that is no answer to what we asked",
        " ({got})",
        "; no setting here is known to cause it: its log says why, for connection {tunnel}",
    ),
    # RFC 7296 2.21, 3.10.1: said of a message that decrypted and verified, so no key is at fault; in IKE_SA_INIT there is none yet
    "INVALID_SYNTAX": (
        "{peer} could not parse our message, or its policy forbids something in it (INVALID_SYNTAX)",
        " ({exchange})",
        "; no key is at fault: look into its log for what it did not understand of connection {tunnel}, and if it is an extension (as ML-KEM of `post_quantum`) switch that off",
    ),
    "INVALID_SYNTAX/sent": (
        "we could not make sense of a message of {peer}",
        " ({detail})",
        "; this is a defect of one of the two implementations: report it with a trace of connection {tunnel}",
    ),
    "PROTOCOL_VIOLATION": (
        "{peer} broke the protocol",
        " ({detail})",
        "; this is a defect of one of the two implementations: report it with a trace of connection {tunnel}",
    ),
    "BAD_KEY_EXCHANGE": (
        "the key exchange value of {peer} is not valid",
        " ({detail})",
        "; this is a defect of the peer or an attack: try another group in `proposals` of connection {tunnel}",
    ),
    "NO_CHILD_SA": (
        "{peer} set up the IKE_SA but no CHILD_SA, and gave no reason; compare `esp_proposals`, `local_ts` and `remote_ts` with its log",
        " for connection {tunnel}",
    ),
    "HALF_OPEN_TIMEOUT": (
        "{peer} began IKE_SA_INIT and never came back with IKE_AUTH",
        "; a firewall passes UDP 500 but not 4500 on the way to us, or the peer refused our answer: see its log for connection {tunnel}",
    ),
    "REMOVED_FROM_CONFIGURATION": (
        "connection {tunnel} was removed from the configuration, or changed so that it starts anew",
    ),
    "INVALID_MAJOR_VERSION": (
        "{peer} does not speak IKEv2 (INVALID_MAJOR_VERSION); switch the peer from IKEv1 to IKEv2",
        " for connection {tunnel}",
    ),
    "SINGLE_PAIR_REQUIRED": (
        "{peer} accepts one address pair per CHILD_SA only (SINGLE_PAIR_REQUIRED)",
        ", we proposed {ours}",
        "; split the children of connection {tunnel} into single prefixes",
    ),
    "NO_ADDITIONAL_SAS": (
        "{peer} accepts no further CHILD_SA on this IKE_SA (NO_ADDITIONAL_SAS); merge the children of connection {tunnel} into one,"
        " or raise the peer's limit",
    ),
    "FAILED_CP_REQUIRED": (
        "{peer} expects a client that asks for an address (FAILED_CP_REQUIRED); configure connection {tunnel} as site-to-site on the peer",
    ),
    "INTERNAL_ADDRESS_FAILURE": (
        "{peer} treats us as a client and has no address for us (INTERNAL_ADDRESS_FAILURE); configure connection {tunnel} as site-to-site on the peer",
    ),
    "TEMPORARY_FAILURE": (
        "{peer} is busy with a rekey or a delete (TEMPORARY_FAILURE); nothing to fix, connection {tunnel} tries again by itself",
    ),
    "CHILD_SA_NOT_FOUND": (
        "{peer} does not know the CHILD_SA we wanted to rekey (CHILD_SA_NOT_FOUND); it was lost there, connection {tunnel} makes a new one by itself",
    ),
    "HALF_OPEN_LIMIT": (
        "too many unfinished IKE_SAs at once, so {peer} has to wait; if this lasts, somebody floods UDP 500",
    ),
    "PEER_REKEY_REFUSED": (
        "we refuse the rekey of the CHILD_SA that {peer} asks for",
        " ({detail})",
        ", we take {ours}",
        "; the first CHILD_SA is made without a PFS group, so most likely that differs: add what the peer offers to `esp_proposals` of connection {tunnel}, or the tunnel ends with the peer's lifetime",
    ),
    "PEER_REKEY_REFUSED/TS_UNACCEPTABLE": (
        "we refuse the traffic selectors of the rekey that {peer} asks for",
        " ({detail})",
        ", we take {local_ts} on our side and {remote_ts} on its",
        "; `local_ts` and `remote_ts` of connection {tunnel} must mirror the peer's networks, or the tunnel ends with the peer's lifetime",
    ),
    "PEER_IKE_REKEY_REFUSED": (
        "we refuse the rekey of the IKE_SA that {peer} asks for",
        " ({detail})",
        ", we take {ours}",
        "; add what the peer offers at a rekey to `proposals` of connection {tunnel} (Windows' IKE falls back to group 2, modp1024), or configure it there, or the tunnel ends with the peer's lifetime",
    ),
    "IKE_LIFETIME_EXPIRED": (
        "{peer} refused every rekey of the IKE_SA until its lifetime ended, and a new one beside it could not be set up, so it was closed and begins anew",
        "; compare `proposals` of connection {tunnel} with the peer's IKE (phase 1) algorithms and group",
    ),
    "REAUTHENTICATION_OVERDUE": (
        "{peer} has not proven itself again though `reauth_time` is long over, so its IKE_SA was closed",
        "; the failures before this one say why: its secret or certificate, or, where it is behind a NAT and only it can begin, that it has to reauthenticate itself",
    ),
    "LIMIT_REACHED": (
        "a CHILD_SA with {peer} used up its octets, packets or sequence numbers before a rekey succeeded",
        "; lower `rekey_bytes` or `rekey_packets` of its child in connection {tunnel}, so that the rekey begins in time, and see in `gatewayctl trace {tunnel}` whether the peer refused it",
    ),
    "LIFETIME_EXPIRED": (
        "an SA with {peer} reached its hard lifetime before a rekey succeeded",
        " ({reason})",
        "; compare `rekey_time` and `life_time` of connection {tunnel} with the peer's lifetimes",
    ),
    **REFUSALS,
}

_DEFAULTS = {"peer": "the peer"}


def explain(failure: str, context: Mapping[str, object]) -> str:
    """One sentence for a named failure; an honest general one for a name the table does not have."""
    values = {key: printable(str(value), _LIMIT) for key, value in context.items() if value not in (None, "", ())}
    values = _DEFAULTS | values
    clauses = SENTENCES.get(f"{failure}/{context.get(_VARIANTS.get(failure, ''), '')}") or SENTENCES.get(failure)
    if clauses is None:
        return _unknown(failure, values)
    told = [clause for clause in clauses if _names(clause) <= values.keys()]
    if not told or told[0] is not clauses[0]:
        return _unknown(failure, values)
    return "".join(told).format_map(values)


def _names(clause: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(clause) if name}


def _unknown(failure: str, values: Mapping[str, str]) -> str:
    where = f" on connection {values['tunnel']}" if "tunnel" in values else ""
    known = ", ".join(
        f"{key} {value}"
        for key, value in sorted(values.items())
        if key != "tunnel" and (key, value) not in _DEFAULTS.items()
    )
    return f"{printable(failure, _LIMIT) or 'an unnamed failure'}{where}, for which there is no explanation; what is known: {known or 'nothing more'}"
