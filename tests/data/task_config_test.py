"""Tests of famjax.data.task_config."""

import pytest

from famjax.data.task_config import AssociativeRecall, Documents, Mixture, PassKey, PassKeyDocuments
from famjax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (Documents, {"validation_fraction": 1.5}, ["Documents.validation_fraction", "0 to 1"]),
        (Documents, {"loss_weight": -0.5}, ["Documents.loss_weight", "0.0 or more"]),
        (PassKey, {"depth": -0.1}, ["PassKey.depth", "0 to 1"]),
        (PassKey, {"digits": 0}, ["PassKey.digits", "1 or more"]),
        (PassKeyDocuments, {"documents": ""}, ["PassKeyDocuments.documents", "name of a task"]),
        (PassKeyDocuments, {"prompt_weight": -1.0}, ["PassKeyDocuments.prompt_weight", "0.0 or more"]),
        (AssociativeRecall, {"replaced_fraction": 2.0}, ["AssociativeRecall.replaced_fraction", "0 to 1"]),
        (AssociativeRecall, {"num_pairs": 0}, ["AssociativeRecall.num_pairs", "1 or more"]),
        (Mixture, {"rates": {}}, ["Mixture.rates", "documents"]),
        (Mixture, {"rates": {"passkey": 0.0}}, ["Mixture.rates['passkey']", "above 0"]),
    ],
)
def test_a_wrong_setting_is_named(kind, settings, words):
    """Guards against a setting that is taken as it comes and fails later, somewhere else."""
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    assert all(word in str(caught.value) for word in words)
