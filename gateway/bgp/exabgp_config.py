"""The configuration text for ExaBGP 5.0.15. It holds the passwords: whoever writes it, mode 0600.

One process (the relay), one neighbor block per session, one family per session: that of its addresses.
Graceful restart only where asked: with it ExaBGP closes sessions without a NOTIFICATION, and the peer keeps forwarding to
us. Its End-of-RIB is then said by the speaker, after the routes.
"""

from __future__ import annotations

import base64

from gateway.bgp.settings import NeighborSettings, SpeakerSettings

PROCESS = "gatewayd"
RELAY_PLACE = "@relay@"
"""Stands for the relay's command until whoever runs ExaBGP puts its own there."""

_TEMPLATE = """\
process {process} {{
    run {relay};
    encoder json;
}}
"""

_NEIGHBOR = """\
neighbor {address} {{
    description "{name}";
    local-address {local_address};
    local-as {local_as};
    peer-as {remote_as};
    router-id {router_id};
    hold-time {hold_time};
    group-updates true;
    adj-rib-in true;
    adj-rib-out true;
    family {{ ipv{version} unicast; }}
    capability {{ asn4 enable; route-refresh enable; extended-message enable; add-path disable; {restart}}}
    api {{ processes [ {process} ]; neighbor-changes; receive {{ parsed; update; open; notification; refresh; }} }}
{options}}}
"""


def render(settings: SpeakerSettings, relay_command: str = RELAY_PLACE) -> str:
    """`relay_command`: the relay's interpreter, file and arguments, separated by single blanks."""
    parts = [_TEMPLATE.format(process=PROCESS, relay=relay_command)]
    parts += [_neighbor(settings, neighbor) for neighbor in settings.neighbors]
    return "\n".join(parts)


def process_section(text: str) -> str:
    """What stands before the neighbors."""
    return text.partition("\n\n")[0]


def restarted(old: SpeakerSettings, new: SpeakerSettings) -> tuple[str, ...]:
    """The neighbors of both whose sessions end and begin anew when `new` takes the place of `old`: those of which ExaBGP
    has to be told anything else."""
    before = {neighbor.name: _neighbor(old, neighbor) for neighbor in old.neighbors}
    return tuple(one.name for one in new.neighbors if before.get(one.name) not in (None, _neighbor(new, one)))


def _neighbor(settings: SpeakerSettings, neighbor: NeighborSettings) -> str:
    return _NEIGHBOR.format(
        address=neighbor.address,
        name=neighbor.name,
        local_address=neighbor.local_address,
        local_as=settings.local_as,
        remote_as=neighbor.remote_as,
        router_id=settings.router_id,
        hold_time=neighbor.hold_time,
        version=neighbor.address.version,
        process=PROCESS,
        restart=f"graceful-restart {neighbor.graceful_restart}; " if neighbor.graceful_restart else "",
        options="".join(f"    {line};\n" for line in _options(settings, neighbor)),
    )


def _options(settings: SpeakerSettings, neighbor: NeighborSettings) -> list[str]:
    lines = []
    if neighbor.password is not None:
        # RFC 2385: base64, because the configuration language knows no escapes
        lines += [f'md5-password "{base64.b64encode(neighbor.password).decode()}"', "md5-base64 true"]
    if neighbor.ttl_security:
        # RFC 5082 3: send with 255, accept nothing less
        lines += ["outgoing-ttl 255", "incoming-ttl 255"]
    elif neighbor.multihop > 1 or not settings.internal(neighbor):
        lines.append(f"outgoing-ttl {neighbor.multihop}")
    if neighbor.graceful_restart:
        lines.append("manual-eor true")
    if neighbor.passive:
        lines += ["passive true", f"listen {settings.listen_port}"]
    return lines
