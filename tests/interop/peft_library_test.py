"""The library peft, where it is installed, computes with exported adapters what famjax computes with its own."""

import dataclasses
import warnings

import numpy as np
import pytest
from hf_models import RECIPES, SIZES, make_model, save_model
from hf_models import logits_of as transformers_logits
from imported import FULL, logits_of

from famjax.interop.exporting import export_checkpoint
from famjax.interop.importing import import_checkpoint
from famjax.interop.peft import export_adapter
from famjax.models.config import MemoryConfig
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.training.merge import merge
from famjax.training.merge_config import MergeJob
from famjax.training.program import abstract_params
from famjax.training.restore import load_params, read_model_config
from finetuned import LORA, write_finetuning
from tolerances import Tolerance, assert_close

REASON = "is not installed: adapters are compared with peft's where torch, transformers and peft are (tests/interop)"
torch = pytest.importorskip("torch", reason=f"torch {REASON}")
transformers = pytest.importorskip("transformers", reason=f"transformers {REASON}")
peft = pytest.importorskip("peft", reason=f"peft {REASON}")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
TRANSFORMERS = Tolerance(0.0, 2e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_peft_computes_the_same(name, tmp_path):
    """Guards against names that peft ignores, a scale or a layout that it takes otherwise, and a merge that differs."""
    model = make_model(name, seed=3)
    save_model(name, model, tmp_path / "hf")
    import_checkpoint(tmp_path / "hf", tmp_path / "base", FULL)
    trained_with = MemoryConfig(block_size=8, num_segments=1, fam_length=2)
    config = dataclasses.replace(read_model_config(tmp_path / "base"), memory=trained_with, dtype="float32", lora=LORA)
    job = write_finetuning(tmp_path, "lora", str(tmp_path / "base"), model=config)
    export_adapter(job.model_dir, tmp_path / "adapters", str(tmp_path / "hf"))
    tokens = np.random.default_rng(7).integers(0, 40, (1, 21))
    before = transformers_logits(model, tokens)
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapters")).eval()
    expected = transformers_logits(adapted, tokens)
    assert np.abs(expected - before).max() > 0.01

    export_checkpoint(merge(MergeJob(job.model_dir, str(tmp_path / "merged"))), tmp_path / "whole")
    merged = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "whole", dtype=torch.float32, attn_implementation="eager"
    )
    assert_close(transformers_logits(merged.eval(), tokens), expected, TRANSFORMERS)

    one = MeshConfig(num_devices=1)
    whole = dataclasses.replace(config, memory=FULL)
    params = load_params(job.model_dir, abstract_params(whole, make_mesh(one), one)[0])
    assert_close(logits_of(whole, params, tokens.astype(np.int32)), expected, TRANSFORMERS)


def test_peft_computes_the_same_within_a_model_that_reads_images(tmp_path):
    """Guards against adapters that peft passes over with a warning, as their names are another model's."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config={**SIZES, **RECIPES["gemma3"].changes},
            vision_config={**vision, "image_size": 16, "patch_size": 8},
            mm_tokens_per_image=4,
            attn_implementation="eager",
        )
    ).eval()
    model.save_pretrained(tmp_path / "hf")
    made = import_checkpoint(tmp_path / "hf", tmp_path / "base", FULL)
    trained_with = MemoryConfig(block_size=8, num_segments=1, fam_length=2)
    config = dataclasses.replace(made.config, memory=trained_with, dtype="float32", lora=LORA)
    job = write_finetuning(tmp_path, "lora", str(tmp_path / "base"), model=config)
    export_adapter(job.model_dir, tmp_path / "adapters", "google/some-name")
    tokens = np.random.default_rng(7).integers(0, 30, (1, 21))
    before = transformers_logits(model, tokens)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapters")).eval()
    assert not [str(warning.message) for warning in warned if "adapter keys" in str(warning.message)]
    expected = transformers_logits(adapted, tokens)
    assert np.abs(expected - before).max() > 0.01
    one = MeshConfig(num_devices=1)
    whole = dataclasses.replace(config, memory=FULL)
    params = load_params(job.model_dir, abstract_params(whole, make_mesh(one), one)[0])
    assert_close(logits_of(whole, params, tokens.astype(np.int32)), expected, TRANSFORMERS)
