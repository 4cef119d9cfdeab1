"""Tests of famjax.data.registry."""

import pytest

from famjax.configuration.loading import load
from famjax.data import registry
from famjax.data.task_config import Mixture, PassKey
from famjax.errors import ConfigError
from famjax.training.config import TrainJob


def test_names_have_settings():
    """Guards against a built-in name without a task behind it."""
    for name, kind in registry.BUILT_IN.items():
        assert isinstance(registry.task_config(name, {}), kind)
        assert registry.is_task(name, {})


def test_further_tasks_come_first():
    """Guards against settings of DataConfig.tasks that lose to the built-in ones."""
    tasks = {"passkey": PassKey(digits=7), "mine": Mixture({"passkey": 1.0})}
    assert registry.task_config("passkey", tasks) == PassKey(digits=7) != PassKey()
    assert registry.task_config("mine", tasks) is tasks["mine"]
    assert "mine" in registry.task_names(tasks)


def test_gin_settings_reach_the_named_task():
    """Guards against gin bindings of a settings class that the task of that name does not see."""
    flags = [("MODEL_DIR", "'x'"), ("PassKey.depth", "0.25"), ("MIXTURE_OR_TASK_NAME", "'passkey'")]
    job = load(TrainJob, ["recipes/demo_fam.gin"], flags).job
    for data in (job.data, job.eval_data):
        assert registry.task_config("passkey", data.tasks).depth == 0.25 != PassKey().depth
        assert sorted(data.tasks) == sorted(registry.BUILT_IN)


def test_a_misspelled_name_gets_the_nearest():
    """Guards against a message that leaves the user to guess."""
    with pytest.raises(ConfigError, match=r"'paskey'.*did you mean passkey.*--gin\.MIXTURE_OR_TASK_NAME"):
        registry.task_config("paskey", {})
