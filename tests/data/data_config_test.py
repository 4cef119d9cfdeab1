"""Tests of famjax.data.config."""

import dataclasses
import subprocess
import sys

import pytest

from famjax.data.config import CONFIGURABLES, DataConfig
from famjax.data.task_config import PassKey
from famjax.errors import ConfigError

FIT = {"mixture_or_task_name": "passkey", "task_feature_lengths": {"targets": 300}, "batch_size": 2}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, ["DataConfig.batch_size", "1 or more"]),
        ({"prefetch": -1}, ["DataConfig.prefetch", "0 or more"]),
        ({"seed": -1}, ["DataConfig.seed", "0 or more"]),
        ({"task_feature_lengths": {}}, ["DataConfig.task_feature_lengths", "--gin.TASK_FEATURE_LENGTHS"]),
        ({"task_feature_lengths": {"targets": 0}}, ["DataConfig.task_feature_lengths['targets']", "1 or more"]),
    ],
)
def test_a_wrong_setting_is_named(settings, words):
    """Guards against a setting that is taken as it comes and fails later, somewhere else."""
    with pytest.raises(ConfigError) as caught:
        DataConfig(**(FIT | settings))
    assert all(word in str(caught.value) for word in words)


def test_length_is_the_sum_over_features():
    """Guards against a batch without room for the targets behind the inputs."""
    assert DataConfig(**(FIT | {"task_feature_lengths": {"inputs": 30, "targets": 12}})).length == 42


def test_every_settings_class_is_configurable():
    """Guards against a new settings class that gin does not know."""
    assert {DataConfig, PassKey} <= set(CONFIGURABLES)
    assert all(dataclasses.is_dataclass(kind) for kind in CONFIGURABLES)


def test_settings_and_batches_need_no_heavy_import():
    """Guards against tensorflow, seqio or jax being imported where no seqio task is read."""
    program = """
import sys
import famjax.data.config, famjax.data.registry
assert "numpy" not in sys.modules
from famjax.data.feeding import open_batches
batches = open_batches(famjax.data.config.DataConfig("passkey", {"targets": 300}, 2))
assert next(batches)["tokens"].shape == (2, 300)
batches.close()
heavy = {"tensorflow", "seqio", "jax", "sentencepiece", "tokenizers"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)
