"""In the place of gateway/runtime/exabgp_start.py: runs the `exabgp` beside this file."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from exabgp.__main__ import main

    sys.exit(main(sys.argv[2:]))
