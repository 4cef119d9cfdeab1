"""Tests of famjax.data.registry."""

import pytest

from famjax.configuration.loading import load
from famjax.data import registry
from famjax.data.questions.babilong_config import Babilong
from famjax.data.questions.ruler_config import RulerNeedle
from famjax.data.task_config import Mixture, PassKey, TaskConfig
from famjax.errors import ConfigError
from famjax.training.config import TrainJob


def test_names_have_settings():
    """Guards against a built-in name without a task behind it."""
    for name, config in registry.BUILT_IN.items():
        assert registry.task_config(name, {}) == config
        assert registry.is_task(name, {})
        assert isinstance(config, TaskConfig)


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


def test_gin_gives_the_built_in_settings():
    """Guards against a task that gin/tasks.gin lacks, or sets otherwise than Python finds it."""
    tasks = load(TrainJob, ["recipes/demo_fam.gin"], [("MODEL_DIR", "'x'")]).job.data.tasks
    built_in = dict(registry.BUILT_IN)
    for name in ("documents", "passkey_documents", "passkey", "documents_and_passkeys", "associative_recall"):
        del built_in[name]  # the demo sets them otherwise
    assert {name: tasks[name] for name in built_in} == built_in


def test_tasks_of_one_class_are_set_one_by_one_or_together():
    """Guards against tasks of RULER and BABILong that cannot be set from the command line."""
    flags = [
        ("MODEL_DIR", "'x'"),
        ("MIXTURE_OR_TASK_NAME", "'passkey'"),
        ("RulerNeedle.documents", "'books'"),
        ("ruler_niah_single_2/RulerNeedle.depth", "0.25"),
        ("babilong_qa3/Babilong.max_facts", "40"),
    ]
    tasks = load(TrainJob, ["recipes/demo_fam.gin"], flags).job.data.tasks
    assert tasks["ruler_niah_single_2"] == RulerNeedle(documents="books", depth=0.25)
    assert tasks["ruler_niah_multivalue"] == RulerNeedle(documents="books", num_values=4)
    assert tasks["babilong_qa3"] == Babilong(babi_task="qa3", max_facts=40)
    assert tasks["babilong_qa2"] == Babilong(babi_task="qa2")


def test_a_misspelled_name_gets_the_nearest():
    """Guards against a message that leaves the user to guess."""
    with pytest.raises(ConfigError, match=r"'paskey'.*did you mean passkey.*--gin\.MIXTURE_OR_TASK_NAME"):
        registry.task_config("paskey", {})
