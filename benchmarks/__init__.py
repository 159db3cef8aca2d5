"""What is measured on real models and real texts, and the demo.

`models` and `texts` fetch, `measure` measures, `plots` draws. Nothing in `ttt_retrofit` imports this package.
"""

import os

# bm25s ranks with JAX where that is installed, which would then take most of a GPU's memory for itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
