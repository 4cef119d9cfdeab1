"""Tests of famjax.data.questions.babilong: the story is found, and its question answered, from the prompt alone."""

import re

import numpy as np
import pytest

import babi_interpreter
from famjax.data import registry
from famjax.data.questions.babilong_config import Babilong
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError

NAMES = [name for name, config in registry.BUILT_IN.items() if isinstance(config, Babilong)]
# The whole prompt of BABILong for qa4 (babilong/prompts.py), as one text.
QA4 = """I will give you context with the facts about different people, their location and actions, hidden in some \
random text and a question. You need to answer the question based only on the information from the facts.

<example>
The hallway is south of the kitchen. The bedroom is north of the kitchen. What is the kitchen south of?
Answer: bedroom
</example>
<example>
The garden is west of the bedroom. The bedroom is west of the kitchen. What is west of the bedroom?
Answer: garden
</example>

Your answer should contain only one word - location. Do not write anything else after that.

<context>
{context}
</context>

Question: {question}"""


def parse(text):
    """Context and question of a prompt."""
    return re.fullmatch(r".*<context>\n(.*)\n</context>\n\nQuestion: (.*\?)", text, re.DOTALL).groups()


@pytest.mark.parametrize("name", NAMES)
def test_answers_follow_from_the_prompt(asking, vocabulary, name):
    """Guards against facts that are lost, cut or out of order, and wrong answers."""
    questions = asking(name, 5000, vocabulary=vocabulary)
    for index in range(8):
        question = questions.question(index)
        context, asked = parse(vocabulary.decode(question.prompt))
        facts = babi_interpreter.facts_in(context)
        assert len(facts) >= 2
        assert babi_interpreter.answer(facts, asked) == question.references[0]
        assert context.count(" sentence ") > 5
        rest = re.sub(babi_interpreter.FACT, "", context)
        assert not re.search(r"\b(John|Mary|Sandra|Daniel|Bill|Fred|Jeff)\b", rest)
        assert 4995 <= len(question.prompt) + question.max_new_tokens <= 5000


def test_the_prompt(asking):
    """Guards against another prompt than BABILong's."""
    text = Bytes().decode(asking("babilong_qa4").question(0).prompt)
    context, question = parse(text)
    assert text == QA4.format(context=context, question=question)
    bare = Babilong(instruction=False, examples=False, post_prompt=False)
    assert Bytes().decode(asking("mine", config=bare).question(0).prompt).startswith("<context>\n")
    two = Bytes().decode(asking("mine", config=Babilong(examples=False)).question(0).prompt)
    assert re.match(r"I will give .* question\.\n\n\n\nAlways return .* after that\.\n\n<context>\n", two)


@pytest.mark.parametrize("depth", [0.0, 0.4, 1.0])
def test_depth(asking, depth):
    """Guards against facts at another depth than asked for."""
    questions = asking("babilong_qa2", 6000, depth=depth)
    for index in range(6):
        context, _ = parse(Bytes().decode(questions.question(index).prompt))
        places = [match.span() for match in babi_interpreter.FACT.finditer(context)]
        start, end = places[0][0], places[-1][1]
        told = sum(end - start + 1 for start, end in places)
        assert end - start + 1 == told
        assert start == pytest.approx(depth * (len(context) - told), abs=80)


def test_drawn_places(asking):
    """Guards against facts that always lie together, or in one part of the text."""
    questions, places = asking("babilong_qa1", 6000), []
    for index in range(30):
        context, _ = parse(Bytes().decode(questions.question(index).prompt))
        places += [match.start() / len(context) for match in babi_interpreter.FACT.finditer(context)]
    share = np.histogram(places, 4, (0, 1))[0] / len(places)
    assert share.min() > 0.15


def test_stories_fit(asking, vocabulary):
    """Guards against a prompt above its length, facts cut to make room, and an error without the tokens needed."""
    for name in NAMES:
        with pytest.raises(ConfigError, match=r"needs \d+") as caught:
            asking(name, 200, vocabulary=vocabulary)
        least = int(re.search(r"needs (\d+)", str(caught.value))[1])
        for length in (least, least + 300):
            questions = asking(name, length, vocabulary=vocabulary)
            for index in range(4):
                question = questions.question(index)
                context, asked = parse(vocabulary.decode(question.prompt))
                assert babi_interpreter.answer(babi_interpreter.facts_in(context), asked) == question.references[0]
                assert len(question.prompt) + question.max_new_tokens <= length


def test_longer_stories_in_longer_texts(asking):
    """Guards against max_facts without effect."""

    def most(questions):
        contexts = (parse(Bytes().decode(questions.question(index).prompt))[0] for index in range(12))
        return max(len(babi_interpreter.facts_in(context)) for context in contexts)

    assert most(asking("mine", 12_000, config=Babilong(babi_task="qa3"))) > 30
    assert most(asking("mine", 12_000, config=Babilong(babi_task="qa3", max_facts=12))) <= 12
