"""famjax.inference.prompts and prompt_records: what is accepted, in which order, and what is refused, and where."""

import gzip
import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from famjax.data.config import HuggingFaceVocabulary, SentencePieceVocabulary
from famjax.data.vocabularies import Bytes, make_vocabulary
from famjax.errors import ConfigError, DataError
from famjax.inference.config import SamplingConfig
from famjax.inference.job_config import InferJob
from famjax.inference.prompts import Start, open_prompts
from vocabulary_files import train_chat_tokenizer, train_sentencepiece

VOCABULARY = Bytes()


def open_lines(folder, *lines, **changes):
    """Opens a file prompts.jsonl of these lines, each a record or bytes."""
    path = folder / "prompts.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return open_prompts(InferJob("run", prompts=str(path), **changes), VOCABULARY)


def read_all(folder, *lines, **changes):
    """The prompts of such a file."""
    with open_lines(folder, *lines, **changes) as prompts:
        assert prompts.count == len(list(prompts.read()))
        return list(prompts.read())


def text_of(prompt):
    """The text that a prompt of bytes encodes."""
    return VOCABULARY.decode(np.concatenate(list(prompt.encode(VOCABULARY))))


def test_records_in_order(tmp_path):
    """Guards against a lost or reordered record, and a blank line counted as one."""
    first, second, third = read_all(
        tmp_path,
        b'\xef\xbb\xbf{"prompt": "one"}\n',
        b" \r\n",
        {"id": [2], "prompt": "zw\u00f6lf"},
        {"tokens": [4, 258]},
    )
    assert [prompt.index for prompt in (first, second, third)] == [0, 1, 2]
    assert [prompt.place.rsplit("/")[-1] for prompt in (first, second, third)] == [
        "prompts.jsonl:1",
        "prompts.jsonl:3",
        "prompts.jsonl:4",
    ]
    assert (text_of(first), text_of(second)) == ("one", "zw\u00f6lf")
    assert second.record["id"] == [2]
    np.testing.assert_array_equal(np.concatenate(list(third.encode(VOCABULARY))), [4, 258])


def test_reading_from_a_number_on(tmp_path):
    """Guards against a resumed run that answers from the beginning, or gives its prompts other numbers or seeds."""
    records = [{"prompt": f"{i}"} for i in range(5)]
    whole = read_all(tmp_path, *records)
    with open_lines(tmp_path, *records) as prompts:
        rest = list(prompts.read(3))
    assert [(each.index, text_of(each), each.sampling) for each in rest] == [
        (each.index, text_of(each), each.sampling) for each in whole[3:]
    ]


def test_records_change_the_sampling(tmp_path):
    """Guards against fields that are accepted and ignored, and against prompts that all draw the same."""
    base = SamplingConfig(max_new_tokens=50, temperature=0.5, stop_strings=("x",), seed=3)
    plain, changed, other = (
        prompt.sampling
        for prompt in read_all(
            tmp_path,
            {"prompt": "a"},
            {"prompt": "b", "max_new_tokens": 2, "seed": 9, "stop": ["\n", "z"]},
            {"prompt": "a"},
            sampling=base,
        )
    )
    assert changed == SamplingConfig(max_new_tokens=2, temperature=0.5, stop_strings=("\n", "z"), seed=9)
    assert (plain.max_new_tokens, plain.stop_strings) == (50, ("x",))
    assert len({plain.seed, other.seed, 3}) == 3


def test_documents_and_snapshots(tmp_path):
    """Guards against a job's document that comes before a record's own, and a record without one that gets none."""
    for name in ("own.txt", "default.txt", "session"):
        (tmp_path / name).write_text("text")
    own, default, session = (str(tmp_path / name) for name in ("own.txt", "default.txt", "session"))
    prompts = read_all(
        tmp_path,
        {"prompt": "q"},
        {"prompt": "q", "document": own},
        {"prompt": "q", "snapshot": session},
        document=default,
    )
    assert [prompt.start for prompt in prompts] == [Start(default), Start(own), Start("", session)]
    assert not read_all(tmp_path, {"prompt": "q"})[0].start


def test_a_question_behind_a_document_has_no_blank_of_its_own(tmp_path):
    """Guards against the blank that SentencePiece puts before a text, put before a question in the middle of one."""
    vocabulary = make_vocabulary(SentencePieceVocabulary(train_sentencepiece(tmp_path)))
    (tmp_path / "document.txt").write_text("the pass key")
    (tmp_path / "question.txt").write_text("twice")
    (alone,) = read_all(tmp_path, {"prompt": "twice"})
    (behind,) = read_all(tmp_path, {"prompt": "twice"}, document=str(tmp_path / "document.txt"))
    ids = [np.concatenate(list(prompt.encode(vocabulary))) for prompt in (alone, behind)]
    before = vocabulary.encode("the pass key")
    assert vocabulary.decode(np.concatenate([before, ids[0]])) == "the pass key twice"
    assert vocabulary.decode(np.concatenate([before, ids[1]])) == "the pass keytwice"
    job = InferJob(
        "run",
        prompts=str(tmp_path / "question.txt"),
        prompt_format="text",
        document=str(tmp_path / "document.txt"),
    )
    with open_prompts(job, vocabulary) as prompts:
        (file,) = prompts.read()
        np.testing.assert_array_equal(np.concatenate(list(file.encode(vocabulary))), ids[1])


def test_text_files(tmp_path):
    """Guards against files in the order of the disk, one file twice, and a name with brackets taken for a pattern."""
    for name in ("b.txt", "d.txt", "a.txt", "e.txt", "c.txt", "[1].txt"):
        (tmp_path / name).write_text(f"text of {name}")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"compressed"))
    (tmp_path / "folder.txt").mkdir()
    patterns = tuple(str(tmp_path / name) for name in ("[1].txt", "b.txt", "*.txt", "a.txt.gz"))
    with open_prompts(InferJob("run", prompts=patterns, prompt_format="text"), VOCABULARY) as prompts:
        found = list(prompts.read())
    names = ["[1].txt", "b.txt", "a.txt", "c.txt", "d.txt", "e.txt", "a.txt.gz"]
    assert [Path(prompt.record["id"]).name for prompt in found] == names
    assert [text_of(prompt) for prompt in found] == [*(f"text of {name}" for name in names[:-1]), "compressed"]


@pytest.mark.parametrize(("prompt_format", "count"), [("json_lines", 2), ("text", 1)])
def test_standard_input(monkeypatch, prompt_format, count):
    """Guards against a stream that is read away by its check."""
    raw = b'{"prompt": "one"}\n{"prompt": "two"}\n'
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(raw)))
    with open_prompts(InferJob("run", prompt_format=prompt_format), VOCABULARY) as prompts:
        texts = [text_of(prompt) for prompt in prompts.read()]
        assert prompts.count == count
    assert texts == (["one", "two"] if count == 2 else [raw.decode()])


BAD_RECORDS = {
    "an empty prompt": ({"prompt": ""}, "an empty prompt"),
    "an empty list of tokens": ({"tokens": []}, "an empty prompt"),
    "no prompt": ({"id": 1, "document": "d.txt"}, 'no prompt: the record has neither "prompt" nor "tokens"'),
    "a misspelled field": ({"promt": "a"}, r"there is no field 'promt'; allowed: prompt, .*metadata"),
    "an unknown token": (
        {"tokens": [3, 259]},
        r"an unknown token: tokens\[1\] is 259; the vocabulary's ids are 0 to 258",
    ),
    "a negative token": ({"tokens": [-1]}, r"an unknown token: tokens\[0\] is -1"),
    "tokens that are text": ({"tokens": ["a"]}, r'"tokens" is \["a"\]; allowed: a list of ids'),
    "a prompt that is a number": ({"prompt": 3}, '"prompt" is 3; allowed: text'),
    "half of a character": (b'{"prompt": "a\\ud800"}\n', '"prompt" is .*surrogate'),
    "prompt and tokens": ({"prompt": "a", "tokens": [3]}, 'both "prompt" and "tokens"'),
    "prompt and messages": ({"prompt": "a", "messages": []}, 'both "prompt" and "messages"'),
    "messages that are text": ({"messages": "a"}, '"messages" is "a"; allowed: a list of messages'),
    "two beginnings": ({"prompt": "a", "document": "d", "snapshot": "s"}, 'both "document" and "snapshot"'),
    "no new tokens": (
        {"prompt": "a", "max_new_tokens": 0},
        '"max_new_tokens" is 0; allowed: a whole number, 1 or more',
    ),
    "a boolean seed": ({"prompt": "a", "seed": True}, '"seed" is true; allowed: a whole number from 0'),
    "a seed that is cut off": ({"prompt": "a", "seed": 2**32}, '"seed" is 4294967296'),
    "one stop string": ({"prompt": "a", "stop": "x"}, '"stop" is "x"; allowed: a list of strings'),
    "an empty stop string": ({"prompt": "a", "stop": [""]}, '"stop" is'),
    "a list": ([1], "a JSON list, not an object"),
    "text": (b"What is it?\n", r"invalid JSON: .*column 1\.\n.*--gin\.PROMPT_FORMAT=\"'text'\""),
    "not a number": (b'{"prompt": "a", "metadata": NaN}\n', "JSON that cannot be decoded: NaN"),
    "infinity": (b'{"prompt": "a", "metadata": 1e999}\n', "JSON that cannot be decoded: 1e999"),
    "Latin-1": (b'{"prompt": "d\xeda"}\n', r"byte 32 of the file, 0xed, is not UTF-8"),
}


def open_chats(folder, *records):
    """Opens records with a vocabulary that has a chat template, and that vocabulary."""
    vocabulary = make_vocabulary(HuggingFaceVocabulary(train_chat_tokenizer(folder, "headers")))
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return open_prompts(InferJob("run", prompts=str(path)), vocabulary), vocabulary


def test_messages(tmp_path):
    """Guards against a conversation written otherwise than in training, a beginning token twice, an endless turn."""
    (tmp_path / "book.txt").write_text("a book")
    messages = [{"role": "user", "content": "Hi "}]
    opened, vocabulary = open_chats(
        tmp_path, {"messages": messages}, {"messages": messages, "document": str(tmp_path / "book.txt")}
    )
    with opened as prompts:
        read = list(prompts.read())
        first, behind = (np.concatenate(list(prompt.encode(vocabulary))) for prompt in read)
    text = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    np.testing.assert_array_equal(first, vocabulary.encode(text))
    np.testing.assert_array_equal(behind, [vocabulary.bos_id, *first])
    assert {prompt.sampling.stop_tokens for prompt in read} == {tuple(vocabulary.encode("<|eot_id|>").tolist())}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "field 'messages' is no list of messages"),
        ([{"role": "gpt", "content": "x"}], "has the role 'gpt'; allowed: system,"),
        ([{"role": "assistant", "content": "x"}], r"tokenizer_config\.json fails: A conversation begins with"),
    ],
)
def test_bad_messages(tmp_path, messages, message):
    """Guards against a traceback of the template's, and a conversation that is answered although it is none."""
    opened, _ = open_chats(tmp_path, {"messages": [{"role": "user", "content": "x"}]}, {"messages": messages})
    with pytest.raises(DataError, match=rf"chats\.jsonl:2: .*{message}"), opened:
        pytest.fail("a bad record was accepted")


def test_messages_without_a_template(tmp_path):
    """Guards against a conversation that a model without a chat template is asked in a form of somebody's own."""
    opened = open_lines(tmp_path, {"messages": [{"role": "user", "content": "x"}]})
    with pytest.raises(ConfigError, match=r"prompts\.jsonl:1: .*need a vocabulary with a chat template.*VOCABULARY"):
        opened.__enter__()


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records(tmp_path, name):
    """Guards against a run that begins, and fails hours later at one of them, or answers something else."""
    line, message = BAD_RECORDS[name]
    with (
        pytest.raises(DataError, match=rf"(?s)prompts\.jsonl:2: .*{message}") as error,
        open_lines(tmp_path, {"prompt": "good"}, line),
    ):
        pytest.fail("a bad record was accepted")
    assert error.value.exit_code == 3


def test_files_that_are_none(tmp_path):
    """Guards against a run over no prompts, and a traceback of the system's."""
    (tmp_path / "blank.jsonl").write_text("\n\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"abc\xed")
    for changes, message in (
        ({"prompts": str(tmp_path / "no*.jsonl")}, r"No file matches '.*no\*\.jsonl' \(InferJob\.prompts"),
        ({"prompts": "gs://my-runs/a.jsonl"}, r"never read from gs://: write '/gcs/my-runs/a\.jsonl'"),
        ({"prompts": str(tmp_path)}, r"is a folder, not a file \(InferJob\.prompts\)"),
        ({"prompts": str(tmp_path / "blank.jsonl")}, r"There is no prompt in .*blank\.jsonl"),
        ({"prompts": str(tmp_path / "empty.txt"), "prompt_format": "text"}, r"empty\.txt: an empty text"),
        ({"prompts": str(tmp_path / "latin.txt"), "prompt_format": "text"}, r"latin\.txt: byte 3, 0xed, is not UTF-8"),
    ):
        with pytest.raises(DataError, match=message), open_prompts(InferJob("run", **changes), VOCABULARY):
            pytest.fail("accepted")


def test_documents_are_looked_at_first(tmp_path):
    """Guards against a misspelled document that is found after all the prompts before it."""
    (tmp_path / "empty.txt").write_text("")
    for record, message in (
        ({"document": str(tmp_path / "nowhere.txt")}, r"nowhere\.txt cannot be read: No such file"),
        ({"document": str(tmp_path)}, "is a folder, not a file"),
        ({"document": str(tmp_path / "empty.txt")}, "an empty text"),
        ({"snapshot": str(tmp_path / "nowhere.npz")}, r"nowhere\.npz cannot be read: No such file"),
    ):
        with pytest.raises(DataError, match=message), open_lines(tmp_path, {"prompt": "q", **record}):
            pytest.fail("accepted")


def test_the_digest_changes_with_the_contents(tmp_path):
    """Guards against results continued behind those of other prompts, or of a document that was changed since."""
    document = tmp_path / "document.txt"
    document.write_text("before")
    record = {"prompt": "q", "document": str(document)}

    def digest(*lines, **changes):
        with open_lines(tmp_path, *lines, **changes) as prompts:
            return prompts.digest

    first = digest(record)
    assert digest(record, sampling=SamplingConfig(max_new_tokens=3)) == first, "settings are told apart by their names"
    others = [
        digest(record | {"prompt": "r"}),
        digest(record, record),
        digest(record | {"id": 1}),
        digest({"prompt": "q"}),
    ]
    others.append(digest({"prompt": "q"}, document=str(document)))
    document.write_text("after")
    others.append(digest(record))
    assert len({first, *others}) == 7
