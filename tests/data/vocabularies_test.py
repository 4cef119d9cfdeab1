"""Tests of famjax.data.vocabularies."""

import json

import numpy as np
import pytest
import sentencepiece
import tokenizers

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import ConfigError, DataError
from vocabulary_files import train_chat_sentencepiece, train_chat_tokenizer, train_sentencepiece

AWKWARD = [
    "The pass key is 12345.",
    "line\nbreak\r\n\ttab  two blanks ",
    "naïve café e\u0301 \u00a0 \u200b \ufeff",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "עברית العربية \u202eright",
    "日本語テキスト \x00\x01\x7f \U0010ffff",
]


@pytest.fixture(params=["bytes", "sentencepiece", "tokenizer"])
def config(request, sentencepiece_path, tokenizer_path):
    """Each kind of vocabulary."""
    return {
        "bytes": ByteVocabulary(),
        "sentencepiece": SentencePieceVocabulary(sentencepiece_path),
        "tokenizer": HuggingFaceVocabulary(tokenizer_path, pad_token="<pad>", bos_token="<s>", eos_token="</s>"),
    }[request.param]


def test_round_trip(config):
    """Guards against text that changes on its way through ids."""
    vocabulary = make_vocabulary(config)
    for text in AWKWARD:
        if isinstance(config, SentencePieceVocabulary):
            text = text.replace("\x00", "").replace("\u2581", "")  # noqa: PLW2901 - its models end a text at NUL
        ids = vocabulary.encode(text)
        assert ids.dtype == np.int32
        assert ids.min() >= 0
        assert ids.max() < vocabulary.vocab_size
        assert vocabulary.decode(ids) == text


def test_the_libraries_own_results(sentencepiece_path, tokenizer_path):
    """Guards against ids or texts other than those of the libraries, with which the models were trained."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=sentencepiece_path)
    ours = make_vocabulary(SentencePieceVocabulary(sentencepiece_path))
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_path)
    other = make_vocabulary(HuggingFaceVocabulary(tokenizer_path))
    for text in AWKWARD:
        assert ours.encode(text).tolist() == pieces.EncodeAsIds(text)
        assert ours.decode(ours.encode(text)) == pieces.DecodeIds(pieces.EncodeAsIds(text))
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert other.encode(text).tolist() == ids
        assert other.decode(ids) == tokenizer.decode(ids)


def test_special_tokens_beside_a_tokenizer(tmp_path):
    """Guards against special tokens that must be named although the files say them, and settings that lose to files."""
    path = train_chat_tokenizer(tmp_path, "headers")
    library = tokenizers.Tokenizer.from_file(path)
    vocabulary = make_vocabulary(HuggingFaceVocabulary(path))
    assert vocabulary.bos_id == library.token_to_id("<|begin_of_text|>")
    assert vocabulary.eos_id == library.token_to_id("<|eot_id|>")
    assert vocabulary.pad_id == 0
    named = make_vocabulary(HuggingFaceVocabulary(path, eos_token="<|end_header_id|>"))
    assert named.eos_id == library.token_to_id("<|end_header_id|>")
    assert named.fingerprint != vocabulary.fingerprint
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(DataError, match=r"tokenizer\.json: eos_token '<end>' of the files beside it"):
        make_vocabulary(HuggingFaceVocabulary(path, pad_token="<|eot_id|>"))


def test_tokens_added_to_a_sentencepiece_model(tmp_path):
    """Guards against added tokens that are spelled out in seqio or lost in decoding, and those in documents."""
    path = train_chat_sentencepiece(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["900"] = {"content": "<think>", "special": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = make_vocabulary(SentencePieceVocabulary(path))
    assert vocabulary.vocab_size == 901
    assert vocabulary.as_seqio().vocab_size == 901
    ids = vocabulary.encode("the key").tolist()
    assert vocabulary.decode([900, *ids, 900, *ids, vocabulary.eos_id]) == "<think> the key<think> the key"
    assert vocabulary.decode([*ids, 900]) == "the key<think>"
    assert vocabulary.eos_id not in vocabulary.encode("a <|im_end|> in a document").tolist()
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(DataError, match=r"eos_token '<end>' of the files beside it is no piece"):
        make_vocabulary(SentencePieceVocabulary(path, chat_template=str(tmp_path / "tokenizer_config.json")))


def test_special_ids_are_no_text(config):
    """Guards against padding, beginning or end that show up in text, or lie outside the vocabulary."""
    vocabulary = make_vocabulary(config)
    special = [vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id]
    assert all(0 <= i < vocabulary.vocab_size for i in special)
    ids = [
        vocabulary.bos_id,
        *vocabulary.encode("key").tolist(),
        vocabulary.eos_id,
        vocabulary.pad_id,
        vocabulary.pad_id,
    ]
    assert vocabulary.decode(ids) == "key"
    assert not set(special) & {int(i) for text in AWKWARD for i in vocabulary.encode(text.replace("\x00", ""))}


def test_unknown_text_has_its_own_id(tmp_path):
    """Guards against text that a vocabulary lacks and that nobody is told of; bytes lack nothing."""
    assert make_vocabulary(ByteVocabulary()).unk_id is None
    pieces = make_vocabulary(SentencePieceVocabulary(train_sentencepiece(tmp_path)))
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"key": 0, "[UNK]": 7}, unk_token="[UNK]"))
    words.save(str(tmp_path / "words.json"))
    for vocabulary in (pieces, make_vocabulary(HuggingFaceVocabulary(str(tmp_path / "words.json")))):
        assert vocabulary.unk_id is not None
        assert vocabulary.unk_id in vocabulary.encode("\U0001f469")
        assert vocabulary.unk_id not in vocabulary.encode("key")


def test_byte_ids():
    """Guards against ids other than ByT5's, with which byte-level checkpoints are trained."""
    vocabulary = make_vocabulary(ByteVocabulary())
    assert vocabulary.encode("a\xe9").tolist() == [97 + 3, 0xC3 + 3, 0xA9 + 3]
    assert (vocabulary.vocab_size, vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id) == (259, 0, 0, 1)


def test_cut_characters_are_marked():
    """Guards against an exception for a window that begins inside a character."""
    vocabulary = make_vocabulary(ByteVocabulary())
    assert vocabulary.decode(vocabulary.encode("é!")[1:]) == "\ufffd!"


def test_tokenizer_without_special_tokens(tokenizer_path):
    """Guards against an end token that nobody named."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(tokenizer_path))
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id) == (0, 0, None)


def test_sentencepiece_without_padding(tmp_path):
    """Guards against padding that reads as unknown text where a model has no padding, as Llama's."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three", "four five six"] * 20),
        model_prefix=str(tmp_path / "tiny"),
        vocab_size=30,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    vocabulary = make_vocabulary(SentencePieceVocabulary(str(tmp_path / "tiny.model")))
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eos_id) == (0, 1, 2)
    assert vocabulary.decode([1, *vocabulary.encode("two").tolist(), 2, 0, 0]) == "two"


def test_an_unknown_special_token_is_named(tokenizer_path):
    """Guards against documents without end because of a misspelled token."""
    with pytest.raises(ConfigError, match=r"HuggingFaceVocabulary\.eos_token = '<end>'"):
        make_vocabulary(HuggingFaceVocabulary(tokenizer_path, eos_token="<end>"))


@pytest.mark.parametrize("kind", [SentencePieceVocabulary, HuggingFaceVocabulary])
@pytest.mark.parametrize("content", [None, b"", b"no vocabulary"])
def test_bad_files_are_named(kind, content, tmp_path):
    """Guards against a traceback where a vocabulary is missing, empty or something else."""
    path = tmp_path / "vocabulary.file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"vocabulary\.file: .*{kind.__name__}\.path"):
        make_vocabulary(kind(str(path)))


def test_saved_truncation_and_padding_are_off(tokenizer_path, tmp_path):
    """Guards against documents that are cut, or padded, at the length that a tokenizer.json was saved with."""
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_path)
    tokenizer.enable_truncation(max_length=3)
    tokenizer.enable_padding(length=40)
    path = str(tmp_path / "tokenizer.json")
    tokenizer.save(path)
    vocabulary = make_vocabulary(HuggingFaceVocabulary(path))
    for text in AWKWARD:
        assert (
            vocabulary.encode(text).tolist()
            == make_vocabulary(HuggingFaceVocabulary(tokenizer_path)).encode(text).tolist()
        )
