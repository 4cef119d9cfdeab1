"""`--run_mode=infer` from prompts to results."""

import dataclasses
import json
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import write_checkpoint

from famjax.data.config import ByteVocabulary
from famjax.data.vocabularies import Bytes
from famjax.errors import CheckpointError, ConfigError, DataError, Stopped
from famjax.inference import answering
from famjax.inference.answering import Answerer
from famjax.inference.compiling import COMPILING
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.inference.infer import infer
from famjax.inference.job_config import InferJob
from famjax.inference.language_model import LanguageModel
from famjax.inference.programs import Programs
from famjax.inference.progress import Progress
from famjax.inference.text_stream import read_text
from famjax.pods.config import MeshConfig

ONE_DEVICE = MeshConfig(num_devices=1)
SAMPLING = SamplingConfig(max_new_tokens=9, temperature=1.0, num_samples=2, logprobs=True, stop_at_eos=False, seed=5)
LINES = [" ".join(f"word{i * j}" for j in range(4 * i + 1)) for i in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, prompts of many lengths, two documents."""
    folder = tmp_path_factory.mktemp("infer")
    write_checkpoint(folder)
    (folder / "first.txt").write_text("A long text about grass. " * 20)
    (folder / "second.txt").write_text("Another about the sky. " * 7)
    documents = [{"document": str(folder / name)} for name in ("first.txt", "second.txt", "first.txt")]
    records = [{"prompt": line, "id": i} for i, line in enumerate(LINES)]
    records[3:6] = [record | document for record, document in zip(records[3:6], documents, strict=True)]
    records.append({"tokens": [70, 71], "max_new_tokens": 3, "metadata": {"from": "a test"}})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def opened(folder):
    """The checkpoint, restored once for all tests."""
    return LanguageModel.open(str(folder / "run"), batch_size=3, chunk_blocks=2, mesh=ONE_DEVICE)


@pytest.fixture
def job(folder, opened, tmp_path, monkeypatch):
    """A job of three prompts a batch, whose results go to the test's folder."""
    monkeypatch.setattr(LanguageModel, "open", lambda *_, batch_size, **__: opened.with_batch_size(batch_size))
    return InferJob(
        checkpoint=str(folder / "run"),
        prompts=str(folder / "prompts.jsonl"),
        output=str(tmp_path / "results.jsonl"),
        sampling=SAMPLING,
        batch_size=3,
        chunk_blocks=2,
        mesh=ONE_DEVICE,
    )


@pytest.fixture(scope="module")
def expected(folder, opened):
    """What each prompt is answered alone, by a session."""
    answers = []
    for line in (folder / "prompts.jsonl").read_text().splitlines():
        record = json.loads(line)
        session = opened.session()
        if "document" in record:
            session.read_file(record["document"])
        session.read_tokens(record.get("tokens") or Bytes().encode(record["prompt"]))
        answers.append((record, session))
    return answers


def results_of(job):
    """The lines that a run leaves."""
    infer(job)
    return [json.loads(line) for line in Path(job.output).read_text().splitlines()]


def test_results(job, expected, opened):
    """Guards against answers of another row, document, seed or sample, and against fields that say something else."""
    results = results_of(job)
    assert [result["index"] for result in results] == list(range(8))
    for result, (record, session) in zip(results, expected, strict=True):
        sampling = dataclasses.replace(
            SAMPLING, seed=result["seed"], max_new_tokens=record.get("max_new_tokens", SAMPLING.max_new_tokens)
        )
        rows = opened.select(session.context, [0, 0])
        _, generations = opened.generate(rows, sampling, [0, 1])
        for completion, generation in zip(result["completions"], generations, strict=True):
            assert completion["tokens"] == generation.tokens.tolist()
            assert completion["text"] == generation.text
            assert completion["num_tokens"] == sampling.max_new_tokens
            assert completion["finish_reason"] == "length"
            np.testing.assert_allclose(completion["logprobs"], generation.logprobs, rtol=1e-4)
        assert result["prompt_tokens"] + result["context_tokens"] == session.num_tokens
        assert (result["context_tokens"] > 0) == ("document" in record)
        assert (result["id"], result.get("metadata")) == (record.get("id"), record.get("metadata"))
        assert result["unknown_tokens"] == 0
    assert len({result["seed"] for result in results}) == 8


def test_the_batch_does_not_matter(job, tmp_path):
    """Guards against answers that depend on the prompts beside them, or on rows that only fill a batch up."""
    three = results_of(job)
    five = results_of(dataclasses.replace(job, batch_size=5, output=str(tmp_path / "five.jsonl")))
    assert [[c["tokens"] for c in r["completions"]] for r in three] == [
        [c["tokens"] for c in r["completions"]] for r in five
    ]


@pytest.mark.parametrize("done", [1, 3, 7, 8])
def test_a_second_run_goes_on_where_the_first_was_killed(job, done, capsys):
    """Guards against a file that differs from that of one run: doubled, lost, or drawn with other seeds."""
    results_of(job)
    path = Path(job.output)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:done]) + b"".join(lines[done : done + 1])[:20])
    capsys.readouterr()
    infer(job)
    assert path.read_bytes() == whole
    assert f"{done} of 8 results already" in capsys.readouterr().err


def test_a_signal_stops_behind_the_batch(job, opened, monkeypatch):
    """Guards against a batch that is lost to a scheduler's SIGTERM, and an exit code that says finished."""
    whole = results_of(job)
    path = Path(job.output)
    path.unlink()
    finished = Answerer._generate

    def generate(self, context, batch):
        signal.raise_signal(signal.SIGTERM)
        return finished(self, context, batch)

    monkeypatch.setattr(Answerer, "_generate", generate)
    with pytest.raises(Stopped, match="SIGTERM: stopped with 3 of 8 prompts answered") as error:
        infer(job)
    assert error.value.exit_code == 143
    assert len(path.read_text().splitlines()) == 3
    monkeypatch.undo()
    monkeypatch.setattr(LanguageModel, "open", lambda *_, **__: opened.with_batch_size(3))
    assert results_of(job) == whole


def test_a_signal_stops_a_long_text(job, monkeypatch):
    """Guards against hours of reading behind a SIGTERM, which a scheduler does not wait for."""

    def show(self):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "show", show)
    with pytest.raises(Stopped, match=r"stopped while reading\. The same command goes on behind"):
        infer(job)
    assert Path(job.output).read_text() == ""
    with pytest.raises(Stopped, match=r"A second run begins anew; .*--gin\.OUTPUT_FILE"):
        infer(dataclasses.replace(job, output="-"))


def test_a_signal_stops_a_compilation(job, opened, monkeypatch, capsys):
    """Guards against minutes of silence, and of deafness to a scheduler's SIGTERM, while steps are compiled."""
    release = threading.Event()

    def compile_for_ever(self, *_):
        signal.raise_signal(signal.SIGTERM)
        release.wait(60)

    # Programs of their own, of which nothing is compiled.
    fresh = dataclasses.replace(opened, batch_size=3, chunk_blocks=1)
    monkeypatch.setattr(LanguageModel, "open", lambda *_, **__: fresh)
    monkeypatch.setattr(Programs, "_compile", compile_for_ever)
    began = time.monotonic()
    with pytest.raises(Stopped, match=r"SIGTERM arrived during compilation\. The same command goes on") as error:
        infer(job)
    assert time.monotonic() - began < 50
    release.set()
    assert error.value.exit_code == 143
    assert capsys.readouterr().err.splitlines() == [COMPILING]


def test_documents_are_read_once(job, folder, tmp_path, monkeypatch):
    """Guards against a document that is read again for every question about it."""
    read = []
    monkeypatch.setattr(answering, "read_text", lambda path: read.append(Path(path).name) or read_text(path))
    results_of(job)
    assert read == ["first.txt", "second.txt"]
    prompts = tmp_path / "questions.jsonl"
    prompts.write_text('{"prompt": "who?"}\n' * 7)
    read.clear()
    document = str(folder / "first.txt")
    changed = dataclasses.replace(job, prompts=str(prompts), document=document, output=str(tmp_path / "other.jsonl"))
    results = results_of(changed)
    assert read == ["first.txt"]
    assert {result["context_tokens"] for result in results} == {500}


def test_a_saved_session(job, opened, folder, tmp_path):
    """Guards against a saved session that is answered from without what it had read."""
    session = opened.session()
    session.read_file(folder / "first.txt")
    session.save(tmp_path / "session.npz")
    prompts = tmp_path / "two.jsonl"
    records = [
        {"prompt": "who?", name: str(path), "seed": 1}
        for name, path in (("snapshot", tmp_path / "session.npz"), ("document", folder / "first.txt"))
    ]
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    from_session, from_document = results_of(dataclasses.replace(job, prompts=str(prompts)))
    assert from_session["completions"] == from_document["completions"]
    assert from_session["context_tokens"] == from_document["context_tokens"] == 500


def test_results_of_other_settings_stay(job):
    """Guards against a file whose halves are drawn in different ways."""
    results_of(job)
    for changes, message in (
        ({"sampling": dataclasses.replace(SAMPLING, temperature=0.5)}, r"sampling\.temperature 1\.0 there, 0\.5 here"),
        ({"document": job.prompts}, "prompts "),
    ):
        with pytest.raises(DataError, match=rf"(?s)of another run: {message}.*--gin\.OUTPUT_FILE"):
            infer(dataclasses.replace(job, **changes))


def test_greedy_text_files(job, folder):
    """Guards against a file that is not answered as the same text in a record, and a seed told where none is used."""
    greedy = SamplingConfig(max_new_tokens=4, stop_at_eos=False)
    changes = {"prompts": str(folder / "*.txt"), "prompt_format": "text", "sampling": greedy}
    first, second = results_of(dataclasses.replace(job, **changes))
    assert [Path(result["id"]).name for result in (first, second)] == ["first.txt", "second.txt"]
    assert first["prompt_tokens"] == 500
    assert set(first) == {"index", "id", "completions", "prompt_tokens", "context_tokens", "unknown_tokens"}
    assert set(first["completions"][0]) == {"text", "finish_reason", "num_tokens"}


def test_an_unknown_stop_token(job, monkeypatch):
    """Guards against a stop token that never comes, and against one found after the checkpoint is restored."""
    monkeypatch.setattr(LanguageModel, "open", lambda *_, **__: pytest.fail("opened"))
    for token, message in (
        (259, "stop_tokens has 259; the vocabulary's ids are 0 to 258"),
        ("ab", "has 'ab', which is"),
    ):
        with pytest.raises(ConfigError, match=message):
            infer(dataclasses.replace(job, sampling=dataclasses.replace(SAMPLING, stop_tokens=(token,))))


def test_bad_places_are_found_before_the_checkpoint_is_restored(job, tmp_path, monkeypatch):
    """Guards against minutes of restoring in front of a misspelled path."""
    monkeypatch.setattr(LanguageModel, "open", lambda *_, **__: pytest.fail("opened"))
    for changes in ({"prompts": str(tmp_path / "nowhere")}, {"output": str(tmp_path)}):
        with pytest.raises(DataError):
            infer(dataclasses.replace(job, **changes))


def test_unknown_text_is_counted(job, opened, folder, tmp_path, monkeypatch):
    """Guards against text that the model does not see, in silence."""
    prompts = tmp_path / "unknown.jsonl"
    prompts.write_text(json.dumps({"prompt": "a??b", "document": str(folder / "first.txt")}) + "\n")
    monkeypatch.setattr(Bytes, "unk_id", Bytes.OFFSET + ord("?"))
    (result,) = results_of(dataclasses.replace(job, prompts=str(prompts)))
    assert result["unknown_tokens"] == 2


def test_a_prompt_without_a_token(job, tmp_path, monkeypatch):
    """Guards against an answer to nothing, where a vocabulary drops all of a prompt (SentencePiece drops blanks)."""
    prompts = tmp_path / "blank.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": " "}\n')
    encode = Bytes.encode
    monkeypatch.setattr(Bytes, "encode", lambda self, text: encode(self, text.strip()))
    with pytest.raises(DataError, match=r"blank\.jsonl:2: an empty prompt: its text has no token"):
        infer(dataclasses.replace(job, prompts=str(prompts)))


def test_the_settings_reach_the_model(folder, monkeypatch):
    """Guards against a memory, a mesh, a base or a vocabulary that is set and not used."""
    given = {}
    settings = {
        "memory": MemoryOverrides(with_fam=False),
        "mesh": ONE_DEVICE,
        "batch_size": 5,
        "chunk_blocks": 3,
        "base": "elsewhere",
    }

    def opened(checkpoint, vocabulary, **others):
        given.update(others, checkpoint=checkpoint, vocabulary=vocabulary)
        raise CheckpointError("as asked for")

    monkeypatch.setattr(LanguageModel, "open", opened)
    with pytest.raises(CheckpointError, match="as asked for"):
        infer(InferJob("run", str(folder / "prompts.jsonl"), **settings))
    assert given == settings | {"checkpoint": "run", "vocabulary": ByteVocabulary()}


def test_a_missing_checkpoint(folder, tmp_path):
    """Guards against a traceback for a misspelled path."""
    with pytest.raises(CheckpointError, match=r"(?s)nowhere.*--gin\.CHECKPOINT_PATH"):
        infer(InferJob(str(tmp_path / "nowhere"), str(folder / "prompts.jsonl")))


@pytest.mark.parametrize(("batch_size", "num_devices", "is_told"), [(3, 2, True), (4, 2, False), (1, 2, False)])
def test_devices_that_do_the_same_work_are_told(folder, caplog, batch_size, num_devices, is_told):
    """Guards against eight devices that are as fast as one, and nobody knows why."""
    LanguageModel.open(str(folder / "run"), batch_size=batch_size, mesh=MeshConfig(num_devices=num_devices))
    said = "Batches of 3 rows do not divide over 2 data-parallel devices" in caplog.text
    assert said == is_told
