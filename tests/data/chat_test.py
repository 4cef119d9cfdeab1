"""Tests of famjax.data.chat, and of the vocabularies' chat templates: conversations as tokens."""

import datetime as dt
import itertools

import numpy as np
import pytest
import tokenizers

from famjax.data.chat import mark_by_places
from famjax.data.chat_template import ChatTemplate, Rendered
from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.json_objects import BadRecordError
from famjax.data.vocabularies import make_vocabulary
from vocabulary_files import (
    CHATML_SPECIAL,
    train_chat_sentencepiece,
    train_chat_tokenizer,
    train_sentencepiece,
    train_tokenizer,
)

NOW = dt.datetime(2024, 7, 26)
CHAT = [
    {"role": "user", "content": "Hi é\U0001f469\u200d\U0001f467"},
    {"role": "assistant", "content": "Hello, the key."},
    {"role": "user", "content": "Bye?"},
    {"role": "assistant", "content": " ok 日本語 "},
]
USER, ASSISTANT = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
# By hand: texts in order, and whether they are to be learnt.
EXPECTED = {
    "chatml": [
        ("<|im_start|>user\nHi é\U0001f469\u200d\U0001f467<|im_end|>\n<|im_start|>assistant\n", False),
        ("Hello, the key.<|im_end|>", True),
        ("\n<|im_start|>user\nBye?<|im_end|>\n<|im_start|>assistant\n", False),
        (" ok 日本語 <|im_end|>", True),
        ("\n", False),
    ],
    "headers": [
        ("<|begin_of_text|>" + USER + "Hi é\U0001f469\u200d\U0001f467<|eot_id|>" + ASSISTANT, False),
        ("Hello, the key.<|eot_id|>", True),
        (USER + "Bye?<|eot_id|>" + ASSISTANT, False),
        ("ok 日本語<|eot_id|>", True),
    ],
}


def runs(marked):
    """Ids of consecutive tokens that are alike marked."""
    pairs = zip(marked.tokens.tolist(), marked.answers.tolist(), strict=True)
    return [([token for token, _ in run], inside) for inside, run in itertools.groupby(pairs, lambda pair: pair[1])]


@pytest.mark.parametrize("family", EXPECTED)
def test_turns_by_token(family, tmp_path):
    """Guards against weights on prompts or headers, and turns without their first or their end token."""
    path = train_chat_tokenizer(tmp_path, family)
    vocabulary = make_vocabulary(HuggingFaceVocabulary(path))
    marked = vocabulary.chat.conversation(CHAT, None)
    library = tokenizers.Tokenizer.from_file(path)
    found = [(library.decode(ids, skip_special_tokens=False), inside) for ids, inside in runs(marked)]
    assert found == EXPECTED[family]
    whole = "".join(text for text, _ in EXPECTED[family])
    assert marked.tokens.tolist() == library.encode(whole, add_special_tokens=False).ids
    special = [token for token in marked.tokens.tolist() if library.id_to_token(token).startswith("<|")]
    assert len(special) > 6


def test_turns_by_token_of_sentencepiece(tmp_path):
    """Guards against special tokens that are spelled out, blanks added behind them, and lost ones."""
    import sentencepiece

    path = train_chat_sentencepiece(tmp_path)
    vocabulary = make_vocabulary(SentencePieceVocabulary(path))
    library = sentencepiece.SentencePieceProcessor(model_file=path)
    size = library.GetPieceSize()
    assert vocabulary.vocab_size == size + 3
    assert (vocabulary.pad_id, vocabulary.eos_id) == (size, size + 2)

    def text_of(ids):
        texts = [CHATML_SPECIAL[i - size] if i >= size else library.IdToPiece(i) for i in ids]
        return b"".join(_piece_bytes(text) for text in texts).decode()

    found = [(text_of(ids), inside) for ids, inside in runs(vocabulary.chat.conversation(CHAT, None))]
    assert found == EXPECTED["chatml"]
    ids = vocabulary.chat.conversation(CHAT, None).tokens
    assert vocabulary.decode(ids) == "".join(f"{message['role']}\n{message['content']}\n" for message in CHAT)


def _piece_bytes(piece):
    """The bytes of a piece: "▁" is a blank, and "<0x0A>" a byte."""
    if piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


@pytest.mark.parametrize("family", EXPECTED)
def test_a_prompt_ends_where_the_answer_begins(family, tmp_path):
    """Guards against another prompt at inference than in training."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(train_chat_tokenizer(tmp_path, family)))
    (before, _), *_ = runs(vocabulary.chat.conversation(CHAT, None))
    assert vocabulary.chat.prompt(CHAT[:1], NOW).tolist() == before


def test_tokens_are_found_by_their_places():
    """Guards against an answer that begins a token late where a token's place leaves its blanks out, or ends one early.

    Tokens of "ab  cdé.": "ab", "  " (placed behind itself), "cd" and two bytes of "é", then ".".
    """
    begins, ends = np.array([0, 4, 4, 6, 6, 7]), np.array([2, 4, 6, 7, 7, 8])
    for span, expected in [
        ((2, 7), [0, 1, 1, 1, 1, 0]),
        ((3, 4), [0, 1, 0, 0, 0, 0]),
        ((1, 2), [1, 0, 0, 0, 0, 0]),
        ((6, 8), [0, 0, 0, 1, 1, 1]),
        ((5, 5), [0, 0, 0, 0, 0, 0]),
    ]:
        marked = mark_by_places(np.arange(6, dtype=np.int32), begins, ends, Rendered("ab  cdé.", (span,)))
        assert marked.answers.astype(int).tolist() == expected, span


def test_without_a_template(tmp_path):
    """Guards against a template that nobody gave."""
    assert make_vocabulary(ByteVocabulary()).chat is None
    assert make_vocabulary(HuggingFaceVocabulary(train_tokenizer(tmp_path))).chat is None


def test_special_tokens_of_the_settings_and_of_the_model(tmp_path):
    """Guards against a template without the special tokens that no file beside the tokenizer names."""
    source = tmp_path / "mine.jinja"
    source.write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    path = train_tokenizer(tmp_path)
    named = HuggingFaceVocabulary(path, bos_token="<s>", eos_token="</s>", chat_template=str(source))
    pieces = SentencePieceVocabulary(train_sentencepiece(tmp_path), chat_template=str(source))
    for config, begins in ((named, True), (pieces, False)):  # the model has no beginning token
        vocabulary = make_vocabulary(config)
        ids = vocabulary.chat.prompt([{"role": "user", "content": "the key"}], NOW).tolist()
        assert ids[-1] == vocabulary.eos_id
        assert (ids[0] == vocabulary.bos_id) == begins
        assert vocabulary.decode(ids) == "the key"


def test_a_template_of_ones_own(tmp_path):
    """Guards against a setting without effect, and against one fingerprint for two templates."""
    path = train_chat_tokenizer(tmp_path, "chatml")
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }}?")
    mine = make_vocabulary(HuggingFaceVocabulary(path, chat_template=str(tmp_path / "mine.jinja")))
    theirs = make_vocabulary(HuggingFaceVocabulary(path))
    assert mine.decode(mine.chat.prompt(CHAT[2:], NOW)) == "Bye??"
    assert mine.fingerprint != theirs.fingerprint


@pytest.mark.parametrize(("family", "end"), [("chatml", "<|im_end|>"), ("headers", "<|eot_id|>")])
def test_turn_after_turn(family, end, tmp_path):
    """Guards against a conversation that, read turn by turn, is another than the whole, and turns that do not end."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(train_chat_tokenizer(tmp_path, family)))
    chat = vocabulary.chat
    answer = vocabulary.encode(CHAT[1]["content"])
    by_turns = np.concatenate([chat.prompt(CHAT[:1], NOW), answer, chat.next_turn(CHAT[2]["content"], NOW)])
    np.testing.assert_array_equal(by_turns, chat.prompt(CHAT[:3], NOW))
    assert chat.turn_end == vocabulary.encode(end).tolist()[0]
    assert chat.template.unfinished(CHAT[:2], NOW) == chat.template.prompt(CHAT[:1], NOW) + CHAT[1]["content"]


def test_a_template_without_answers():
    """Guards against turns joined where the template shows no place between them, and against an end that is none."""
    plain = ChatTemplate(
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "a.jinja", {}, ("?",)
    )
    assert plain.turn_end(NOW) is None
    with pytest.raises(BadRecordError, match=r"a\.jinja leaves out what was answered"):
        plain.next_turn("Bye?", NOW)
    with pytest.raises(BadRecordError, match=r"a\.jinja writes the last message otherwise"):
        plain.unfinished(CHAT[:2], NOW)
    text = ChatTemplate("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "a.jinja", {}, ("",))
    assert text.turn_end(NOW) is None
    assert text.next_turn("Bye?", NOW) == "\nuser: Bye?\n"
