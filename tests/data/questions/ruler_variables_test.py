"""Tests of famjax.data.questions.ruler_variables: assignments are followed in the prompt's text alone."""

import re

import pytest

from famjax.data.config import SentencePieceVocabulary
from famjax.data.questions.ruler_config import RulerVariableTracking
from famjax.data.vocabularies import Bytes, make_vocabulary
from famjax.errors import ConfigError
from vocabulary_files import train_sentencepiece

ASSIGNMENT = re.compile(r"VAR ([A-Z]+) = (?:VAR ([A-Z]+)|(\d{5}))")
LINE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# RULER's prompt (scripts/data/synthetic/constants.py).
PROMPT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of "
    "variable assignment in the text above, {number} variables are assigned the value {value}, they are: "
)
START = "Memorize and track"


def solve(text):
    """Follows the assignments of a prompt: its context, its value, and the variables that have it, in order."""
    context = text.removeprefix(PROMPT.split("{context}", maxsplit=1)[0]).split("\nQuestion: ")[0]
    value = re.search(r"assigned the value (\d{5}) in the text", text)[1]
    values = {}
    for name, other, number in ASSIGNMENT.findall(context):
        assert name not in values
        values[name] = number or values[other]
    return context, value, [name for name, found in values.items() if found == value]


def split(text):
    """The example with its answer, and the question proper."""
    place = text.rindex(START)
    return text[:place], text[place:]


@pytest.mark.parametrize(
    "config",
    [
        RulerVariableTracking(),
        RulerVariableTracking(num_chains=3, num_hops=2),
        RulerVariableTracking(haystack="essay", num_chains=2),
        RulerVariableTracking(example=False, num_hops=12),
    ],
)
def test_prompt_and_answers(asking, vocabulary, config):
    """Guards against another prompt than RULER's, a chain out of order, and wrong answers, in the example, too."""
    questions = asking("mine", 4096, config=config, vocabulary=vocabulary)
    for index in range(6):
        question = questions.question(index)
        example, proper = split(vocabulary.decode(question.prompt))
        context, value, names = solve(proper)
        assert proper == PROMPT.format(context=context, value=value, number=config.num_hops + 1)
        assert tuple(names) == question.references
        assert len(names) == config.num_hops + 1
        assert all(re.fullmatch("[A-Z]{5}", name) for name in names)
        assert len(ASSIGNMENT.findall(context)) == config.num_chains * (config.num_hops + 1)
        assert bool(example) == config.example
        if example:
            asked, answer = example.removesuffix("\n\n").rsplit("they are: ", 1)
            _, old, solved = solve(asked + "they are: ")
            assert answer.split() == solved
            assert old != value
            assert all(len(name) == 3 for name in solved)
        if config.haystack == "noise":
            assert {line for line in context.split("\n") if "VAR" not in line} == {LINE}
        else:
            assert context.count(" sentence ") > 20


def test_a_vocabulary_that_drops_blanks(asking, tmp_path):
    """Guards against an answer that is glued to the prompt where its last blank is lost, as T5's vocabulary does."""
    vocabulary = make_vocabulary(SentencePieceVocabulary(train_sentencepiece(tmp_path, byte_fallback=True)))
    questions = asking("mine", 3000, config=RulerVariableTracking(example=False), vocabulary=vocabulary)
    for text in (vocabulary.decode(questions[0].targets), Bytes().decode(asking("ruler_vt", 3000)[0].targets)):
        assert re.search(r"they are: [A-Z]{5}( [A-Z]{5}){4}$", text)


def test_every_length_from_the_least_on(asking, vocabulary):
    """Guards against a prompt above its length, and an error that does not say what is needed."""
    for config in (RulerVariableTracking(), RulerVariableTracking(haystack="essay", num_chains=2)):
        with pytest.raises(ConfigError) as caught:
            asking("mine", 300, config=config, vocabulary=vocabulary)
        least = int(re.search(r"needs (\d+)", str(caught.value))[1])
        for length in (least + 4, least + 50, least + 400):
            questions = asking("mine", length, config=config, vocabulary=vocabulary)
            for index in range(10):
                question = questions.question(index)
                assert length - 100 - 20 * config.num_chains < len(question.prompt) + question.max_new_tokens <= length
                assert tuple(solve(split(vocabulary.decode(question.prompt))[1])[2]) == question.references
