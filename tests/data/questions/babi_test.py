"""Tests of famjax.data.questions.babi: a second interpreter answers each question from the sentences alone."""

import collections
import itertools
import re
from typing import get_args

import numpy as np
import pytest

import babi_interpreter
from famjax.data.questions.babi import all_facts, draw_stories
from famjax.data.questions.babilong_answers import labels
from famjax.data.questions.babilong_config import BabiTask

TASKS = get_args(BabiTask)
# From the published data (tasks_1-20_v1-2/en-10k), and its answer there.
PUBLISHED = [
    (
        (
            "Bill travelled to the office. Bill picked up the football there. Bill went to the bedroom. "
            "Bill gave the football to Fred."
        ),
        "What did Bill give to Fred?",
        "football",
    ),
    (
        (
            "John journeyed to the bedroom. Mary grabbed the apple. Mary went back to the bathroom. Daniel journeyed "
            "to the bedroom. Daniel moved to the garden. Mary travelled to the kitchen."
        ),
        "Where was the apple before the kitchen?",
        "bathroom",
    ),
    (
        "The hallway is south of the kitchen. The bedroom is north of the kitchen.",
        "What is the kitchen south of?",
        "bedroom",
    ),
    (
        "The garden is west of the bedroom. The bedroom is west of the kitchen.",
        "What is west of the bedroom?",
        "garden",
    ),
]


def draw(task, count):
    """Stories of a task."""
    return [story for seed in range(count) for story in draw_stories(np.random.default_rng(seed), task)]


@pytest.mark.parametrize(("facts", "question", "right"), PUBLISHED)
def test_the_interpreter_agrees_with_the_published_answers(facts, question, right):
    """Guards against an oracle that makes the same mistake as the simulation."""
    assert babi_interpreter.answer(babi_interpreter.facts_in(facts), question) == right


@pytest.mark.parametrize("task", TASKS)
def test_answers_follow_from_the_sentences(task):
    """Guards against a wrong answer, a question that the story leaves open, and people who act where they cannot."""
    for story in draw(task, 60):
        assert babi_interpreter.facts_in(" ".join(story.facts)) == list(story.facts)
        assert babi_interpreter.answer(story.facts, story.question) == story.answer
        assert story.answer in labels(task)
        assert not re.search(rf"\b{story.answer}\b", story.question)
        assert story.answer in story.statement
        assert set(story.facts) <= set(all_facts(task))


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_spread(task):
    """Guards against an answer that can be guessed."""
    counts = collections.Counter(story.answer for story in draw(task, 600 if task == "qa4" else 120))
    assert set(counts) == set(labels(task))
    assert max(counts.values()) < (0.4 if task == "qa5" else 0.3) * counts.total()


@pytest.mark.parametrize("task", ["qa1", "qa2", "qa3", "qa5"])
def test_a_story_asks_five_times(task):
    """Guards against stories that do not grow from question to question."""
    for seed in range(5):
        stories = draw_stories(np.random.default_rng(seed), task)
        assert len(stories) == 5
        for one, other in itertools.pairwise(stories):
            assert other.facts[: len(one.facts)] == one.facts
            assert len(other.facts) > len(one.facts)
    if task == "qa1":
        assert [len(story.facts) for story in stories] == [2, 4, 6, 8, 10]


def test_every_form_comes():
    """Guards against verbs and questions that are never used."""
    facts = collections.Counter(fact for task in TASKS for fact in draw_facts(task))
    for task in TASKS:
        assert sum(fact in facts for fact in all_facts(task)) > (0.1 if task == "qa4" else 0.6) * len(all_facts(task))
    questions = {re.sub(r"Bill|Fred|Jeff|Mary|apple|football|milk", "X", story.question) for story in draw("qa5", 50)}
    assert questions == {
        "What did X give to X?",
        "Who gave the X?",
        "Who gave the X to X?",
        "Who received the X?",
        "Who did X give the X to?",
    }


def draw_facts(task):
    """Sentences of many stories."""
    return [fact for seed in range(60) for fact in draw_stories(np.random.default_rng(seed), task)[-1].facts]
