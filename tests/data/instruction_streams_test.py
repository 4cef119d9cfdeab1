"""Streamed records: those of `famjax.data.instructions` in the rows of `famjax.data.document_rows`."""

import dataclasses

import numpy as np
import pytest

from famjax.data.config import DataConfig, HuggingFaceVocabulary
from famjax.data.document_rows import BlockShape
from famjax.data.feeding import open_document_batches
from famjax.data.instructions_config import Instructions
from famjax.data.vocabularies import Bytes, make_vocabulary
from published_fixtures import write_rows
from vocabulary_files import train_chat_tokenizer

SHAPE = BlockShape(num_blocks=3, block_size=16)
PROMPT = "[repeat random segment]:"


def rows(count=14):
    """Records of 8 to 112 tokens, some longer than a row."""
    return [{"inputs": f"q{n:02d}", "targets": f"a{n:02d}" + "yz" * 4 * n} for n in range(count)]


@pytest.fixture
def task(tmp_path):
    """Fourteen records in both splits, without repetition."""
    path = write_rows(tmp_path / "a.jsonl", rows())
    return Instructions(paths=(path,), validation_paths=(path,), repeat_length=0, prompt_weight=0.25)


def data_of(task, **changes):
    """The task in three rows."""
    data = DataConfig("records", {"targets": SHAPE.length}, 3, "validation", tasks={"records": task}, seed=1)
    return dataclasses.replace(data, **changes)


def records_of(batches):
    """What every row reads, record by record: inputs, targets, weights and answers, an array each."""
    found = [[] for _ in range(3)]
    for batch in batches:
        for row in range(3):
            for block, length in enumerate(batch["block_lengths"][row]):
                if batch["begins"][row, block]:
                    found[row].append([])
                slots = slice(block * SHAPE.block_size, block * SHAPE.block_size + length)
                names = ("tokens", "targets", "weights", "answers")
                if length:
                    found[row][-1] += zip(*(batch[name][row, slots].tolist() for name in names), strict=True)
    return [tuple(map(np.array, zip(*record, strict=True))) for row in found for record in row]


def check_record(inputs, targets, weights, answers, num_own):
    """A record has its prompt of 4 bytes, its answer, an end token, and no input but its own."""
    assert inputs.tolist() == [Bytes().bos_id, *targets[:-1]]
    is_answer = (np.arange(len(targets)) >= 4) & (np.arange(len(targets)) < num_own)
    np.testing.assert_array_equal(answers, is_answer)
    np.testing.assert_array_equal(weights[:num_own], np.where(is_answer[:num_own], 1.0, 0.25))
    assert targets[num_own - 1] == Bytes().eos_id


def test_records_begin_with_a_block_and_keep_their_weights(task):
    """Guards against records that run into each other, are cut or lost, and weights that stay behind or pad."""
    batches = list(open_document_batches(data_of(task), SHAPE))
    assert len(batches) > 3
    texts = {}
    for inputs, targets, weights, answers in records_of(batches):
        check_record(inputs, targets, weights, answers, len(targets))
        texts[Bytes().decode(targets)] = len(targets)
    assert sorted(texts) == [f"{row['inputs']}\n{row['targets']}" for row in rows()]
    assert max(texts.values()) > SHAPE.length
    for batch in batches:
        assert not (batch["weights"].any(where=~batch["valid"]))
        assert not (batch["answers"].any(where=~batch["valid"]))


def test_each_record_ends_with_a_part_of_itself(task):
    """Guards against a repetition of another record, of another length or weight, that moves between two batches."""
    repeating = dataclasses.replace(task, repeat_length=10)
    drawn = []
    for seed in (1, 2):
        starts = {}
        for inputs, targets, weights, answers in records_of(
            open_document_batches(data_of(repeating, seed=seed), SHAPE)
        ):
            own, _, _ = Bytes().decode(targets).partition(PROMPT)
            num_own = len(own) + 1
            check_record(inputs, targets, weights, answers, num_own)
            repeated = targets[num_own + len(PROMPT) :]
            assert len(repeated) == min(10, num_own)
            places = [n for n in range(num_own) if (targets[n : n + len(repeated)] == repeated).all()]
            assert places[0] + len(repeated) <= num_own
            starts[own] = places[0]
            np.testing.assert_array_equal(weights[num_own : num_own + len(PROMPT)], 0.0)
            np.testing.assert_array_equal(weights[num_own + len(PROMPT) :], np.float32(0.1))
        assert len(starts) == 14
        drawn.append(starts)
    assert drawn[0] != drawn[1]


def test_an_epoch_draws_anew(task, tmp_path):
    """Guards against a part that is drawn once for a record and repeated in every epoch."""
    path = write_rows(tmp_path / "one.jsonl", [{"inputs": "q", "targets": "".join(map(chr, range(48, 112)))}])
    one = dataclasses.replace(task, paths=(path,), repeat_length=4)
    batches = open_document_batches(data_of(one, split="train"), SHAPE)
    records = records_of([next(batches) for _ in range(12)])
    repeated = [Bytes().decode(targets).partition(PROMPT)[2] for _, targets, *_ in records]
    assert len({text for text in repeated if len(text) == 4}) > 3


def test_a_beginning_token_is_read_once(tmp_path):
    """Guards against a conversation whose template writes the beginning token that the row has already."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(train_chat_tokenizer(tmp_path, "headers")))
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = write_rows(tmp_path / "chats.jsonl", [{"messages": chat}] * 3)
    task = Instructions(paths=(path,), validation_paths=(path,), form="chats", repeat_length=0)
    data = data_of(task, vocabulary=HuggingFaceVocabulary(str(tmp_path / "tokenizer.json")))
    records = records_of(open_document_batches(data, SHAPE))
    expected = vocabulary.chat.conversation(chat, None)
    assert expected.tokens[0] == vocabulary.bos_id
    for inputs, targets, _, answers in records:
        assert [*inputs, targets[-1]] == expected.tokens.tolist()
        np.testing.assert_array_equal(answers, expected.answers[1:])
    assert len(records) == 3


def test_resuming_on_other_hosts(task):
    """Guards against records that come again or never, segments drawn anew, and a token before a batch that is none."""
    data = data_of(dataclasses.replace(task, repeat_length=10), split="train")
    batches = open_document_batches(data, SHAPE)
    for _ in range(3):
        next(batches)
    state = batches.state()
    assert any(place and place[2] > 0 for place in state["places"]), "a row is in the middle of a record"
    hosts = [open_document_batches(data, SHAPE, rows=(host,), state=state) for host in range(3)]
    for _ in range(20):
        whole, parts = next(batches), [next(host) for host in hosts]
        for name, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[name] for part in parts]), err_msg=name)
    assert hosts[0].state() == batches.state()
