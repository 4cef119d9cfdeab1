"""Models that read images too: their text model is imported, and the rest is left out."""

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported import FULL, IMAGE_NAMES, import_fixture, params_in, with_images
from imported import WITH_IMAGES as ARCHITECTURE

from famjax.errors import CheckpointError
from famjax.interop.config_values import find_family, read_settings
from famjax.interop.importing import import_checkpoint
from famjax.interop.text_halves import text_config

# As it is published, and as transformers 5 saves it.
NAMES = {
    "published": ("language_model.model.", "vision_tower.", "multi_modal_projector."),
    "transformers_5": IMAGE_NAMES,
}


@pytest.fixture(params=NAMES.values(), ids=[*NAMES])
def folder(request, tmp_path):
    """The gemma3 fixture as the text half of a model with images."""
    return with_images(tmp_path, request.param)


def test_it_is_the_text_model(folder, tmp_path):
    """Guards against a text model that is read with other sizes or names than the same model by itself."""
    made = import_checkpoint(folder, tmp_path / "out", FULL)
    import_fixture("gemma3", tmp_path / "alone")
    assert made.family.name == "gemma3"
    assert len(made.ignored) == 2
    (config, params), (alone, expected) = params_in(tmp_path / "out"), params_in(tmp_path / "alone" / "gemma3")
    assert config == alone
    for path, leaf in flatten_dict(params).items():
        np.testing.assert_array_equal(leaf, flatten_dict(expected)[path])


@pytest.mark.parametrize("text", [None, "gemma3_text"])
def test_without_the_text_model_it_is_refused(text):
    """Guards against a traceback, and a model made of defaults alone."""
    with pytest.raises(CheckpointError, match=rf"config.json: text_config = {text!r}; {ARCHITECTURE} needs an object"):
        text_config({"architectures": [ARCHITECTURE], "text_config": text}, "config.json")


def test_published_files_leave_out_defaults():
    """Guards against a refusal of Gemma 3 4B, whose file has only what differs from the smallest sizes."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    hf = {"architectures": [ARCHITECTURE], "model_type": "gemma3", "text_config": text, "torch_dtype": "bfloat16"}
    alone = text_config(hf, "config.json")
    config = read_settings(find_family(alone, "config.json"), alone, FULL, "config.json")
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262208)
    assert (config.tie_embeddings, config.dtype, config.local_window, config.rope_base) == (True, "bfloat16", 1024, 1e6)
