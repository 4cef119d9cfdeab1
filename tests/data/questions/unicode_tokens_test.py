"""Tests of famjax.data.questions.unicode_tokens."""

import pytest
from rouge_score import tokenizers

from famjax.data.questions.unicode_tokens import unicode_tokens


@pytest.mark.parametrize(
    "text", ["", "The cat's 3 hats, isn't it?", "snake_case and CamelCase\t1,000.5\n(x)", "--", "a" * 40 + " b-c"]
)
def test_ascii_is_split_as_rouge_score_splits_it(text):
    """Guards against scores of English that differ from everyone else's."""
    assert unicode_tokens(text) == tokenizers.DefaultTokenizer().tokenize(text)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Élève à l'École", ["élève", "à", "l", "école"]),
        ("Привет, мир!", ["привет", "мир"]),
        ("مرحبا بالعالم؟", ["مرحبا", "بالعالم"]),
        ("नमस्ते, दुनिया।", ["नमस्ते", "दुनिया"]),
        ("ঢাকা বাংলাদেশের রাজধানী।", ["ঢাকা", "বাংলাদেশের", "রাজধানী"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("北京是首都。", ["北", "京", "是", "首", "都"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("สวัสดีครับ", ["ส", "วั", "ส", "ดี", "ค", "รั", "บ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("GPT4是模型v2", ["gpt4", "是", "模", "型", "v2"]),
    ],
)
def test_every_script_keeps_its_words(text, tokens):
    """Guards against scripts, and marks that combine with letters, that are dropped as if they were punctuation."""
    assert unicode_tokens(text) == tokens


def test_forms_of_the_same_text_are_the_same():
    """Guards against a score of 0 between two encodings of one word: composed or not, wide or not, joined or not."""
    assert unicode_tokens("cafe\u0301 STRASSE") == unicode_tokens("caf\u00e9 straße")
    assert unicode_tokens("\uff21\uff22\uff11 \u2121") == ["ab1", "tel"]
    assert unicode_tokens("می\u200cروم") == ["میروم"]


def test_a_mark_without_a_letter_is_no_word():
    """Guards against a mark at the beginning, or behind a space, that joins the word before it or makes its own."""
    assert unicode_tokens("\u0301a \u0301 b") == ["a", "b"]
