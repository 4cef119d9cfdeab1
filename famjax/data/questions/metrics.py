"""How close one predicted text is to the right ones: scores in [0, 1], the best over the references.

Multiple choices and whole documents have no text to compare: they are scored from log probabilities, elsewhere.
"""

import collections
import functools
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from famjax.data.questions.babilong_answers import babilong
from famjax.data.questions.unicode_tokens import unicode_tokens

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

# (prediction, references) -> score in [0, 1]
Metric = Callable[[str, Sequence[str]], float]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, without ASCII punctuation and English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Whether the prediction is a reference, white space around them aside."""
    return float(prediction.strip() in {reference.strip() for reference in references})


def normalized_exact_match(prediction: str, references: Sequence[str]) -> float:
    """Whether the prediction is a reference in SQuAD's normal form."""
    return float(normalize_answer(prediction) in {normalize_answer(reference) for reference in references})


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the words that prediction and reference share, in SQuAD's normal form (SQuAD 2.0, SCROLLS)."""
    words = normalize_answer(prediction).split()
    return _best(_f1(words, normalize_answer(reference).split()) for reference in references)


def _f1(predicted: Sequence[str], right: Sequence[str]) -> float:
    if not predicted or not right:
        return float(predicted == right)
    shared = (collections.Counter(predicted) & collections.Counter(right)).total()
    return 2 * shared / (len(predicted) + len(right))


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L's F measure: of the longest common subsequence of words, in any script, without stemming."""
    return _best(_rouge_l(prediction, reference) for reference in references)


def _rouge_l(prediction: str, reference: str) -> float:
    if not unicode_tokens(reference):
        return float(not unicode_tokens(prediction))
    return float(_rouge_scorer().score(reference, prediction)["rougeL"].fmeasure)


@functools.cache
def _rouge_scorer() -> "RougeScorer":
    """rouge-score's scorer over Unicode words; imported late, for it brings nltk."""
    from rouge_score import rouge_scorer, tokenizers

    class UnicodeTokenizer(tokenizers.Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return unicode_tokens(text)

    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())


def string_match_all(prediction: str, references: Sequence[str]) -> float:
    """RULER's recall: the share of the references that the prediction contains, in any case of letters."""
    return sum(reference.lower() in prediction.lower() for reference in references) / len(references)


def string_match_part(prediction: str, references: Sequence[str]) -> float:
    """RULER's: whether the prediction contains any of the references, in any case of letters."""
    return float(any(reference.lower() in prediction.lower() for reference in references))


def _best(scores: Iterable[float]) -> float:
    return max(scores, default=0.0)


METRICS: Mapping[str, Metric] = {
    "exact_match": exact_match,
    "normalized_exact_match": normalized_exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "string_match_all": string_match_all,
    "string_match_part": string_match_part,
    "babilong": babilong,
}
