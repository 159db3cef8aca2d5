"""Parts of the soak test: the server that is killed, who writes for it, its users, and codes on its disk."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))
