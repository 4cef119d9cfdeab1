"""Tests of famjax.data.questions.metrics."""

import subprocess
import sys

import pytest
from rouge_score import rouge_scorer

from famjax.data.questions.metrics import METRICS, normalize_answer

ENGLISH = [
    ("the cat sat on the mat", "the cat is on the mat"),
    ("police killed the gunman", "the gunman killed police"),
    ("A B C D", "d c b a"),
    ("no overlap here", "something else"),
    ("", "something"),
    ("It's 3.5%, isn't it?", "it is 3.5 percent"),
]
SCRIPTS = [
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "ঢাকা বাংলাদেশের রাজধানী",
    "北京是中国的首都",
    "สวัสดีครับ",
    "東京タワー",
    "안녕하세요 세계",
    "Привет мир",
    "The end",
    "a",
    "?",
]


@pytest.mark.parametrize(("prediction", "reference"), ENGLISH)
def test_rouge_l_of_english_is_rouge_scores_own(prediction, reference):
    """Guards against a ROUGE-L that cannot be compared with published ones."""
    independent = rouge_scorer.RougeScorer(["rougeL"]).score(reference, prediction)["rougeL"].fmeasure
    assert METRICS["rouge_l"](prediction, [reference]) == pytest.approx(independent)


@pytest.mark.parametrize(
    ("name", "prediction", "references", "score"),
    [
        ("exact_match", " 12345\n", ["12345"], 1.0),
        ("exact_match", "The cat", ["cat"], 0.0),
        ("exact_match", "b", ["a", "b"], 1.0),
        ("normalized_exact_match", "The CAT!", ["a cat"], 1.0),
        ("normalized_exact_match", "cats", ["cat"], 0.0),
        ("token_f1", "the black cat", ["a cat"], 2 / 3),  # precision 1/2, recall 1
        ("token_f1", "cat cat", ["cat dog cat"], 4 / 5),  # words are counted: cat twice
        ("token_f1", "dog", ["a cat", "dogs and cats", "the dog."], 1.0),
        ("token_f1", "", ["cat"], 0.0),
        ("token_f1", "cat", ["the"], 0.0),
        ("token_f1", "", ["the"], 1.0),
        ("rouge_l", "北京是首都", ["北京的首都"], 4 / 5),  # 北 京 首 都, of five each
        ("rouge_l", "a x b", ["a b c d"], 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        ("rouge_l", "b a", ["x", "b a", "a b"], 1.0),
        ("rouge_l", "", ["।"], 1.0),
        ("rouge_l", "word", ["।"], 0.0),
        ("string_match_all", "It is Paris and london.", ["London", "Paris", "Rome", "Bern"], 0.5),
        ("string_match_part", "It is paris.", ["London", "Paris"], 1.0),
        ("string_match_part", "It is Bern.", ["London", "Paris"], 0.0),
        ("babilong", "In the kitchen. Not the garden.", ["kitchen", "garden"], 1.0),
        ("babilong", "The garden or the kitchen.", ["kitchen", "garden"], 0.0),
    ],
)
def test_scores_computed_by_hand(name, prediction, references, score):
    """Guards against another normal form, another mean, or the first reference in place of the best."""
    assert METRICS[name](prediction, references) == pytest.approx(score)


@pytest.mark.parametrize("name", ["exact_match", "normalized_exact_match", "token_f1", "rouge_l", "string_match_part"])
@pytest.mark.parametrize("text", SCRIPTS)
def test_the_right_answer_scores_one_in_every_script(name, text):
    """Guards against scripts that a normal form empties, so that a right answer is worth nothing."""
    assert METRICS[name](text, ["else", text]) == 1.0
    assert METRICS[name](f" {text}\n", [text]) == 1.0


@pytest.mark.parametrize("name", ["exact_match", "normalized_exact_match", "token_f1", "rouge_l", "string_match_all"])
@pytest.mark.parametrize("text", SCRIPTS)
def test_scores_lie_between_zero_and_one(name, text):
    """Guards against an empty prediction, or one of another script, that is worth something, or raises."""
    assert METRICS[name]("", [f"{text} word"]) == 0.0
    assert METRICS[name]("zzz", [text]) == 0.0
    assert 0.0 <= METRICS[name](f"zzz {text}", [text, "zzz"]) <= 1.0


def test_the_normal_form_is_squads():
    """Guards against articles inside words, or punctuation that splits words, as SQuAD's does not."""
    assert normalize_answer("The  theatre's an A-team,\nain't it") == "theatres ateam aint it"


def test_metrics_are_light_until_they_score():
    """Guards against nltk's import for whoever only asks which metrics there are."""
    program = """
import sys
from famjax.data.questions.metrics import METRICS
METRICS["token_f1"]("a", ["b"])
assert not {"rouge_score", "nltk", "jax", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
