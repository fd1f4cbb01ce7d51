"""Found by Python in every process below a gatewayd that has this directory in PYTHONPATH; the one that runs ExaBGP hands the
directory on, so that `exabgp` is the one beside this file."""

import os
import sys

if "gateway.runtime.bgp_unit" in sys.orig_argv:
    from gateway.runtime import exabgp

    _made = exabgp.environment
    exabgp.environment = lambda: _made() | {"PYTHONPATH": os.environ["PYTHONPATH"]}
