"""Tests of famjax.data.instructions."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from famjax.data import registry
from famjax.data.config import DataConfig, HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.feeding import open_batches
from famjax.data.instructions import InstructionExamples
from famjax.data.instructions_config import Instructions
from famjax.data.vocabularies import Bytes, make_vocabulary
from famjax.errors import ConfigError, DataError
from published_fixtures import write_rows

BYTES = Bytes()
END = "\0"
PROMPT = "[repeat random segment]:"


def rows(count=40):
    """Records that can be told apart wherever one is cut."""
    return [
        {"inputs": f"q{number:02d} " + "x" * (number % 7), "targets": f"a{number:02d} " + "y" * (number % 5)}
        for number in range(count)
    ]


def text_of(ids):
    """The text of bytes, with their end token as NUL."""
    return "".join(END if i == BYTES.eos_id else BYTES.decode([i]) for i in ids.tolist())


@pytest.fixture
def config(tmp_path):
    """Forty records in two files, in both splits, without repetition."""
    paths = tuple(write_rows(tmp_path / f"{part}.jsonl", rows()[part::2]) for part in range(2))
    return Instructions(paths=paths, validation_paths=paths, repeat_length=0)


def in_order(config):
    """The texts of all records, as they lie in the files."""
    records = [json.loads(line) for path in config.paths for line in Path(path).read_text().splitlines()]
    return [f"{record['inputs']}\n{record['targets']}{END}" for record in records]


def epoch(examples):
    """All examples of a split that ends."""
    return [examples[index] for index in range(examples.size)]


def test_weights_and_answers_by_token(config, reading):
    """Guards against prompts that are learnt, answers that are not, and an end token on the wrong side."""
    (record, *_) = rows()
    example = InstructionExamples(config, reading(longest=30, split="validation", shuffle=False))[0]
    text = text_of(example.targets)
    assert text.startswith(f"{record['inputs']}\n{record['targets']}{END}q02")
    is_answer = [number for number, inside in enumerate(example.answers) if inside]
    first, second = text.index("a00"), text.index("a02")
    ends = [number + 1 for number, character in enumerate(text) if character == END]
    assert is_answer == [*range(first, ends[0]), *range(second, ends[1])]
    np.testing.assert_array_equal(example.weights, np.where(example.answers, 1.0, 0.0))
    light = dataclasses.replace(config, prompt_weight=0.25)
    weighted = InstructionExamples(light, reading(longest=30, split="validation", shuffle=False))[0]
    np.testing.assert_array_equal(weighted.weights, np.where(example.answers, 1.0, 0.25))


@pytest.mark.parametrize("shuffle", [True, False])
def test_packing_loses_and_doubles_no_token(config, reading, shuffle):
    """Guards against records that an epoch repeats, cuts or loses, and examples above the length."""
    examples = InstructionExamples(config, reading(longest=64, split="validation", shuffle=shuffle))
    texts = [text_of(example.targets) for example in epoch(examples)]
    assert max(map(len, texts)) <= 64
    assert sum(map(len, texts)) > 0.8 * 64 * (len(texts) - 1)  # packed, indeed
    records = "".join(texts).split(END)[:-1]
    assert sorted(records) == sorted(record.removesuffix(END) for record in in_order(config))
    assert ("".join(texts) == "".join(in_order(config))) is not shuffle


def test_training_goes_on_in_another_order(config, reading):
    """Guards against a training split that ends, or packs the same records together in every epoch."""
    examples = InstructionExamples(config, reading(longest=64))
    assert examples.size is None
    stream = "".join(text_of(examples[index].targets) for index in range(60)).split(END)
    first, second = stream[:40], stream[40:80]
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_repeated_segment_is_consecutive_and_from_the_example(config, reading):
    """Guards against a repetition of other tokens, of another length or weight, and always of the same place."""
    repeating = dataclasses.replace(config, repeat_length=16)
    examples = InstructionExamples(repeating, reading(longest=100, split="validation"))
    starts = set()
    for example in epoch(examples):
        text = text_of(example.targets)
        assert len(text) <= 100
        records, repeated = text.split(PROMPT)
        assert len(repeated) == 16
        assert repeated in records
        starts.add(records.index(repeated))
        behind = len(records) + len(PROMPT)
        np.testing.assert_array_equal(example.weights[len(records) : behind], 0.0)
        np.testing.assert_array_equal(example.weights[behind:], np.float32(0.1))
        assert not example.answers[len(records) :].any()
        assert example.answers[: len(records)].any()
    assert len(starts) > len(epoch(examples)) / 2
    assert min(starts) < 10
    assert max(starts) > 25


def test_a_short_example_is_repeated_whole(config, reading, tmp_path):
    """Guards against an exception for a last example with fewer tokens than are to be repeated."""
    path = write_rows(tmp_path / "one.jsonl", rows(1))
    one = dataclasses.replace(config, paths=(path,), validation_paths=(path,), repeat_length=200)
    example = InstructionExamples(one, reading(longest=300, split="validation"))[0]
    text = text_of(example.targets)
    assert text == f"q00 \na00 {END}{PROMPT}q00 \na00 {END}"


def test_the_paper_s_length_of_8704_tokens(reading, tmp_path):
    """Guards against a packed part other than what 256 repeated tokens and their prompt leave of the length."""
    records = [{"inputs": "x" * 200, "targets": "y" * 98}] * 100  # 300 tokens with separator and end
    path = write_rows(tmp_path / "many.jsonl", records)
    config = Instructions(paths=(path,), validation_paths=(path,))
    example = InstructionExamples(config, reading(longest=8704))[0]
    assert len(example.targets) == (8704 - 256 - len(PROMPT)) // 300 * 300 + len(PROMPT) + 256


def test_examples_are_a_function_of_the_seed_and_the_index(config, reading):
    """Guards against a resumed run that draws other segments or packs otherwise."""
    repeating = dataclasses.replace(config, repeat_length=8)
    examples = InstructionExamples(repeating, reading(longest=80))
    texts = [text_of(examples[index].targets) for index in range(30)]
    again = InstructionExamples(repeating, reading(longest=80))
    assert [text_of(again[index].targets) for index in reversed(range(30))] == texts[::-1]
    other = InstructionExamples(repeating, reading(longest=80, seed=1))
    assert text_of(other[0].targets) != texts[0]


def test_batches_resume(config):
    """Guards against a place in the data that loses or repeats examples."""
    repeating = dataclasses.replace(config, repeat_length=8)
    settings = DataConfig("instructions", {"targets": 80}, 3, tasks={"instructions": repeating}, prefetch=0)
    batches = open_batches(settings)
    before = [next(batches) for _ in range(3)]
    state = batches.state()
    expected = [next(batches) for _ in range(8)]  # over the end of the epoch
    resumed = open_batches(settings, state=state)
    for one in expected:
        for name, value in next(resumed).items():
            np.testing.assert_array_equal(value, one[name])
    assert not np.array_equal(before[0]["targets"], expected[0]["targets"])


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizer"])
def test_other_vocabularies(config, reading, kind, sentencepiece_path, tokenizer_path):
    """Guards against answers that begin a token late, or text that changes, where a token is more than a byte."""
    vocabulary = make_vocabulary(
        SentencePieceVocabulary(sentencepiece_path)
        if kind == "sentencepiece"
        else HuggingFaceVocabulary(tokenizer_path, eos_token="</s>")
    )
    repeating = dataclasses.replace(config, repeat_length=5)
    examples = InstructionExamples(repeating, reading(longest=90, split="validation", vocabulary=vocabulary))
    found = []
    for example in epoch(examples):
        runs = itertools.groupby(zip(example.targets.tolist(), example.answers.tolist(), strict=True), lambda it: it[1])
        groups = [(inside, [token for token, _ in group]) for inside, group in runs]
        assert all(ids[-1] == vocabulary.eos_id for inside, ids in groups if inside)
        found += [vocabulary.decode(ids) for inside, ids in groups if inside]
    assert sorted(text.strip() for text in found) == sorted(row["targets"].strip() for row in rows())


def test_long_records(config, reading):
    """Guards against examples that are cut or left out without a word."""
    longest = max(in_order(config), key=len)
    fits = reading(longest=len(longest), split="validation", shuffle=False)
    assert "too_long" not in InstructionExamples(config, fits).skipped
    short = reading(longest=len(longest) - 1, split="validation", shuffle=False)
    with pytest.raises(DataError, match=rf"jsonl:\d+: a record of {len(longest)} tokens.*'skip'.*'cut'"):
        InstructionExamples(config, short)

    room = 9  # "q00 \na00 \0" is 10 tokens; of prompts longer than 9 no answer remains
    reading_of_room = reading(longest=room, split="validation", shuffle=False)
    texts = in_order(config)
    with pytest.raises(DataError, match=r"No record fits into the room of 9.*shortest of 40 has 10"):
        InstructionExamples(dataclasses.replace(config, long_records="skip"), reading_of_room)
    cut = InstructionExamples(dataclasses.replace(config, long_records="cut"), reading_of_room)
    kept = [text[:room] for text in texts if text.index("\n") + 1 < room]
    assert 0 < len(kept) < len(texts)
    assert [text_of(example.targets) for example in epoch(cut)] == kept
    assert cut.skipped == {"cut_at_its_end": len(kept), "too_long": len(texts) - len(kept)}

    some = reading(longest=15, split="validation", shuffle=False)
    left_out = InstructionExamples(dataclasses.replace(config, long_records="skip"), some)
    fitting = [text for text in texts if len(text) <= 15]
    assert "".join(text_of(example.targets) for example in epoch(left_out)) == "".join(fitting)
    assert left_out.skipped == {"too_long": len(texts) - len(fitting)}


def test_too_short_an_example_says_what_it_needs(config, reading):
    """Guards against an endless search where the repetition alone fills an example."""
    with pytest.raises(ConfigError, match=r"280 tokens has no room for records beside the 256.*and the 24"):
        InstructionExamples(dataclasses.replace(config, repeat_length=256), reading(longest=280))


def test_bad_records_are_named_or_counted(config, reading, tmp_path):
    """Guards against a run that stops without a place, or goes on without a count."""
    lines = [
        json.dumps(rows()[0]),
        "",
        json.dumps({"inputs": "only"}),
        "{",
        json.dumps({"inputs": "", "targets": "x"}),
        json.dumps({"inputs": "a", "targets": 7}),
    ]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(lines))
    bad = dataclasses.replace(config, paths=(str(path),))
    with pytest.raises(DataError, match=r"bad\.jsonl:3: no field 'targets'.*Instructions\.bad_records=.'skip'"):
        InstructionExamples(bad, reading())
    skipping = InstructionExamples(dataclasses.replace(bad, bad_records="skip"), reading())
    assert skipping.skipped == {"missing_field": 3, "invalid_json": 1}
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": []}))
    with pytest.raises(DataError, match=r"of chats, whose form is --gin\.Instructions\.form=.'chats'"):
        InstructionExamples(dataclasses.replace(config, paths=(str(chats),)), reading())
    assert text_of(skipping[0].targets) == f"q00 \na00 {END}"


@pytest.mark.parametrize("name", ["a.ndjson", "a.jsonl.gz", "a.parquet"])
def test_other_forms_of_files(config, reading, tmp_path, name):
    """Guards against a file form that the other tasks read and this one does not, and places that lead nowhere."""
    path = write_rows(tmp_path / name, [{"question": "q" * 9, "answer": "a"}, {"question": "q" * 80, "answer": "b"}])
    fields = {"inputs_field": "question", "targets_field": "answer", "separator": "="}
    other = dataclasses.replace(config, paths=(path,), validation_paths=(path,), **fields)
    place = r"a\.parquet, row 2" if name.endswith("parquet") else rf"{name}:2"
    with pytest.raises(DataError, match=rf"{place}: a record of 83 tokens"):
        InstructionExamples(other, reading(longest=64))
    examples = InstructionExamples(other, reading(longest=96, split="validation", shuffle=False))
    assert text_of(examples[0].targets) == f"{'q' * 9}=a{END}{'q' * 80}=b{END}"


def test_files_are_split_as_documents_are(tmp_path, reading):
    """Guards against validation on what was trained on."""
    for number in range(6):
        write_rows(tmp_path / f"{number}.jsonl", [rows()[number]])
    config = Instructions(paths=(f"{tmp_path}/*.jsonl",), validation_fraction=0.5, repeat_length=0)
    records = {}
    for split in ("train", "validation"):
        examples = InstructionExamples(config, reading(longest=20, split=split))
        texts = [text_of(examples[index % (examples.size or 6)].targets) for index in range(6)]
        records[split] = {record for text in texts for record in text.split(END)}
    train, validation = records["train"], records["validation"]
    assert len(train | validation) == 7  # and the empty text behind the last end
    assert train & validation == {""}


def test_missing_files_are_named(reading):
    """Guards against an empty setting that silently reads something else, and against another task's name."""
    with pytest.raises(ConfigError, match=r"Instructions\.paths is empty"):
        InstructionExamples(Instructions(), reading())
    with pytest.raises(ConfigError, match=r"Instructions\.paths is empty"):
        InstructionExamples(Instructions(validation_paths=("a",)), reading())
    with pytest.raises(DataError, match=r"No file matches 'nothing\*' \(Instructions\.paths"):
        InstructionExamples(Instructions(paths=("nothing*",)), reading())


def test_encoded_records_are_kept(config, reading, tmp_path):
    """Guards against a cache that belongs to other settings."""
    cached = dataclasses.replace(config, cache_dir=str(tmp_path / "cache"))
    ends = reading(longest=64, split="validation", shuffle=False)
    for separator in ("\n", "="):
        settings = dataclasses.replace(cached, separator=separator)
        plain = InstructionExamples(dataclasses.replace(settings, cache_dir=None), ends)
        assert text_of(InstructionExamples(settings, ends)[0].targets) == text_of(plain[0].targets)
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2


def test_seqio_has_the_same_examples(config):
    """Guards against a seqio task of another content."""
    import seqio

    from famjax.data import seqio_tasks

    repeating = dataclasses.replace(config, repeat_length=8)
    try:
        seqio_tasks.register_tasks({"instructions": repeating})
        task = seqio.get_mixture_or_task("instructions")
        theirs = list(task.get_dataset({"targets": 80}, "validation", shuffle=True, seed=3).as_numpy_iterator())
    finally:
        seqio_tasks.register_tasks()
    settings = DataConfig("instructions", {"targets": 80}, 1, "validation", seed=3, tasks={"instructions": repeating})
    ours = list(open_batches(settings))
    assert len(ours) == len(theirs) > 5
    for one, other in zip(ours, theirs, strict=True):
        for name in ("targets", "weights", "answers"):
            np.testing.assert_array_equal(one[name][0][one["valid"][0]], other[name])


def test_it_is_a_task():
    """Guards against a task that no name leads to."""
    assert registry.BUILT_IN["instructions"] == Instructions()
