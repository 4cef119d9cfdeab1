"""How arrays lie over devices: settings. Imports no jax."""

import dataclasses

from famjax.errors import ConfigError
from famjax.validation import require_at_least

MESH_AXES = ("data", "fsdp", "model")

# A mesh axis, several that act as one (the first the outermost), or none.
MeshAxes = str | tuple[str, ...] | None

# (logical axis, mesh axes); of two rules for one axis the first holds. Axes that no rule names are an error. This table
# serves every mesh: what lies on an axis of one device is whole.
DEFAULT_RULES: tuple[tuple[str, MeshAxes], ...] = (
    ("batch", ("data", "fsdp")),
    ("vocab", "model"),
    ("heads", "model"),
    ("kv_heads", "model"),
    ("mlp", "model"),
    ("embed", "fsdp"),
    ("activation_embed", None),
    ("head_dim", None),
    ("layers", None),
    ("fam", None),
    ("lora", None),
    ("length", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The device mesh, with axes ("data", "fsdp", "model"), and the table that lays arrays over it.

    The batch is spread over data and fsdp. Parameters and the optimizer's state are copied over data, cut over fsdp
    (and gathered layer by layer where they are used), and cut over model together with the computation.

    Attributes:
      model_parallelism: devices that compute one row together, each with a part of the heads, of the MLP's width and of
        the vocabulary.
      fsdp_parallelism: devices over which parameters and optimizer state are cut besides; None: all of a slice that
        `model_parallelism` leaves. The data axis takes the rest.
      num_slices: TPU slices, joined over the data axis alone, since only the network between hosts joins them.
      num_devices: devices of the mesh; None: all that jax sees.
      own_process: whether only devices of this process are in it, where a job has several processes; a scan sets it.
      rules: pairs (logical axis, mesh axis): a mesh axis, a tuple of several, or None.
    """

    model_parallelism: int = 1
    fsdp_parallelism: int | None = 1
    num_slices: int = 1
    num_devices: int | None = None
    own_process: bool = False
    rules: tuple[tuple[str, MeshAxes], ...] = DEFAULT_RULES

    def __post_init__(self) -> None:
        require_at_least(self, 1, "model_parallelism", "fsdp_parallelism", "num_slices", "num_devices")
        for axis, places in self.rules:
            for place in axes_of(places):
                if place not in MESH_AXES:
                    raise ConfigError(
                        f"MeshConfig.rules maps {axis!r} to {place!r}; the mesh has the axes {', '.join(MESH_AXES)}."
                    )

    @property
    def first_rules(self) -> dict[str, MeshAxes]:
        """The rule that holds for each logical axis."""
        return dict(reversed(self.rules))


def axes_of(places: MeshAxes) -> tuple[str, ...]:
    """The mesh axes of a rule."""
    if places is None:
        return ()
    return (places,) if isinstance(places, str) else places
