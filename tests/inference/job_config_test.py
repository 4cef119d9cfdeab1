"""famjax.inference.job_config: settings that contradict each other, or would have no effect."""

import re

import pytest

from famjax.errors import ConfigError
from famjax.inference.config import SamplingConfig
from famjax.inference.job_config import InferJob

SAMPLES = SamplingConfig(temperature=1.0, num_samples=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ()}, "prompts or output is empty"),
        ({"prompts": ("a", "")}, "prompts or output is empty"),
        ({"output": ""}, "prompts or output is empty"),
        ({"prompts": ("-", "a.jsonl")}, "allowed: '-' alone, or paths"),
        ({"document": "a.txt", "snapshot": "b"}, "document and snapshot are both set"),
        ({"batch_size": 0}, "batch_size = 0; allowed: 1 or more"),
        ({"chunk_blocks": 0}, "chunk_blocks = 0; allowed: 1 or more"),
        ({"question_format": "Q:", "interactive": True}, "question_format = 'Q:' lacks {question}"),
        ({"question_format": "Q: {question}"}, "question_format has no effect with InferJob.interactive = False"),
        ({"interactive": True, "prompts": "a.jsonl"}, "prompts has no effect with InferJob.interactive = True"),
        ({"interactive": True, "prompt_format": "text"}, "prompt_format has no effect"),
        ({"interactive": True, "output": "r.jsonl"}, "output has no effect"),
        ({"interactive": True, "batch_size": 2}, "batch_size has no effect"),
        ({"interactive": True, "sampling": SAMPLES}, "SamplingConfig.num_samples has no effect"),
        ({"interactive": True, "sampling": SamplingConfig(logprobs=True)}, "SamplingConfig.logprobs has no effect"),
    ],
)
def test_refused(changes, message):
    """Guards against a setting that is accepted and ignored."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        InferJob("run", **changes)


def test_all_that_is_wrong_is_told_at_once():
    """Guards against a second mistake that comes to light when the first one is mended."""
    with pytest.raises(ConfigError) as error:
        SamplingConfig(temperature=-1.0, top_p=1.5, top_k=0, num_samples=0)
    assert str(error.value).splitlines() == [
        "SamplingConfig.top_k = 0; allowed: 1 or more.",
        "SamplingConfig.num_samples = 0; allowed: 1 or more.",
        "SamplingConfig.temperature = -1.0; allowed: 0 or more.",
        "SamplingConfig.top_p = 1.5; allowed: 0 to 1.",
    ]
    with pytest.raises(ConfigError, match=r"^SamplingConfig\.top_p = 0; allowed: above 0\.$"):
        SamplingConfig(temperature=1.0, top_p=0)


def test_prompts_are_one_or_several():
    """Guards against a path taken apart into its characters."""
    assert InferJob("run", prompts="a.jsonl").patterns == ("a.jsonl",)
    assert InferJob("run", prompts=("a", "b")).patterns == ("a", "b")
