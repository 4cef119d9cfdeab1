"""How arrays lie over devices: settings. Imports no jax."""

import dataclasses

from famjax.validation import require_at_least

# (logical axis, mesh axis or None); of two rules for one axis the first holds. Axes that no rule names are an error.
DEFAULT_RULES: tuple[tuple[str, str | None], ...] = (
    ("batch", "data"),
    ("vocab", "model"),
    ("heads", "model"),
    ("kv_heads", "model"),
    ("mlp", "model"),
    ("embed", None),
    ("head_dim", None),
    ("layers", None),
    ("fam", None),
    ("lora", None),
    ("length", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh, with axes ("data", "model").

    Attributes:
      model_parallelism: devices that one copy of the parameters is spread over; the data axis takes the rest.
      num_devices: devices of the mesh; None: all that jax sees.
      rules: which mesh axis each logical axis lies on.
    """

    model_parallelism: int = 1
    num_devices: int | None = None
    rules: tuple[tuple[str, str | None], ...] = DEFAULT_RULES

    def __post_init__(self) -> None:
        require_at_least(self, 1, "model_parallelism", "num_devices")
