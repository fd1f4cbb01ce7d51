"""`gatewayd`: the command line of the daemon.

Exit codes: 0 stopped on request; 1 cannot start or failed; 2 usage; 78 the configuration is wrong (EX_CONFIG, for
which the unit does not restart).

What a mode does not need it does not load: `--cleanup` stands between a stop and the next start, and a witness needs no data plane.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway import __version__
from gateway.runtime.predecessor import Predecessor
from gateway.runtime.unit import begins_again

DEFAULT_CONFIG = "/etc/gatewayd/gateway.toml"
WITNESS_CONFIG = "/etc/gatewayd/witness.toml"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    path = Path(options.config or (WITNESS_CONFIG if options.witness else DEFAULT_CONFIG))
    if options.cleanup and not options.all and begins_again():
        print("the unit begins again: its tunnels are left to it")
        return 0
    if options.witness and not options.check:
        from gateway.runtime import witness_mode

        return witness_mode.run(path, options.log_format)
    if options.check or options.cleanup or options.guard or options.bgp:
        from gateway.runtime import modes

        return modes.run(path, options)
    predecessor = None
    if options.take_over is not None:
        predecessor = Predecessor(options.take_over)
        predecessor.forsake()
    from gateway.runtime import serving

    return serving.run(path, options.log_format, predecessor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("gatewayd", description="Userspace IPsec/BGP data-plane gateway.")
    parser.add_argument("--config", metavar="FILE", help=f"default {DEFAULT_CONFIG}, with --witness {WITNESS_CONFIG}")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit (0 or 78)")
    parser.add_argument("--strict", action="store_true", help="with --check: warnings are errors")
    parser.add_argument(
        "--secrets", action="store_true", help="with --check: read the files of secrets and certificates too"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="with --check")
    parser.add_argument(
        "--cleanup", action="store_true", help="remove what a killed daemon left; keeps the clear-text guard"
    )
    parser.add_argument("--all", action="store_true", help="with --cleanup: remove the clear-text guard too")
    parser.add_argument(
        "--guard", action="store_true", help="install the clear-text guard and exit: at boot, before there is a network"
    )
    parser.add_argument(
        "--bgp", action="store_true", help="run ExaBGP for gatewayd, and outlive it: gatewayd-bgp.service"
    )
    parser.add_argument(
        "--witness",
        action="store_true",
        help="run the witness of other gateways, on a third machine: gatewayd-witness.service",
    )
    # Said by a daemon to the one that follows it, see successor.py
    parser.add_argument("--take-over", type=int, metavar="FD", help=argparse.SUPPRESS)
    parser.add_argument("--log-format", choices=("auto", "human", "json"), default="auto")
    parser.add_argument("--version", action="version", version=f"gatewayd {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
