"""The FAM prompt's first rows, from the embedding table."""

import dataclasses

import numpy as np
import pytest

from famjax.errors import ConfigError
from famjax.training import loop
from famjax.training.config import AdamW, Curriculum, RestoreConfig, Schedule
from famjax.training.program import make_program
from famjax.training.restore import load_params
from finetuned import write_base
from tiny_job import MODEL, make_job

STILL = {"optimizer": AdamW(schedule=Schedule(peak=0.0)), "total_steps": 1, "curriculum": Curriculum()}


def rows_of(params):
    """Which row of the embedding table each row of the prompt is."""
    table, prompt = np.asarray(params["embedding"]["table"]), np.asarray(params["fam_prompt"])
    return [np.flatnonzero((table == row).all(axis=1)).tolist() for row in prompt]


def test_a_new_model_takes_rows_of_its_table(tmp_path):
    """Guards against a prompt of random numbers, of one row twice, or the same for every seed."""
    found = []
    for seed in (0, 1):
        job = make_job(tmp_path, "run", fam_prompt_init="embedding", random_seed=seed)
        rows = rows_of(make_program(job).init().params)
        assert [len(matches) for matches in rows] == [1, 1]
        assert rows[0] != rows[1]
        found.append(rows)
    assert found[0] != found[1]
    assert rows_of(make_program(make_job(tmp_path, "run")).init().params) == [[], []]


def test_rows_of_no_token_are_not_drawn(tmp_path):
    """Guards against rows with which a table was filled up, which no text has trained; and against too few tokens."""
    model = dataclasses.replace(MODEL, vocab_size=4000)
    memory = dataclasses.replace(MODEL.memory, fam_length=8, num_segments=1)
    job = make_job(tmp_path, "run", model=dataclasses.replace(model, memory=memory), fam_prompt_init="embedding")
    rows = rows_of(make_program(job).init().params)
    assert [len(matches) for matches in rows] == [1] * 8
    assert max(row for (row,) in rows) < 259
    memory = dataclasses.replace(memory, fam_length=260)
    job = make_job(tmp_path, "run", model=dataclasses.replace(model, memory=memory), fam_prompt_init="embedding")
    with pytest.raises(ConfigError, match=r"draws 260 different tokens .* of a vocabulary of 259"):
        make_program(job).init()


def test_a_restored_table_gives_its_rows(tmp_path):
    """Guards against rows of the table that was drawn before the restored one took its place."""
    base = write_base(tmp_path, seed=5)
    settings = {
        **STILL,
        "fam_prompt_init": "embedding",
        "restore": RestoreConfig(base, parameters=("(?!fam_prompt).*",)),
    }
    job = make_job(tmp_path, "run", **settings)
    loop.train(job)
    abstract = make_program(job).abstract_state.params
    rows = rows_of(load_params(job.model_dir, abstract))
    assert [len(matches) for matches in rows] == [1, 1]
    assert rows == rows_of(make_program(make_job(tmp_path, "new", fam_prompt_init="embedding")).init().params)
    kept = make_job(tmp_path, "kept", **{**settings, "restore": RestoreConfig(base)})
    loop.train(kept)
    np.testing.assert_array_equal(
        load_params(kept.model_dir, abstract)["fam_prompt"], load_params(base, abstract)["fam_prompt"]
    )


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"fam_length": 0}, "fam_prompt_init = .embedding. needs a FAM prompt"),
        ({"fam_start": "prefix"}, "fam_prompt_init = .embedding. needs a FAM prompt"),
        ({"fam_length": 260}, "draws 260 different rows .* of a table of 259"),
    ],
)
def test_models_without_such_a_prompt(tmp_path, memory, message):
    """Guards against a setting without effect, and against rows that come twice."""
    model = dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, **memory))
    state_passing = dataclasses.replace(make_job(tmp_path, "x").state_passing, probability=0.0)
    with pytest.raises(ConfigError, match=message):
        make_job(tmp_path, "run", model=model, state_passing=state_passing, fam_prompt_init="embedding")
