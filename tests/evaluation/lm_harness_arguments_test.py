"""`--model_args` and generation settings of lm-evaluation-harness, as famjax reads them."""

import dataclasses

import pytest

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.errors import ConfigError
from famjax.evaluation.lm_harness_arguments import HarnessModelArgs, parse_model_args, sampling_config
from famjax.inference.config import MemoryOverrides, SamplingConfig


def test_defaults():
    """Guards against a model that is read otherwise than it was trained where nothing is said."""
    args = parse_model_args({"checkpoint": "run"})
    assert args == HarnessModelArgs("run")
    assert (args.vocabulary_config, args.memory) == (ByteVocabulary(), MemoryOverrides())


def test_every_argument():
    """Guards against an argument that is taken and not used, and against --batch_size, which comes as text."""
    args = parse_model_args(
        {
            "checkpoint": 460,
            "vocabulary": "a/tokenizer.json",
            "eos_token": "</s>",
            "chat_template": "b.jinja",
            "table_size": "300",
            "block_size": 64,
            "num_segments": 0,
        }
        | {"with_fam": False, "batch_size": "8", "chunk_blocks": 2, "seed": 3, "trust_remote_code": True}
    )
    assert args.checkpoint == "460", "a folder may be named as a number is"
    assert args.vocabulary_config == HuggingFaceVocabulary(
        "a/tokenizer.json", eos_token="</s>", chat_template="b.jinja", table_size=300
    )
    assert args.memory == MemoryOverrides(64, 0, with_fam=False)
    assert (args.batch_size, args.chunk_blocks, args.seed) == (8, 2, 3)


def test_sentencepiece():
    """Guards against a .model read as another kind."""
    args = parse_model_args({"checkpoint": "run", "vocabulary": "a.model", "chat_template": "b.jinja", "table_size": 9})
    assert args.vocabulary_config == SentencePieceVocabulary("a.model", "b.jinja", table_size=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chekpoint": "run"}, "chekpoint=.* does not exist; allowed: checkpoint, base, vocabulary"),
        ({"checkpoint": None}, "has no checkpoint; set checkpoint=MODEL_DIR"),
        ({"batch_size": "auto"}, "batch_size=auto; allowed: a whole number, 1 or more"),
        ({"batch_size": 0}, "batch_size=0; allowed: a whole number, 1 or more"),
        ({"block_size": 1.5}, "block_size=1.5; allowed: a whole number, 1 or more"),
        ({"num_segments": -1}, "num_segments=-1; allowed: a whole number, 0 or more"),
        ({"seed": True}, "seed=True; allowed: a whole number"),
        ({"batch_size": None}, "batch_size=None; allowed: a whole number"),
        ({"with_fam": "perhaps"}, "with_fam=perhaps; allowed: True, False"),
        ({"with_fam": 0}, "with_fam=0; allowed: True, False"),
        ({"device": "cuda:0"}, "JAX chooses the device"),
        ({"vocabulary": "gpt2"}, "vocabulary=gpt2; allowed: bytes, or the path"),
        ({"chat_template": "a.jinja"}, "chat_template=... is for a .model or a tokenizer.json, not for bytes"),
        ({"table_size": 300}, "table_size=... is for a .model or a tokenizer.json, not for bytes"),
        ({"table_size": 0}, "table_size=0; allowed: a whole number, 1 or more"),
        ({"bos_token": "<s>"}, "bos_token=.* is for a vocabulary=.*tokenizer.json only"),
    ],
)
def test_mistakes(changes, message):
    """Guards against a value that is taken for something else, and a message that does not say what is allowed."""
    with pytest.raises(ConfigError, match=message) as error:
        _ = parse_model_args({"checkpoint": "run"} | changes).vocabulary_config
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("generation_kwargs", "expected"),
    [
        ({}, SamplingConfig(max_new_tokens=256)),
        ({"until": "\n", "max_gen_toks": 5}, SamplingConfig(max_new_tokens=5, stop_strings=("\n",))),
        ({"until": ["a", "", "b"]}, SamplingConfig(max_new_tokens=256, stop_strings=("a", "b"))),
        ({"until": None, "temperature": None}, SamplingConfig(max_new_tokens=256)),
        ({"do_sample": False, "temperature": 0.0, "top_p": 0.95}, SamplingConfig(max_new_tokens=256)),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_new_tokens": 9, "num_beams": 1},
            SamplingConfig(max_new_tokens=9, temperature=0.7, top_p=0.9),
        ),
        ({"temperature": 0.5, "top_k": 4, "seed": 7}, SamplingConfig(256, temperature=0.5, top_k=4)),
    ],
)
def test_generation_settings(generation_kwargs, expected):
    """Guards against answers that end, or are drawn, otherwise than other models' answers to the same task."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra lm_eval)")
    sampling = sampling_config(generation_kwargs, seed=3)
    assert sampling == dataclasses.replace(expected, seed=generation_kwargs.get("seed", 3))


@pytest.mark.parametrize(
    ("generation_kwargs", "message"),
    [
        ({"num_beams": 4}, "num_beams = 4 is not supported by famjax; allowed: until, max_gen_toks"),
        ({"max_length": 100}, "max_length = 100 is not supported"),
        ({"until": [1]}, "until = .1.; allowed: texts"),
        ({"temperature": "hot"}, "temperature.*hot.*could not convert"),
        ({"max_gen_toks": 0}, "max_new_tokens = 0; allowed: 1 or more"),
    ],
)
def test_generation_settings_that_famjax_lacks(generation_kwargs, message):
    """Guards against a setting that a task asks for and that has no effect."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra lm_eval)")
    with pytest.raises(ConfigError, match=message):
        sampling_config(generation_kwargs, seed=0)
