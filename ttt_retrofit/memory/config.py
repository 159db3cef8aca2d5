"""`MemoryConfig`: which parameters a memory has."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import JSONFields, LayerSelection, check_flag, check_layers, is_integer
from ..errors import ConfigError
from ..util.settings import settings

# Fields of earlier versions, and what to do instead.
REMOVED = {"kind": "Every memory is of low rank: leave the field out, and choose the size by `rank`."}


@settings(removed=REMOVED)
@dataclass(frozen=True, repr=False)
class MemoryConfig(JSONFields):
    """Where a memory adds weights and how large it is. The base never changes.

    Raises
    ------
    ConfigError
        For a value outside its range. Layers and modules are checked when a memory is made for a model.
    """

    rank: int = field(default=8, metadata={"help": "rank of the change to each projection"})
    layers: LayerSelection = field(
        default=0.5, metadata={"help": "as in TTTConfig; the layers below the lowest run once and are never trained"}
    )
    target_modules: tuple[str, ...] = field(
        default=("gate", "up", "down"),
        metadata={"help": "roles 'gate', 'up', 'down', 'attention' (all its projections), or names such as 'q_proj'"},
    )
    gated: bool = field(
        default=True, metadata={"help": "active only where the text resembles what was studied; False: always active"}
    )

    def __post_init__(self) -> None:
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        if isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", (self.target_modules,))
        elif isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        if not is_integer(self.rank) or self.rank < 1:
            raise ConfigError(f"rank={self.rank!r}: expected an integer of at least 1.")
        check_layers(self.layers)
        names = self.target_modules
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(
                f"target_modules={names!r}: expected at least one of 'gate', 'up', 'down', 'attention', or names such "
                "as 'q_proj'."
            )
        check_flag("gated", self.gated)
