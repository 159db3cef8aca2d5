"""The names that settings of the outer loop may take."""

from typing import Literal

Gradients = Literal["exact", "truncated", "first_order", "none"]
OUTER_PARAMETERS = ("start", "log_lr", "lora", "everything")
