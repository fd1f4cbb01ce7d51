"""`benchmarks` lies beside `tests` and is not installed; at the end of the path, so that the installed gateway stays first."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
