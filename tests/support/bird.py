"""BIRD 2 as the BGP speaker of an edge router or a VNet's route server, one per namespace.

The kernel protocol exports what BGP learns (and nothing else) to the main table. Reconnection times are short, so that
a recovery is measured, not BIRD's patience. Interop: BIRD 2.0.12 gets stuck with `import table`; not used here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from support.netns import Namespace
from support.process import Process, run, wait_until


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One BGP session."""

    name: str
    local: str
    remote: str
    remote_as: int
    multihop: int = 0
    password: str | None = None


class Bird:
    """One BIRD daemon: originates `prefixes`, talks to `neighbors`."""

    def __init__(
        self,
        machine: Namespace,
        local_as: int,
        router_id: str,
        neighbors: Sequence[Neighbor],
        prefixes: Sequence[str],
        *,
        transit: bool = False,
        multipath: bool = False,
    ) -> None:
        """`multipath`: equally good paths are used side by side."""
        self.machine = machine
        self.process: Process | None = None
        self._socket = machine.directory / "bird.ctl"
        self._conf = machine.directory / "bird.conf"
        text = _configuration(local_as, router_id, neighbors, prefixes, transit=transit)
        self._conf.write_text(
            text.replace("  scan time 5;", "  scan time 5;\n  merge paths on;") if multipath else text
        )

    def start(self) -> None:
        argv = [
            "bird",
            "-f",
            "-c",
            str(self._conf),
            "-s",
            str(self._socket),
            "-P",
            str(self.machine.directory / "bird.pid"),
        ]
        self.process = self.machine.start("bird", argv)
        wait_until(self._socket.exists, 5, "BIRD's control socket", logs=[self.process])

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def birdc(self, *command: str) -> str:
        return run(("birdc", "-r", "-s", str(self._socket), *command), check=False)

    def sessions(self) -> dict[str, str]:
        """BGP state by neighbor name: Established, Active, ..."""
        found = {}
        for line in self.birdc("show", "protocols").splitlines():
            fields = line.split()
            if len(fields) >= 4 and fields[1] == "BGP":
                found[fields[0]] = fields[5] if len(fields) > 5 else fields[3]
        return found

    def established(self, name: str) -> bool:
        return self.sessions().get(name) == "Established"

    def wait_established(self, name: str, seconds: float, *, logs: Sequence[Process | None] = ()) -> None:
        wait_until(
            lambda: self.established(name), seconds, f"BIRD session {name} Established", logs=[self.process, *logs]
        )

    def learned(self, name: str) -> dict[str, str]:
        """Prefixes learned from a neighbor, with their BGP next hop."""
        found: dict[str, str] = {}
        prefix = ""
        for line in self.birdc("show", "route", "protocol", name, "all").splitlines():
            start = re.match(r"^(\d[\d.]+/\d+)\s", line)
            prefix = start[1] if start else prefix
            hop = re.match(r"^\s+BGP\.next_hop: (\S+)", line)
            if hop:
                found[prefix] = hop[1]
        return found


def _configuration(
    local_as: int, router_id: str, neighbors: Sequence[Neighbor], prefixes: Sequence[str], *, transit: bool
) -> str:
    export = "source = RTS_BGP" if transit else f"net ~ [ {', '.join(prefixes)} ]"
    statics = "\n".join(f"  route {prefix} blackhole;" for prefix in prefixes)
    sessions = "\n".join(_session(local_as, neighbor, export) for neighbor in neighbors)
    return f"""log stderr all;
router id {router_id};
protocol device {{
  scan time 1;
}}
protocol direct {{
  ipv4;
}}
protocol static own {{
  ipv4;
{statics}
}}
protocol kernel {{
  scan time 5;
  ipv4 {{
    import none;
    export where source = RTS_BGP;
  }};
}}
{sessions}
"""


def _session(local_as: int, neighbor: Neighbor, export: str) -> str:
    options = "".join(
        (
            f"  multihop {neighbor.multihop};\n" if neighbor.multihop else "  direct;\n",
            f'  password "{neighbor.password}";\n' if neighbor.password else "",
        )
    )
    return f"""protocol bgp {neighbor.name} {{
  local {neighbor.local} as {local_as};
  neighbor {neighbor.remote} as {neighbor.remote_as};
{options}  hold time 30;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  error forget time 1;
  ipv4 {{
    import all;
    export where {export};
    next hop self;
  }};
}}"""
