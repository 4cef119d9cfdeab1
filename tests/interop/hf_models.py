"""Tiny random models of every family, made with transformers, and the script that writes the fixtures.

    python tests/interop/hf_models.py            writes tests/interop/fixtures anew; needs torch and transformers

A fixture is what `save_pretrained` writes, and expected.safetensors: tokens [B, T] and transformers' float32 logits.
The weights are large and the caps and windows small, so that everything that a family has matters within 21 tokens.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
EXPECTED = "expected.safetensors"
BATCH, LENGTH = 2, 21

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 128,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,  # One of the wavelengths lies between the two bounds.
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A model to be made.

    Attributes:
      config_class: of transformers.
      changes: of `SIZES`, and what the family has besides.
      dtype: of the weights in the files.
      max_shard_size: of a file, as transformers takes it; None: one file.
    """

    config_class: str
    changes: Mapping[str, Any]
    dtype: str = "float32"
    max_shard_size: str | None = None


RECIPES = {
    "llama": Recipe("LlamaConfig", {"tie_word_embeddings": False, "rope_parameters": _LLAMA3}, max_shard_size="12KB"),
    "llama_biases": Recipe(
        "LlamaConfig",
        {
            "tie_word_embeddings": True,
            "num_key_value_heads": 4,
            "head_dim": 4,
            "attention_bias": True,
            "mlp_bias": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
        },
        dtype="bfloat16",
    ),
    "mistral": Recipe("MistralConfig", {"tie_word_embeddings": False, "sliding_window": 6}, dtype="bfloat16"),
    "qwen2": Recipe("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen2_window": Recipe(
        "Qwen2Config",
        {
            "tie_word_embeddings": False,
            "num_hidden_layers": 3,
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
        },
        dtype="bfloat16",
        max_shard_size="8KB",
    ),
    "qwen3": Recipe("Qwen3Config", {"tie_word_embeddings": False, "num_key_value_heads": 1}, dtype="bfloat16"),
    "gemma": Recipe("GemmaConfig", {"num_key_value_heads": 1}, dtype="bfloat16"),
    "gemma2": Recipe(
        "Gemma2Config",
        {
            "num_hidden_layers": 3,
            "query_pre_attn_scalar": 5,
            "sliding_window": 5,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
        dtype="bfloat16",
        max_shard_size="8KB",
    ),
    "gemma3": Recipe(
        "Gemma3TextConfig",
        {
            "num_hidden_layers": 4,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 6,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
        dtype="bfloat16",
    ),
}


def make_model(name: str, seed: int, **changes: Any) -> Any:
    """A random model of a recipe, in float32, whose weights are what its file's dtype can hold."""
    import torch
    import transformers

    recipe = RECIPES[name]
    config = getattr(transformers, recipe.config_class)(**{**SIZES, **recipe.changes, **changes})
    config._attn_implementation = "eager"  # The only one with soft caps.
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in path:
                values = 0.3 * values + (0.0 if "gemma" in name else 1.0)
            elif path.endswith("weight") and "embed" not in path:
                values = values * parameter.shape[-1] ** -0.5
            elif "embed" in path:
                values = values * 0.3
            parameter.copy_(values.to(getattr(torch, recipe.dtype)).to(torch.float32))
    return model


def save_model(name: str, model: Any, folder: pathlib.Path) -> None:
    """Writes the model as transformers does, in the recipe's dtype and file size."""
    import copy

    import torch

    recipe = RECIPES[name]
    stored = copy.deepcopy(model).to(getattr(torch, recipe.dtype))
    stored.save_pretrained(folder, **({"max_shard_size": recipe.max_shard_size} if recipe.max_shard_size else {}))
    (folder / "generation_config.json").unlink(missing_ok=True)


def logits_of(model: Any, tokens: Any) -> Any:
    """Transformers' logits of tokens [B, T], a numpy array."""
    import torch

    with torch.no_grad():
        return model(torch.as_tensor(tokens), use_cache=False).logits.float().numpy()


def main() -> int:
    """Writes every fixture."""
    import numpy as np
    from safetensors.numpy import save_file

    for number, (name, recipe) in enumerate(RECIPES.items()):
        folder = FIXTURES / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        model = make_model(name, seed=number)
        save_model(name, model, folder)
        vocab_size = {**SIZES, **recipe.changes}["vocab_size"]
        tokens = np.random.default_rng(number).integers(0, vocab_size, (BATCH, LENGTH))
        save_file({"tokens": tokens, "logits": logits_of(model, tokens)}, folder / EXPECTED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
