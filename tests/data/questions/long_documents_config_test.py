"""Tests of famjax.data.questions.long_documents_config."""

import pytest

from famjax.data.questions.long_documents_config import BUILT_IN_TASKS, PG19, Isabelle, WholeDocuments
from famjax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (PG19, {"tfds_train_split": ""}, ["PG19.tfds_train_split", "TFDS"]),
        (Isabelle, {"validation_fraction": 2.0}, ["Isabelle.validation_fraction", "0 to 1"]),
        (WholeDocuments, {"documents": ""}, ["WholeDocuments.documents", "name of a task"]),
    ],
)
def test_a_wrong_setting_is_named(kind, settings, words):
    """Guards against a setting that is taken as it comes and fails later, somewhere else."""
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    assert all(word in str(caught.value) for word in words)


def test_every_kind_has_its_task():
    """Guards against settings that no task's name leads to."""
    assert {type(config) for config in BUILT_IN_TASKS.values()} == {PG19, Isabelle, WholeDocuments}
