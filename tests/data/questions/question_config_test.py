"""Tests of the settings of the tasks that are generated: question_config, ruler_config, babilong_config."""

import pytest

from famjax.data.questions.babilong_config import Babilong
from famjax.data.questions.question_config import QuestionTask
from famjax.data.questions.ruler_config import (
    RulerCommonWords,
    RulerFrequentWords,
    RulerNeedle,
    RulerTask,
    RulerVariableTracking,
)
from famjax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (QuestionTask, {"prompt_weight": -1.0}, ["QuestionTask.prompt_weight", "0.0 or more"]),
        (QuestionTask, {"validation_examples": 0}, ["QuestionTask.validation_examples", "1 or more"]),
        (RulerTask, {"max_new_tokens": 0}, ["RulerTask.max_new_tokens", "1 or more"]),
        (RulerNeedle, {"depth": 2.0}, ["RulerNeedle.depth", "0 to 1"]),
        (RulerNeedle, {"num_queries": 0}, ["RulerNeedle.num_queries", "1 or more"]),
        (RulerNeedle, {"num_keys": 41}, ["RulerNeedle.num_keys", "41 needles", "allowed: 40"]),
        (RulerNeedle, {"documents": ""}, ["RulerNeedle.documents", "name of a task"]),
        (RulerVariableTracking, {"num_hops": 40}, ["RulerVariableTracking.num_chains", "41 assignments", "40"]),
        (RulerCommonWords, {"common_repeats": 5}, ["common_repeats = 5", "both None"]),
        (RulerCommonWords, {"common_repeats": 3, "uncommon_repeats": 3}, ["the first above the second"]),
        (RulerFrequentWords, {"alpha": 1.0}, ["RulerFrequentWords.alpha", "above 1.0"]),
        (RulerFrequentWords, {"num_words": 4}, ["RulerFrequentWords.num_words", "5 or more"]),
        (Babilong, {"depth": -0.1}, ["Babilong.depth", "0 to 1"]),
        (Babilong, {"max_facts": 11}, ["Babilong.max_facts", "12 or more"]),
    ],
)
def test_a_wrong_setting_is_named(kind, settings, words):
    """Guards against a setting that is taken as it comes and fails later, somewhere else."""
    with pytest.raises(ConfigError) as caught:
        kind(**settings)
    assert all(word in str(caught.value) for word in words)
