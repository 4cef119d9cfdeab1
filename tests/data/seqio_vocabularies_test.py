"""Tests of famjax.data.seqio_vocabularies, and of the vocabularies' `as_seqio`."""

import pytest

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import make_vocabulary

TEXTS = ["The pass key is 12345.", "naïve 日本語 \U0001f469\u200d\U0001f467", "a\n\tb"]


@pytest.fixture(params=["bytes", "sentencepiece", "tokenizer"])
def vocabulary(request, sentencepiece_path, tokenizer_path):
    """Each kind of vocabulary."""
    return make_vocabulary(
        {
            "bytes": ByteVocabulary(),
            "sentencepiece": SentencePieceVocabulary(sentencepiece_path),
            "tokenizer": HuggingFaceVocabulary(tokenizer_path, eos_token="</s>"),
        }[request.param]
    )


def test_seqio_encodes_alike(vocabulary):
    """Guards against a seqio task encoded otherwise than the famjax task of the same name."""
    import seqio
    import tensorflow as tf

    theirs = vocabulary.as_seqio()
    assert isinstance(theirs, seqio.Vocabulary)
    assert (theirs.vocab_size, theirs.eos_id) == (vocabulary.vocab_size, vocabulary.eos_id)
    for text in TEXTS:
        ids = vocabulary.encode(text).tolist()
        assert list(theirs.encode(text)) == ids
        assert theirs.encode_tf(tf.constant(text)).numpy().tolist() == ids
        assert theirs.decode(ids) == text
        assert theirs.decode_tf(tf.constant(ids, tf.int32)).numpy().decode() == text


def test_there_and_back(vocabulary):
    """Guards against special ids that are lost on the way through seqio."""
    from famjax.data.seqio_vocabularies import FromSeqio

    back = FromSeqio(vocabulary.as_seqio())
    for name in ("vocab_size", "pad_id", "bos_id", "eos_id"):
        assert getattr(back, name) == getattr(vocabulary, name)
    for text in TEXTS:
        assert back.encode(text).tolist() == vocabulary.encode(text).tolist()
        assert back.decode(back.encode(text)) == text


def test_a_batch_is_decoded(tokenizer_path):
    """Guards against a decode_tf that knows single texts only, which seqio's evaluation needs in batches."""
    import tensorflow as tf

    vocabulary = make_vocabulary(HuggingFaceVocabulary(tokenizer_path))
    rows = tf.ragged.constant([vocabulary.encode(text).tolist() for text in TEXTS]).to_tensor(vocabulary.pad_id)
    decoded = vocabulary.as_seqio().decode_tf(tf.cast(rows, tf.int32)).numpy()
    assert [text.decode().rstrip("!") for text in decoded] == [text.rstrip("!") for text in TEXTS]


def test_equality(tokenizer_path, sentencepiece_path):
    """Guards against a mixture refused because its tasks hold the same vocabulary twice, or accepted with two."""
    one, other = (make_vocabulary(HuggingFaceVocabulary(tokenizer_path, eos_token=eos)) for eos in ("</s>", "<s>"))
    assert one.as_seqio() == one.as_seqio()
    assert one.as_seqio() != other.as_seqio()
    assert one.as_seqio() != make_vocabulary(SentencePieceVocabulary(sentencepiece_path)).as_seqio()


def test_the_largest_of_several_counts():
    """Guards against ids of a task's inputs beyond an embedding table that was checked against its targets."""
    import seqio

    from famjax.data.seqio_vocabularies import FromSeqio

    small, large = seqio.PassThroughVocabulary(300), seqio.PassThroughVocabulary(5000)
    assert FromSeqio(small).vocab_size == 300
    assert FromSeqio(small, large).vocab_size == FromSeqio(large, small).vocab_size == 5000
