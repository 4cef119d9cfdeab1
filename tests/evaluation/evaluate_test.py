"""`--run_mode=eval` from a checkpoint to its results."""

import dataclasses
import json
import signal
from pathlib import Path

import pytest

from famjax.data.vocabularies import Bytes
from famjax.errors import CheckpointError, ConfigError, DataError, Stopped
from famjax.evaluation import evaluate as module
from famjax.evaluation.config import EvalJob
from famjax.evaluation.evaluate import evaluate
from famjax.pods.watching import Watch
from famjax.training.checkpoints import Checkpointer
from famjax.training.program import make_program
from tiny_job import BATCH, MODEL, make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> EvalJob:
    """An evaluation of a checkpoint of initial parameters, saved after step 7."""
    folder = tmp_path_factory.mktemp("runs")
    training = make_job(folder, "run")
    with Checkpointer(training.model_dir, training.checkpoint, training.model) as checkpointer:
        checkpointer.save(7, make_program(training).init(), {"vocabulary": "bytes"}, force=True)
    data = dataclasses.replace(
        training.data, mixture_or_task_name="recall", split="validation", shuffle=False, prefetch=0
    )
    return EvalJob(training.model_dir, data, str(folder / "results"), position_buckets=3)


@pytest.fixture(scope="module")
def results(job):
    """What is returned for two lengths."""
    return evaluate(dataclasses.replace(job, lengths=(20, 32), output_dir=job.output_dir + "/two"))


def test_results_are_written_as_returned(job, results):
    """Guards against a file that lacks a length, or says something else than the table."""
    lines = (Path(job.output_dir) / "two" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == results
    assert [result["length"] for result in results] == [20, 32]
    for result in results:
        assert result["checkpoint"].endswith("/run/checkpoint_7")
        assert (result["step"], result["task"], result["split"]) == (7, "recall", "validation")
        assert (result["examples"], result["targets"]) == (BATCH, BATCH), "one digit in each is asked for"
        assert 4 < result["loss"] < 8, "an untrained model of 259 ids"
        assert 0 <= result["exact_match"] <= 1


def test_positions_are_equal_parts(results):
    """Guards against a part whose limits are not those of its tokens; only the answer has weight, and stands last."""
    for result in results:
        (part,) = result["by_position"]
        length = result["length"]
        assert (part["begin"], part["end"]) == (-(-2 * length // 3), length)
        assert part["loss"] == pytest.approx(result["loss"])
        assert part["accuracy"] == result["accuracy"]


def test_the_data_decides_the_length(job, monkeypatch):
    """Guards against lengths=() that evaluates nothing, and against a second evaluation added to the first's file."""
    seen = []

    def evaluate_length(job, model, params, length, stop, watch):
        seen.append((length, model))
        return {"length": 32, "loss": 1.0, "accuracy": 0.5, "by_position": []}

    monkeypatch.setattr(module, "_evaluate_length", evaluate_length)
    for _ in range(2):
        evaluate(job)
    # Dropout is no part of what is computed, and stays as the checkpoint has it.
    assert seen == [(None, MODEL), (None, MODEL)]
    assert len((Path(job.output_dir) / "results.jsonl").read_text().splitlines()) == 1


def test_an_example_shorter_than_its_question(job):
    """The message says how long an example must be, and which flags set it."""
    with pytest.raises(ConfigError, match="10 tokens has no room") as error:
        evaluate(dataclasses.replace(job, lengths=(10,), output_dir=job.output_dir + "/short"))
    assert error.value.exit_code == 2


def test_another_vocabulary_than_in_training(job, monkeypatch):
    """Guards against ids of one vocabulary scored as those of another, with figures that look plausible."""
    monkeypatch.setattr(Bytes, "fingerprint", "other bytes")
    with pytest.raises(ConfigError, match=r"another vocabulary than .*ByteVocabulary.*--gin\.VOCABULARY"):
        evaluate(job)


def test_data_is_read_before_anything_is_compiled(job, monkeypatch):
    """Guards against an empty split that is found after the lengths before it, and against results lost to it."""
    monkeypatch.setattr(module, "compile_evaluation", lambda *arguments, **settings: pytest.fail("compiled"))
    folder = Path(job.output_dir) / "kept"
    folder.mkdir(parents=True)
    (folder / "results.jsonl").write_text("of an earlier run")
    with pytest.raises(ConfigError, match="10 tokens has no room"):
        evaluate(dataclasses.replace(job, lengths=(32, 10), output_dir=str(folder)))
    assert (folder / "results.jsonl").read_text() == "of an earlier run"


def test_a_missing_checkpoint(job, tmp_path):
    """Guards against an evaluation of initial parameters because the path is misspelled."""
    with pytest.raises(CheckpointError, match=r"(?s)nowhere.*--gin\.CHECKPOINT_PATH") as error:
        evaluate(dataclasses.replace(job, checkpoint=str(tmp_path / "nowhere")))
    assert error.value.exit_code == 4


def test_a_folder_that_cannot_be_written(job, tmp_path):
    """Guards against an evaluation of hours whose results go nowhere."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be written.*--gin\.EVAL_OUTPUT_DIR"):
        evaluate(dataclasses.replace(job, output_dir=str(tmp_path / "file" / "results")))


def test_a_model_that_does_not_fit(job):
    """Guards against parameters of another shape that are read in part."""
    wider = dataclasses.replace(MODEL, mlp_dim=24)
    with pytest.raises(CheckpointError, match="mlp"):
        evaluate(dataclasses.replace(job, model=wider))
    with pytest.raises(ConfigError, match="vocab_size = 100 is smaller than the task's vocabulary of 259"):
        evaluate(dataclasses.replace(job, model=dataclasses.replace(MODEL, vocab_size=100)))


def test_a_batch_that_does_not_divide(job):
    """Guards against a failure inside jax where rows do not divide over eight devices."""
    with pytest.raises(ConfigError, match="batch_size = 12"):
        evaluate(dataclasses.replace(job, data=dataclasses.replace(job.data, batch_size=12)))


def test_data_without_a_batch(job, monkeypatch):
    """Guards against a mean over nothing."""
    monkeypatch.setattr(module, "device_batches", lambda *arguments: iter(()))
    monkeypatch.setattr(module, "compile_evaluation", lambda *arguments, **settings: None)
    with pytest.raises(DataError, match=r"recall, split 'validation', gave no batch"):
        evaluate(job)


def test_a_signal_keeps_what_is_written(job, monkeypatch):
    """Guards against a scan that loses its finished lengths, or that writes half of one."""
    finished = {"length": 20, "loss": 1.0, "accuracy": 0.5, "by_position": []}
    real = module._evaluate_length

    def evaluate_length(job, model, params, length, stop, watch):
        return finished if length == 20 else real(job, model, params, length, stop, watch)

    def batches(*arguments):
        signal.raise_signal(signal.SIGTERM)
        yield {}

    went_on = []
    monkeypatch.setattr(Watch, "went_on", lambda watch: went_on.append(1))
    monkeypatch.setattr(module, "_evaluate_length", evaluate_length)
    monkeypatch.setattr(module, "compile_evaluation", lambda *arguments, **settings: None)
    monkeypatch.setattr(module, "device_batches", batches)
    output_dir = job.output_dir + "/stopped"
    with pytest.raises(Stopped) as error:
        evaluate(dataclasses.replace(job, lengths=(20, 32), output_dir=output_dir))
    assert error.value.exit_code == 143
    (line,) = (Path(output_dir) / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["length"] == 20
    assert went_on == [1], "each batch of a long evaluation begins its time anew"


def test_lengths_with_and_without_answers():
    """Guards against a KeyError, after the last length, where one length has no answers."""
    answered = {"length": 20, "loss": 1.0, "accuracy": 0.5, "answer_accuracy": 0.25, "exact_match": 0.125}
    bare = {"length": 32, "loss": 2.0, "accuracy": 0.75}
    for results in ([answered, bare], [bare, answered]):
        table = module.results_table(results)
        assert [column.header for column in table.columns] == [
            "length",
            "loss",
            "accuracy",
            "answer accuracy",
            "exact match",
        ]
        rows = set(zip(*(column.cells for column in table.columns), strict=True))
        assert rows == {
            ("20", "1.0000", "0.5000", "0.2500", "0.1250"),
            ("32", "2.0000", "0.7500", "-", "-"),
        }
    assert len(module.results_table([bare]).columns) == 3


def test_numbers_that_are_not_finite_are_strings(tmp_path):
    """Guards against lines that are not JSON where a diverged model is evaluated."""
    values = {"loss": float("inf"), "by_position": [{"begin": 0, "loss": float("nan"), "accuracy": 0.5}]}
    module._append(str(tmp_path), {"length": 20, **values})
    line = (tmp_path / "results.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "length": 20,
        "loss": "Infinity",
        "by_position": [{"begin": 0, "loss": "NaN", "accuracy": 0.5}],
    }
