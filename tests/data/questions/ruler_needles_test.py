"""Tests of famjax.data.questions.ruler_needles: what is asked is looked up in the prompt's text alone."""

import re

import numpy as np
import pytest

from famjax.data import registry
from famjax.data.questions.ruler_config import RulerNeedle
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError

NAMES = [name for name, config in registry.BUILT_IN.items() if isinstance(config, RulerNeedle)]
NEEDLE = re.compile(r"One of the special magic (\w+) for (\S+) is: (\S+)\.(?=\s)")
LINE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
KINDS = {
    "words": r"[a-z]+-[a-z]+",
    "numbers": r"[1-9]\d{6}",
    "uuids": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}
# RULER's prompts (scripts/data/synthetic/constants.py), with its changes for a single answer.
ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "{kind} afterwards.\n{context}\nWhat is the special magic {kind} for {query} mentioned in the provided text? "
    "The special magic {kind} for {query} mentioned in the provided text is"
)
SEVERAL = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {kind} afterwards.\n{context}\nWhat are all the special magic {kind} for {query} mentioned in the provided "
    "text? The special magic {kind} for {query} mentioned in the provided text are"
)


def parse(text):
    """The context, the queries, and every value by its key, of a prompt."""
    context, _, question = text.split(" afterwards.\n")[1].rpartition("\nWhat ")
    (query,) = re.findall(r" for (.*?) mentioned in the provided text\? ", question)
    queries = [part.removeprefix("and ") for part in query.split(", ")]
    values = {}
    for _, key, value in NEEDLE.findall(context + "\n"):
        values.setdefault(key, []).append(value)
    return context, query, queries, values


@pytest.mark.parametrize("name", NAMES)
def test_prompt_and_answers(asking, vocabulary, name):
    """Guards against another prompt than RULER's, needles that are missing or ambiguous, and wrong answers."""
    config, questions = registry.BUILT_IN[name], asking(name, 4096, vocabulary=vocabulary)
    for index in range(6):
        question = questions.question(index)
        text = vocabulary.decode(question.prompt)
        context, query, queries, values = parse(text)
        several = config.num_queries * config.num_values > 1
        kind = config.value_type if several else config.value_type[:-1]
        assert text == (SEVERAL if several else ONE).format(kind=kind, context=context, query=query)
        assert len(queries) == config.num_queries == len(set(queries))
        assert sorted(question.references) == sorted(value for key in queries for value in values[key])
        assert len(question.references) == config.num_queries * config.num_values
        assert all(re.fullmatch(KINDS[config.key_type], key) for key in values)
        assert all(re.fullmatch(KINDS[config.value_type], value) for found in values.values() for value in found)
        if config.haystack != "needle":
            assert len(values) == max(config.num_keys, config.num_queries)
        else:
            assert len(values) > 15
        assert {found for found, _, _ in NEEDLE.findall(context + "\n")} == {config.value_type}


@pytest.mark.parametrize("name", ["ruler_niah_single_1", "ruler_niah_multikey_3"])
def test_lines_are_the_haystacks(asking, name):
    """Guards against a haystack of other lines than RULER's, or one that is not filled."""
    questions = asking(name, 5000)
    for index in range(4):
        question = questions.question(index)
        context, *_ = parse(Bytes().decode(question.prompt))
        lines = context.split("\n")
        others = [line for line in lines if not NEEDLE.match(f"{line}\n")]
        assert len(lines) - len(others) == (1 if name == "ruler_niah_single_1" else len(lines))
        assert set(others) <= {LINE}
        longest = max(map(len, lines)) + 1
        assert 5000 - longest < len(question.prompt) + question.max_new_tokens <= 5000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_depth(asking, name, depth):
    """Guards against needles at another depth than asked for, or others that lie there, too."""
    questions = asking(name, 6000, depth=depth)
    for index in range(4):
        question = questions.question(index)
        context, _, queries, values = parse(Bytes().decode(question.prompt))
        asked = {value for key in queries for value in values[key]}
        starts = [match.start() for match in NEEDLE.finditer(context + "\n") if match[3] in asked]
        ends = [match.end() for match in NEEDLE.finditer(context + "\n") if match[3] in asked]
        assert set(question.references) == asked
        room = len(context) - (max(ends) - min(starts))
        assert min(starts) == pytest.approx(depth * room, abs=300 if name == "ruler_niah_multikey_1" else 160)
        if depth == 1.0 and name != "ruler_niah_multikey_1":
            assert max(ends) >= len(context) - 1


def test_drawn_depths_cover_the_text(asking):
    """Guards against needles that always lie in one part of the haystack."""
    for name in ("ruler_niah_single_1", "ruler_niah_single_2", "ruler_niah_multikey_2"):
        questions = asking(name, 4000)
        places = []
        for index in range(60):
            question = questions.question(index)
            context, *_ = parse(Bytes().decode(question.prompt))
            (match,) = [match for match in NEEDLE.finditer(context + "\n") if match[3] in question.references]
            places.append(match.start() / len(context))
        assert np.histogram(places, 3, (0, 1))[0].min() >= 8


def test_every_length_from_the_least_on(asking, vocabulary):
    """Guards against a prompt above its length, a budget that is cut, and an error that does not say what is needed."""
    for name in ("ruler_niah_single_1", "ruler_niah_single_3", "ruler_niah_multivalue", "ruler_niah_multikey_3"):
        with pytest.raises(ConfigError, match=r"length of 100 tokens .* needs (\d+)") as caught:
            asking(name, 100, vocabulary=vocabulary)
        least = int(re.search(r"needs (\d+)", str(caught.value))[1])
        with pytest.raises(ConfigError):
            asking(name, least - 1, vocabulary=vocabulary)
        for length in (least + 2, least + 30, least + 200):
            questions = asking(name, length, vocabulary=vocabulary)
            for index in range(10):
                question = questions.question(index)
                assert question.max_new_tokens >= 128
                assert len(question.prompt) + question.max_new_tokens <= length
                assert not question.num_cut
                _, _, queries, values = parse(vocabulary.decode(question.prompt))
                assert set(question.references) == {value for key in queries for value in values[key]}


def test_the_budget_holds_the_answer(asking):
    """Guards against an answer that a small vocabulary cannot write within RULER's budget."""
    config = RulerNeedle(value_type="uuids", num_values=4)
    question = asking("mine", 4096, config=config).question(0)
    assert question.max_new_tokens == len(" " + ", ".join(question.references)) > 128
    assert asking("mine", 4096, config=RulerNeedle(max_new_tokens=20)).question(0).max_new_tokens == 20
