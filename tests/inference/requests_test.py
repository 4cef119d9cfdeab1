"""Many requests, against each one alone."""

import dataclasses

import numpy as np
import pytest

from famjax.inference import requests
from famjax.inference.config import MemoryOverrides, SamplingConfig
from tiny_language_model import LONG, logprobs_from_scratch, make_model, random_ids
from tolerances import FLOAT32, assert_close

PROMPTS = [random_ids(length, length) for length in (3, 0, 12, 5, LONG)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_answers_do_not_depend_on_the_batching(batch_size):
    """Guards against a request that is lost, answered twice, or in another row's words."""
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.0, num_samples=2, logprobs=True)
    samplings = [dataclasses.replace(sampling, seed=seed, max_new_tokens=3 + seed) for seed in range(len(PROMPTS))]
    model = make_model(batch_size=batch_size)
    answers = list(requests.generate(model, PROMPTS, samplings))
    assert [len(each) for each in answers] == [2] * len(PROMPTS)
    for prompt, each, of_prompt in zip(PROMPTS, samplings, answers, strict=True):
        context = model.read(model.start(), [prompt])
        for index, answer in enumerate(of_prompt):
            _, (alone,) = model.generate(context, each, [index])
            np.testing.assert_array_equal(answer.tokens, alone.tokens)
            assert_close(answer.logprobs, alone.logprobs, FLOAT32)


def test_continuations_go_on_from_their_own_prompt():
    """Guards against a continuation that is scored behind another one, behind another prompt, or from the beginning."""
    model = make_model(batch_size=2)
    continuations = [[random_ids(length, 70 + length) for length in lengths] for lengths in ((4, 1, 9), (), (2,))]
    prompts = [PROMPTS[2], PROMPTS[1], PROMPTS[3]]
    actual = list(requests.score_continuations(model, prompts, continuations))
    assert [len(scores) for scores in actual] == [3, 0, 1]
    for prompt, several, found in zip(prompts, continuations, actual, strict=True):
        for scores, continuation in zip(found, several, strict=True):
            expected = logprobs_from_scratch(model, np.concatenate([prompt, continuation]))[len(prompt) : -1]
            assert_close(scores.logprobs, expected[np.arange(len(continuation)), continuation], FLOAT32)
            np.testing.assert_array_equal(scores.greedy, expected.argmax(-1) == continuation)


def test_documents_are_scored_whole():
    """Guards against a document that is cut where a chunk, a block or the batch ends."""
    model = make_model(batch_size=2)
    for document, scores in zip(PROMPTS, requests.score_documents(model, PROMPTS), strict=True):
        expected = logprobs_from_scratch(model, document)
        assert_close(scores.logprobs, expected[np.arange(len(document)), document], FLOAT32)


def test_models_with_equal_settings_and_other_parameters_share_steps():
    """Guards against a model that is read without FAM and one that was trained so, which fail beside each other."""
    trained = make_model()
    without = trained.with_memory(MemoryOverrides(with_fam=False))
    params = {name: value for name, value in trained.params.items() if name != "fam_prompt"}
    bswa = dataclasses.replace(make_model(fam_length=0), params=params)
    assert without.config == bswa.config
    sampling = SamplingConfig(max_new_tokens=5, logprobs=True)
    answers = [next(requests.generate(model, PROMPTS[2:3], sampling))[0] for model in (without, bswa, trained)]
    np.testing.assert_array_equal(answers[0].tokens, answers[1].tokens)
    assert_close(answers[0].logprobs, answers[1].logprobs, FLOAT32)
    assert not np.allclose(answers[0].logprobs, answers[2].logprobs)


def test_eight_devices_give_the_same():
    """Invariant 7 for reading and answering. Guards against rows that are mixed up on a mesh."""
    sampling = SamplingConfig(max_new_tokens=9, logprobs=True)
    alone, spread = make_model(batch_size=8), make_model(batch_size=8, num_devices=8)
    expected, actual = (list(requests.generate(model, PROMPTS, sampling)) for model in (alone, spread))
    for (left,), (right,) in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(left.tokens, right.tokens)
        assert_close(left.logprobs, right.logprobs, FLOAT32)
