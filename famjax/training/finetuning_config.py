"""What a finetuning trains and what it leaves alone: settings that check themselves. Imports no jax."""

import dataclasses

from famjax.models.config import DTypeName
from famjax.validation import require_choice

# What a finetuning over a frozen base trains: adapters of low rank, and what FAM starts from.
ADAPTER_NAMES = ("lora_a", "lora_b", "fam_prompt", "fam_prefix")
# Every other parameter.
BASE_PATTERN = rf"(?!(?:.*/)?(?:{'|'.join(ADAPTER_NAMES)})$).*"


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """A finetuning over a frozen base: all parameters but LoRA's adapters and the FAM prompt (or prefix) stay.

    They stay where TransformerConfig.lora is set, or `memory_only`. The base is RestoreConfig.path; it has no gradient
    and no optimizer state, and checkpoints refer to it instead of holding it.

    Attributes:
      memory_only: train the FAM prompt (or prefix) alone, for one task or one user.
      base_dtype: that the base is kept in; "bfloat16" takes half the memory, and rounds a base that is float32.
    """

    memory_only: bool = False
    base_dtype: DTypeName = "float32"

    def __post_init__(self) -> None:
        require_choice(self, "base_dtype", DTypeName)
