"""gatewayd under the loop probe: `route_daemon.py OUTPUT gatewayd ARGUMENTS...`"""

from __future__ import annotations

import sys
from pathlib import Path

from support import loop_probe

from gateway.runtime.main import main

if __name__ == "__main__":
    loop_probe.install(loop_probe.Probe(Path(sys.argv[1])))
    sys.exit(main(sys.argv[3:]))
