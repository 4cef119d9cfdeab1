"""Tests of famjax.data.pieces."""

import numpy as np
import pytest

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.pieces import answer_tokens, encode_piece
from famjax.data.vocabularies import Bytes, make_vocabulary


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "huggingface"])
def test_pieces_join_to_the_text(kind, sentencepiece_path, tokenizer_path):
    """Guards against a blank that a vocabulary adds between pieces, or takes from their beginnings."""
    vocabulary = {
        "bytes": Bytes,
        "sentencepiece": lambda: make_vocabulary(SentencePieceVocabulary(sentencepiece_path)),
        "huggingface": lambda: make_vocabulary(HuggingFaceVocabulary(tokenizer_path)),
    }[kind]()
    texts = ["The first.", " The second.", "\nThe third", "12345", "\n\nand", " a blank: ", "'x'"]
    pieces = [vocabulary.encode(texts[0]), *(encode_piece(vocabulary, text) for text in texts[1:])]
    assert vocabulary.decode(np.concatenate(pieces)) == "".join(texts)


def test_answer_tokens_count_what_the_answer_changes(sentencepiece_path):
    """Guards against an answer whose first token, shared with the question's last blank, is asked for in vain."""
    for vocabulary in (Bytes(), make_vocabulary(SentencePieceVocabulary(sentencepiece_path))):
        both, count = answer_tokens(vocabulary, " The pass key is ", "12345")
        assert vocabulary.decode(both[len(both) - count :]).strip() == "12345"
        question = encode_piece(vocabulary, " The pass key is")
        np.testing.assert_array_equal(both[: len(question)], question)
