"""One whole checkpoint from a finetuning's and its base."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from famjax.errors import CheckpointError, ConfigError
from famjax.inference.language_model import LanguageModel
from famjax.pods.config import MeshConfig
from famjax.training.config import RestoreConfig
from famjax.training.merge import merge
from famjax.training.merge_config import MergeJob
from famjax.training.program import make_program
from famjax.training.restore import initialize_from, read_model_config
from finetuned import ADAPTED, MEMORY_ONLY, write_base, write_finetuning
from tiny_job import MODEL, make_job

ONE_DEVICE = MeshConfig(num_devices=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and LoRA and a memory trained over it."""
    folder = tmp_path_factory.mktemp("merge")
    base = write_base(folder)
    write_finetuning(folder, "lora", base, **ADAPTED)
    write_finetuning(folder, "memory", base, **MEMORY_ONLY)
    return folder


def scores(path):
    """Log-probabilities of a text longer than a few blocks."""
    model = LanguageModel.open(path, mesh=ONE_DEVICE, chunk_blocks=2)
    return model.session().score("A text of some blocks, each of them eight tokens long.").logprobs


@pytest.mark.parametrize("name", ["lora", "memory"])
def test_the_merged_model_computes_the_same(folder, tmp_path, name):
    """Guards against adapters that are lost, or added otherwise than they act."""
    written = merge(MergeJob(str(folder / name), str(tmp_path / "whole")))
    assert written == str(tmp_path / "whole" / "checkpoint_3")
    assert read_model_config(written) == MODEL
    np.testing.assert_allclose(scores(written), scores(folder / name), rtol=1e-5, atol=1e-5)
    assert np.abs(scores(written) - scores(folder / "base")).max() > 1e-2


def test_a_run_starts_from_it(folder, tmp_path):
    """Guards against a checkpoint that can be looked at only."""
    written = merge(MergeJob(str(folder / "lora"), str(tmp_path / "whole"), mesh=MeshConfig(num_devices=2)))
    job = make_job(tmp_path, "next", restore=RestoreConfig(written))
    state = make_program(job).init()
    start = initialize_from(job.restore, state.params, state.opt_state)
    assert set(start.report.taken) == set(flatten_dict(jax.device_get(state.params), sep="/"))


def test_what_cannot_be_merged(folder, tmp_path):
    """Guards against a whole checkpoint that is copied, and against one that is overwritten."""
    with pytest.raises(CheckpointError, match=r"base/checkpoint_7 .* there is nothing to merge"):
        merge(MergeJob(str(folder / "base"), str(tmp_path / "whole")))
    merge(MergeJob(str(folder / "memory"), str(tmp_path / "whole")))
    with pytest.raises(CheckpointError, match=r"has a checkpoint of step 3 already. Set --gin.OUTPUT_DIR"):
        merge(MergeJob(str(folder / "lora"), str(tmp_path / "whole")))
    with pytest.raises(CheckpointError, match=r"Set --gin.BASE_CHECKPOINT_PATH"):
        merge(MergeJob(str(folder / "lora"), str(tmp_path / "second"), base=str(tmp_path / "nowhere")))
    with pytest.raises(CheckpointError, match=r"cannot be written .* Set --gin.OUTPUT_DIR"):
        merge(MergeJob(str(folder / "lora"), str(tmp_path / "whole" / "checkpoint_3" / "checksums.json")))
    with pytest.raises(ConfigError, match=r"MergeJob.output_dir is empty"):
        dataclasses.replace(MergeJob("a", "b"), output_dir="")
