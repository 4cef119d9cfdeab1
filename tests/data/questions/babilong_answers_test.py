"""Tests of famjax.data.questions.babilong_answers."""

import pytest

from famjax.data.questions.babilong_answers import babilong, references

KITCHEN = references("qa1", "Where is Mary?", "kitchen")


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("kitchen", True),
        (" The most recent location of Mary is Kitchen. She was in the garden before.", True),
        ("\nAnswer: kitchen", True),
        ("garden", False),
        ("", False),
        ("The kitchen or the garden.", False),
        ("kitchen <example> Where is John? garden", True),
        ("kitchen <context> garden", True),
        ("I do not know. kitchen", False),
    ],
)
def test_only_the_right_label_counts(prediction, right):
    """Guards against other answers counted than BABILong counts."""
    assert babilong(prediction, KITCHEN) == float(right)


def test_labels_of_the_question_may_be_repeated():
    """Guards against an answer in a whole sentence that repeats the question's label, and is not counted."""
    right = references("qa3", "Where was the apple before the kitchen?", "bathroom")
    assert "kitchen" not in right
    assert babilong("Before the kitchen the apple was in the bathroom.", right) == 1.0
    assert babilong("Before the garden the apple was in the bathroom.", right) == 0.0
    gift = references("qa5", "Who did Mary give the apple to?", "Fred")
    assert gift == ("Fred", "Bill", "Jeff", "football", "milk")
    assert babilong("Mary gave the apple to Fred.", gift) == 1.0
    assert babilong("Mary gave the apple to Fred and Jeff.", gift) == 0.0
