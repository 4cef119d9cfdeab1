"""Tests of famjax.data.questions.reading_config."""

import subprocess
import sys

import pytest

from famjax.data.questions.reading_config import BUILT_IN_TASKS, NarrativeQA, Qasper, Quality, XLSum
from famjax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (NarrativeQA, {"max_new_tokens": 0}, ["NarrativeQA.max_new_tokens", "1 or more"]),
        (NarrativeQA, {"prompt_weight": -1.0}, ["NarrativeQA.prompt_weight", "0.0 or more"]),
        (Qasper, {"max_new_tokens": 0}, ["Qasper.max_new_tokens", "1 or more"]),
        (Quality, {"tfds_name": ""}, ["Quality.tfds_name", "TFDS"]),
        (Quality, {"tfds_validation_split": ""}, ["Quality.tfds_validation_split"]),
        (XLSum, {"tfds_name": "huggingface:csebuetnlp__xlsum"}, ["XLSum.tfds_name", "XLSum.paths"]),
        (XLSum, {"prompt_weight": -0.1}, ["XLSum.prompt_weight", "0.0 or more"]),
        (XLSum, {"max_new_tokens": 0}, ["XLSum.max_new_tokens", "1 or more"]),
    ],
)
def test_a_wrong_setting_is_named(kind, settings, words):
    """Guards against a setting that is taken as it comes and fails later, somewhere else."""
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    assert all(word in str(caught.value) for word in words)


def test_built_in_tasks_read_what_tfds_has():
    """Guards against a default that TFDS does not know: it has SCROLLS, and no XL-Sum."""
    import tensorflow_datasets as tfds

    names = {name: config.tfds_name for name, config in BUILT_IN_TASKS.items()}
    assert names.pop("xlsum") is None
    assert len(names) == 3
    for name in names.values():
        assert tfds.builder(name).info.full_name.startswith(f"{name}/")


def test_settings_need_no_heavy_import():
    """Guards against numpy or tensorflow being imported where settings are only checked."""
    program = """
import sys
import famjax.data.questions.reading_config, famjax.data.questions.long_documents_config
assert not {"numpy", "tensorflow", "pyarrow", "jax"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
