"""What is done to the files and processes of the library, a kind of attack in each file.

The models are those of the tests.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "tests"))
