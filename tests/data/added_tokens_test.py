"""Tests of famjax.data.added_tokens, and of vocabularies that leave tokens out."""

import datetime as dt
import json

import pytest
import tokenizers

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import ConfigError, DataError
from vocabulary_files import IMAGE, add_image_token, train_chat_sentencepiece, train_chat_tokenizer

TEXT = f"the {IMAGE} key"
CHAT = [{"role": "user", "content": TEXT}]
NOW = dt.datetime(2024, 7, 26)


@pytest.fixture(params=["tokenizer", "sentencepiece"])
def tokenizer(request, tmp_path):
    """Each kind of tokenizer, with an added token of the highest id: the kind's settings, the file, that id."""
    if request.param == "tokenizer":
        kind, path = HuggingFaceVocabulary, train_chat_tokenizer(tmp_path, "chatml")
    else:
        kind, path = SentencePieceVocabulary, train_chat_sentencepiece(tmp_path)
    return kind, path, add_image_token(path)


def change(folder, **settings):
    """Changes the file beside a tokenizer."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_token_that_is_left_out_is_text(tokenizer):
    """Guards against ids beyond the model's table, in documents, conversations and seqio, and lost other tokens."""
    kind, path, size = tokenizer
    whole, ours = make_vocabulary(kind(path)), make_vocabulary(kind(path, table_size=size))
    assert (whole.vocab_size, whole.left_out) == (size + 1, ())
    assert size in whole.chat.prompt(CHAT, NOW)
    assert (ours.vocab_size, ours.left_out) == (size, (IMAGE,))
    for ids in (ours.encode(TEXT), ours.chat.prompt(CHAT, NOW)):
        assert ids.max() < size
        assert TEXT in ours.decode(ids)
    assert ours.eos_id == whole.eos_id
    assert ours.eos_id in ours.chat.prompt(CHAT, NOW)
    seqio = ours.as_seqio()
    assert seqio.vocab_size == size
    assert list(seqio.encode(TEXT)) == ours.encode(TEXT).tolist()
    assert seqio.decode(ours.encode(TEXT)) == TEXT


def test_a_fingerprint_tells_what_is_left_out(tokenizer):
    """Guards against a checkpoint read with ids that it lacks, and one refused by a setting that leaves nothing out."""
    kind, path, size = tokenizer
    whole, large, ours = (make_vocabulary(kind(path, table_size=rows)) for rows in (None, size + 1, size))
    assert large.fingerprint == whole.fingerprint
    assert ours.fingerprint != whole.fingerprint


def test_ordinary_tokens_are_never_left_out(tokenizer):
    """Guards against text that loses its tokens, or gets ids that the model has no rows for."""
    kind, path, size = tokenizer
    num_ordinary = size if kind is HuggingFaceVocabulary else size - 3  # the others were added behind
    message = rf"ids up to {num_ordinary - 1}, beyond the {num_ordinary - 1} rows .*{kind.__name__}\.table_size"
    with pytest.raises(DataError, match=message):
        make_vocabulary(kind(path, table_size=num_ordinary - 1))
    with pytest.raises(ConfigError, match=rf"{kind.__name__}\.table_size = 0; allowed: 1 or more"):
        kind(path, table_size=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pad_token": IMAGE},
            r"\.(json|model): pad_token '<image>' has the id \d+, beyond the \d+ rows",
        ),
        (
            {"chat_template": "{% if tools %}<image>{% endif %}{{ messages[0].content }}"},
            r"tokenizer_config\.json: the chat template writes '<image>'",
        ),
        ({"chat_template": "{{ '<' + 'image' + '>' + messages[0].content }}"}, "the chat template writes '<image>'"),
    ],
    ids=["special", "template", "composed"],
)
def test_needed_tokens_are_never_left_out(tokenizer, settings, message, tmp_path):
    """Guards against padding that is another token, and conversations whose marks are spelled out."""
    kind, path, size = tokenizer
    change(tmp_path, **settings)
    with pytest.raises(DataError, match=message):
        make_vocabulary(kind(path, table_size=size))
    assert make_vocabulary(kind(path)).vocab_size == size + 1


@pytest.mark.parametrize(
    "model",
    [
        tokenizers.models.WordLevel({"[UNK]": 0, "key": 1, IMAGE: 2}, unk_token="[UNK]"),
        tokenizers.models.Unigram([("[UNK]", -9.0), ("key", -1.0), (IMAGE, -1.0)], unk_id=0),
    ],
    ids=["words", "unigram"],
)
def test_a_token_that_the_model_of_a_tokenizer_has_too(model, tmp_path):
    """Guards against a token that is no added one any more, and still an id of the text that spells it."""
    whole = tokenizers.Tokenizer(model)
    whole.add_special_tokens([IMAGE])
    whole.save(str(tmp_path / "tokenizer.json"))
    vocabulary = make_vocabulary(HuggingFaceVocabulary(str(tmp_path / "tokenizer.json"), table_size=2))
    assert vocabulary.vocab_size == 2
    assert set(vocabulary.encode(IMAGE).tolist()) == {vocabulary.unk_id}
    assert vocabulary.encode("key").tolist() == [1]
