"""Tests of famjax.data.registry."""

import dataclasses

import pytest

from famjax.data import registry
from famjax.data.task_config import Mixture, PassKey
from famjax.errors import ConfigError


@pytest.fixture
def restored():
    """Puts the bare dataclasses back."""
    yield
    registry.configure(lambda kind: kind)


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


def test_configure_replaces_the_factories(restored):
    """Guards against gin bindings of a settings class that a named task does not see."""

    def wrap(kind):
        return (lambda: dataclasses.replace(PassKey(), depth=0.25)) if kind is PassKey else kind

    registry.configure(wrap)
    assert registry.task_config("passkey", {}).depth == 0.25 != PassKey().depth


def test_a_misspelled_name_gets_the_nearest():
    """Guards against a message that leaves the user to guess."""
    with pytest.raises(ConfigError, match=r"'paskey'.*did you mean passkey.*--gin\.MIXTURE_OR_TASK_NAME"):
        registry.task_config("paskey", {})
