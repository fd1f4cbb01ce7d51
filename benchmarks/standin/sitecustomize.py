"""Found by Python in every process below a gatewayd that has this directory in PYTHONPATH; the one that runs ExaBGP hands the
directory on, and starts the program here, so that `exabgp` is the one beside this file."""

import os
import sys
from pathlib import Path

if "gateway.runtime.bgp_unit" in sys.orig_argv:
    from gateway.runtime import exabgp

    _made = exabgp.environment
    exabgp.environment = lambda: _made() | {"PYTHONPATH": os.environ["PYTHONPATH"]}
    exabgp.PROGRAM = Path(__file__).with_name("exabgp_start.py")
