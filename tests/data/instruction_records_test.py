"""Tests of famjax.data.instruction_records, and of packed conversations."""

import itertools
import json

import numpy as np
import pytest
import tokenizers

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.instruction_records import marked
from famjax.data.instructions import InstructionExamples
from famjax.data.instructions_config import Instructions
from famjax.data.json_objects import BadRecordError
from famjax.data.marked import unpacked
from famjax.data.vocabularies import Bytes, make_vocabulary
from famjax.errors import ConfigError, DataError
from published_fixtures import write_rows
from vocabulary_files import train_chat_sentencepiece, train_chat_tokenizer

BYTES = Bytes()


def chat(number, turns=1):
    """A conversation that can be told apart."""
    pairs = [
        [{"role": "user", "content": f"q{number} {turn}?"}, {"role": "assistant", "content": f"a{number} {turn}."}]
        for turn in range(turns)
    ]
    return list(itertools.chain(*pairs))


def answers_of(examples, count, library):
    """The texts of the runs of answer tokens, and those of all tokens, of the first examples."""
    answers, texts = [], []
    for index in range(count):
        example = examples[index]
        pairs = zip(example.targets.tolist(), example.answers.tolist(), strict=True)
        runs = [(inside, [token for token, _ in run]) for inside, run in itertools.groupby(pairs, lambda pair: pair[1])]
        answers += [library.decode(ids, skip_special_tokens=False) for inside, ids in runs if inside]
        texts.append(library.decode(example.targets.tolist(), skip_special_tokens=False))
        np.testing.assert_array_equal(example.weights, example.answers.astype(np.float32))
    return answers, texts


@pytest.mark.parametrize(("family", "end"), [("chatml", "<|im_end|>"), ("headers", "<|eot_id|>")])
def test_packed_conversations(family, end, tmp_path, reading):
    """Guards against lost turns, weights on prompts, and a beginning token that the model reads twice."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(train_chat_tokenizer(tmp_path, family)))
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    path = write_rows(tmp_path / "a.jsonl", [{"messages": chat(n, n % 3 + 1)} for n in range(12)])
    config = Instructions(paths=(path,), validation_paths=(path,), form="chats", repeat_length=0)
    examples = InstructionExamples(
        config, reading(longest=120, split="validation", vocabulary=vocabulary, shuffle=False)
    )
    assert 1 < examples.size < 12
    answers, texts = answers_of(examples, examples.size, library)
    assert answers == [f"a{n} {turn}.{end}" for n in range(12) for turn in range(n % 3 + 1)]
    if family == "headers":
        begin = "<|begin_of_text|>"
        assert not any(text.startswith(begin) for text in texts)
        assert sum(text.count(begin) for text in texts) == 12 - examples.size


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_conversations_in_other_files(name, tmp_path, reading):
    """Guards against columns of lists that are not read, or read as something else."""
    vocabulary = make_vocabulary(SentencePieceVocabulary(train_chat_sentencepiece(tmp_path)))
    path = write_rows(tmp_path / name, [{"talk": chat(n), "source": "x"} for n in range(3)])
    config = Instructions(paths=(path,), validation_paths=(path,), form="chats", messages_field="talk", repeat_length=0)
    example = InstructionExamples(
        config, reading(longest=400, split="validation", vocabulary=vocabulary, shuffle=False)
    )[0]
    turns = "".join(f"user\nq{n} 0?\nassistant\na{n} 0.\n" for n in range(3))
    assert vocabulary.decode(example.targets) == turns
    assert (example.targets[example.answers] == vocabulary.eos_id).sum() == 3


def test_values_hold_both():
    """Guards against ids or marks that change on their way through a file, up to the end of a large vocabulary."""
    one = marked({"inputs": "q", "targets": "answer"}, Instructions(), BYTES)
    back = unpacked(one.packed())
    np.testing.assert_array_equal(back.tokens, one.tokens)
    np.testing.assert_array_equal(back.answers, one.answers)
    assert one.answers.tolist() == [False] * 2 + [True] * 7
    assert unpacked(np.array([2 * 255_999 + 1], np.uint32)).tokens.tolist() == [255_999]


BAD = {
    "no field": ({"inputs": "q"}, r"no field 'messages' \(Instructions\.messages_field\); the record has 'inputs'"),
    "no list": ({"messages": "q"}, "field 'messages' is no list of messages"),
    "a role": ({"messages": [{"role": "gpt", "content": "x"}]}, "message 1 of field 'messages' has the role 'gpt'"),
    "no answer": ({"messages": chat(0)[:1]}, "field 'messages' has no turn of the assistant"),
    "a template's refusal": (
        {"messages": chat(0)[1:]},
        r"the chat template .*tokenizer_config\.json fails: .*A conversation begins with a system or user message, not",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_conversations_are_named_or_counted(kind, tmp_path, reading):
    """Guards against a run that stops without a place, or goes on without a count."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(train_chat_tokenizer(tmp_path, "headers")))
    record, message = BAD[kind]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": chat(0)}) + "\n\n" + json.dumps(record))
    settings = {"paths": (str(tmp_path / "a.jsonl"),), "form": "chats", "repeat_length": 0, "validation_fraction": 0.0}
    with pytest.raises(DataError, match=rf"a\.jsonl:3: {message}.*Instructions\.bad_records=.'skip'"):
        InstructionExamples(Instructions(**settings), reading(longest=200, vocabulary=vocabulary))
    skipping = InstructionExamples(
        Instructions(bad_records="skip", **settings), reading(longest=200, vocabulary=vocabulary)
    )
    assert sum(skipping.skipped.values()) == 1


def test_a_vocabulary_without_a_template():
    """Guards against conversations that are read as something else."""
    with pytest.raises(ConfigError, match=r"Instructions\.form = 'chats' needs .*--gin\.VOCABULARY=.*chat_template"):
        marked({"messages": chat(0)}, Instructions(form="chats"), BYTES)


def test_the_date(tmp_path):
    """Guards against a setting without effect, and against data that change from day to day."""
    path = train_chat_tokenizer(tmp_path, "chatml")
    (tmp_path / "dated.jinja").write_text(
        "{{ strftime_now('%d %b') }}"
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    )
    vocabulary = make_vocabulary(HuggingFaceVocabulary(path, chat_template=str(tmp_path / "dated.jinja")))
    with pytest.raises(ConfigError, match=r"--gin\.Instructions\.date"):
        marked({"messages": chat(0)}, Instructions(form="chats"), vocabulary)
    dated = marked({"messages": chat(0)}, Instructions(form="chats", date="2024-07-26"), vocabulary)
    assert vocabulary.decode(dated.tokens).startswith("26 Jul")


def test_undecodable_answers():
    """Guards against halves of surrogate pairs, which no tokenizer takes."""
    with pytest.raises(BadRecordError, match="half of a surrogate pair"):
        marked({"inputs": "q", "targets": "\ud800"}, Instructions(), BYTES)
