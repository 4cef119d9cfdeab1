"""The real lm-evaluation-harness on local tasks, with a famjax model; famjax's own scoring is the reference."""

import dataclasses
import datetime as dt
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra lm_eval)")

import lm_eval
import lm_eval.api.registry
import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_harness_checkpoint import save_talkative_checkpoint

from famjax.data.config import HuggingFaceVocabulary
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.evaluation import lm_harness, lm_harness_model
from famjax.evaluation.lm_harness import evaluate_harness_task, register
from famjax.evaluation.lm_harness_model import FamjaxLM
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.inference.language_model import LanguageModel
from famjax.inference.requests import generate, score_continuations, score_documents
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.pods.mesh import make_mesh, use_mesh
from finetuned import MEMORY_ONLY, write_base, write_finetuning
from tiny_language_model import make_model
from tolerances import FLOAT32, assert_close
from vocabulary_files import HEADERS, train_chat_tokenizer

TASKS = Path(__file__).parent / "lm_harness_tasks"
NAMES = ("famjax_generate", "famjax_choice", "famjax_rolling", "famjax_last_word")
GENERATE, CHOICE, ROLLING, LAST_WORD = NAMES
ANSWER = SamplingConfig(max_new_tokens=12, stop_strings=("\n", "\0"))


@pytest.fixture(scope="module", autouse=True)
def _local_tasks_only():
    """Leaves out the harness's own thousands of tasks, whose index takes seconds; the command's process has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm_eval.tasks, "TaskManager", functools.partial(TaskManager, include_defaults=False))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run's folder."""
    return save_talkative_checkpoint(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def model(checkpoint):
    """Reads two rows at a time."""
    return LanguageModel.open(checkpoint, batch_size=2, chunk_blocks=2)


@pytest.fixture(scope="module")
def questions():
    """The documents of the tasks."""
    return [json.loads(line) for line in (TASKS / "questions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def answers(model, questions):
    """What famjax's own generation says to each prompt, one at a time."""
    encode = model.vocabulary.encode
    return [next(generate(model, [encode(question["prompt"])], ANSWER))[0] for question in questions]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, questions, answers):
    """The folder of the tasks; every other answer that is right is the model's own."""
    folder = tmp_path_factory.mktemp("tasks")
    for path in TASKS.iterdir():
        (folder / path.name).write_text(path.read_text().replace("DATA", str(folder)))
    with (folder / "generate.jsonl").open("w") as file:
        for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            right = answer.text if number % 2 else answer.text + "?"
            file.write(json.dumps({"prompt": question["prompt"], "answer": right}) + "\n")
    return str(folder)


@pytest.fixture(scope="module")
def results(model, tasks):
    """Each task through the harness."""
    return {name: evaluate_harness_task(model, name, include_path=tasks) for name in NAMES}


def by_continuation(model, question):
    """famjax's own (log-likelihood, is greedy) of each choice."""
    encode = model.vocabulary.encode
    context, rest = question["prompt"].rstrip(" "), question["prompt"][len(question["prompt"].rstrip(" ")) :]
    choices = [encode(f"{rest} {text}") for text in question["choices"]]
    (scores,) = score_continuations(model, [encode(context)], [choices])
    return tuple((float(np.sum(score.logprobs, dtype=np.float64)), bool(score.greedy.all())) for score in scores)


def test_answers_are_famjaxs_own(results, answers):
    """Guards against another prompt, another end of an answer, or an answer given to another question."""
    result = results[GENERATE]
    assert [sample.responses for sample in result.samples] == [(answer.text,) for answer in answers]
    assert len({answer.text for answer in answers}) == len(answers), "answers that differ, or their order is not tested"
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    assert result.metrics["exact_match"].scores == (0, 1, 0, 1, 0, 1)
    assert result.metrics["exact_match"].value == 0.5
    assert result.generated_tokens == sum(len(answer.tokens) for answer in answers)


def test_choices_are_famjaxs_own(model, results, questions):
    """Guards against a space lost between prompt and choice, and against scores that a batch changes."""
    result = results[CHOICE]
    expected = [by_continuation(model, question) for question in questions]
    assert_close([sample.responses for sample in result.samples], expected, FLOAT32)
    right, right_by_bytes = [], []
    for question, scores in zip(questions, expected, strict=True):
        likelihoods = np.array([likelihood for likelihood, _ in scores])
        num_bytes = np.array([len(text.encode()) for text in question["choices"]])
        right.append(float(likelihoods.argmax() == question["gold"]))
        right_by_bytes.append(float((likelihoods / num_bytes).argmax() == question["gold"]))
    assert result.metrics["acc"].scores == tuple(right)
    assert result.metrics["acc_bytes"].scores == tuple(right_by_bytes)
    assert 0 < result.metrics["acc"].value < 1
    assert right != right_by_bytes


def test_a_prompt_is_read_once_for_all_its_choices(model, tasks, questions, monkeypatch):
    """Guards against a long prompt that is read anew for each choice, and against a prompt that is cut."""
    seen = []
    read_rows = LanguageModel.read

    def read_and_note(model, context, rows):
        seen.extend(model.vocabulary.decode(row) for row in rows)
        return read_rows(model, context, rows)

    monkeypatch.setattr(LanguageModel, "read", read_and_note)
    result = evaluate_harness_task(model, CHOICE, include_path=tasks, limit=5)
    prompts = [question["prompt"].rstrip(" ") for question in questions[:5]]
    assert len(prompts) % model.batch_size == 1, "the last batch has a row to spare"
    assert sorted(seen) == sorted([*prompts, ""])
    assert result.prompt_tokens == sum(len(prompt.encode()) for prompt in prompts)


def test_whole_documents(model, results, questions):
    """Guards against a document that is cut or scored in windows, and against a first token without its loss."""
    result = results[ROLLING]
    documents = [model.vocabulary.encode(question["text"]) for question in questions]
    expected = [float(np.sum(next(score_documents(model, [ids])).logprobs, dtype=np.float64)) for ids in documents]
    assert [sample.responses for sample in result.samples] == [(value,) for value in expected]
    num_bytes = sum(map(len, documents))
    assert num_bytes > 40 * model.config.memory.block_size
    assert result.metrics["bits_per_byte"].value == pytest.approx(-sum(expected) / num_bytes / np.log(2))
    assert result.metrics["bits_per_byte"].scores == ()
    assert (result.primary, result.prompt_tokens) == ("byte_perplexity", num_bytes)


def test_log_likelihoods_are_those_of_the_plain_model(model, results, questions):
    """Guards against a beginning token that is missing or doubled: the model's own pass over whole texts decides."""
    encode = model.vocabulary.encode
    rows = [encode(f"{question['prompt']} {question['choices'][question['gold']]}") for question in questions]
    logprobs = plain_logprobs(model, rows)
    for row, sample, question in zip(logprobs, results[LAST_WORD].samples, questions, strict=True):
        ((likelihood, _),) = sample.responses
        assert_close(likelihood, float(row[len(encode(question["prompt"].rstrip(" "))) :].sum()), FLOAT32)


def plain_logprobs(model, rows):
    """Log-probability of each token of each row: the model reads the beginning token and all of the row at once."""
    network = Transformer(model.config)
    inputs = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for row, ids in enumerate(rows):
        inputs[row, : len(ids)] = [model.vocabulary.bos_id, *ids[:-1]]  # padding comes last, where it changes nothing

    @jax.jit
    def compute(params, tokens):
        hidden = read(network, params, tokens, initial_state(network, params, len(rows))).hidden
        return jax.nn.log_softmax(logits(network, params, hidden))

    with use_mesh(make_mesh(model.mesh), model.mesh):
        logprobs = np.asarray(compute(model.params, jnp.asarray(inputs)))
    return [logprobs[row, np.arange(len(ids)), ids] for row, ids in enumerate(rows)]


def test_an_empty_prompt_is_the_beginning_token(model, results, questions):
    """Guards against a choice whose first token has no loss where nothing stands before it."""
    (index,) = [index for index, question in enumerate(questions) if not question["prompt"]]
    documents = [model.vocabulary.encode(f" {choice}") for choice in questions[index]["choices"]]
    expected = [float(np.sum(score.logprobs)) for score in score_documents(model, documents)]
    assert [likelihood for likelihood, _ in results[CHOICE].samples[index].responses] == pytest.approx(expected)


@pytest.fixture(scope="module")
def command(checkpoint, tasks, tmp_path_factory):
    """What the command line writes for all tasks, each line of samples by task, and its results."""
    output = tmp_path_factory.mktemp("output")
    arguments = [f"--model_args=checkpoint={checkpoint},chunk_blocks=2", "--batch_size=2", f"--include_path={tasks}"]
    done = run_command([*arguments, f"--tasks={','.join(NAMES)}", f"--output_path={output}", "--log_samples"])
    assert done.returncode == 0, done.stderr
    (path,) = output.rglob("results_*.json")
    samples = {}
    for name in NAMES:
        (file,) = output.rglob(f"samples_{name}_*.jsonl")
        samples[name] = [json.loads(line) for line in file.read_text().splitlines()]
    return json.loads(path.read_text()), samples


def run_command(arguments):
    """Runs `famjax-lm-eval --model famjax` in a process of its own that reaches no network."""
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "famjax.evaluation.lm_harness", "--model", "famjax", *arguments]
    return subprocess.run(command, env=os.environ | offline, capture_output=True, text=True, check=False)


def test_the_command_gives_the_same_scores(command, results):
    """Guards against a scan and a command line that disagree about an example."""
    written, samples = command
    for name in NAMES:
        for metric, value in results[name].metrics.items():
            assert written["results"][name][f"{metric},none"] == value.value
        for line, sample in zip(samples[name], results[name].samples, strict=True):
            responses = [response for repeats in line["resps"] for response in repeats]
            assert responses == [as_written(response) for response in sample.responses]


def as_written(response):
    """A response as the harness's file has it: numbers as text."""
    return [str(part) for part in response] if isinstance(response, tuple) else str(response)


def test_the_command_writes_which_model_it_was(command, model):
    """Guards against results of which nobody knows the checkpoint or the memory."""
    written, _ = command
    config = written["config"]
    assert (config["model"], config["step"], config["model_sha"]) == ("famjax", 7, model.fingerprint)
    assert config["checkpoint"].endswith("/run/checkpoint_7")
    assert config["memory"]["fam_length"] == model.config.memory.fam_length
    assert config["model_num_parameters"] == sum(leaf.size for leaf in jax.tree.leaves(model.params))


def test_the_command_tells_mistakes_in_one_line(monkeypatch, capsys, checkpoint, tasks):
    """Guards against a traceback where the user wrote a wrong argument."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # the command sets it, which is to be undone
    arguments = ["famjax-lm-eval", "--model", "famjax", "--tasks", CHOICE, "--include_path", tasks]
    monkeypatch.setattr(sys, "argv", [*arguments, "--model_args", "checkpoint=run,blocks=3"])
    assert lm_harness.main() == ConfigError.exit_code
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("--model_args blocks=... does not exist; allowed: checkpoint")
    monkeypatch.setattr(sys, "argv", [*arguments, "--model_args", f"checkpoint={checkpoint}", "--apply_chat_template"])
    assert lm_harness.main() == ConfigError.exit_code
    assert "--apply_chat_template needs a vocabulary with a chat template" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*arguments, "--model_args", "checkpoint=/no/run"])
    assert lm_harness.main() == CheckpointError.exit_code
    assert "/no/run (--model_args checkpoint=...) does not exist" in capsys.readouterr().err


def test_a_chat_template_is_refused_before_anything_is_read(model):
    """Guards against a template that is asked for and left out, where a task builds no chat."""
    with pytest.raises(ConfigError, match="needs a vocabulary with a chat template"):
        FamjaxLM(model).chat_template(True)
    assert not FamjaxLM(model).chat_template(False)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A model with random parameters, whose vocabulary has a chat template."""
    path = train_chat_tokenizer(tmp_path_factory.mktemp("vocabulary"), "headers")
    vocabulary = make_vocabulary(HuggingFaceVocabulary(path))
    return dataclasses.replace(make_model(vocab_size=vocabulary.vocab_size), vocabulary=vocabulary)


def test_prompts_by_a_chat_template(chat_model, tasks, questions, monkeypatch):
    """Guards against a template left out, a second beginning token, and answers that go on behind their turn."""
    asked = []
    monkeypatch.setattr(
        lm_harness_model, "generate", lambda model, *requests: asked.append(requests) or generate(model, *requests)
    )
    lm_eval.simple_evaluate(
        model=FamjaxLM(chat_model),
        tasks=[GENERATE],
        task_manager=lm_eval.tasks.TaskManager(include_path=tasks),
        apply_chat_template=True,
        limit=2,
        bootstrap_iters=0,
    )
    ((prompts, samplings),) = asked
    chat = chat_model.vocabulary.chat
    turns = [{"role": "user", "content": question["prompt"]} for question in questions[:2]]
    expected = [chat.prompt([turn], dt.datetime.now())[1:].tolist() for turn in turns]
    assert sorted(prompt.tolist() for prompt in prompts) == sorted(expected)
    assert chat_model.vocabulary.bos_id not in prompts[0]
    (end_of_turn,) = chat.ids("<|eot_id|>")
    assert all(end_of_turn in sampling.stop_tokens for sampling in samplings)


def test_what_a_chat_template_is_asked_for(chat_model, tmp_path):
    """Guards against an answer that is begun and closed at once, and mistakes that end in a traceback."""
    lm = FamjaxLM(chat_model)
    assert lm.chat_template(True) == HEADERS
    with pytest.raises(ConfigError, match="tool_use: a vocabulary has one chat template, without a name"):
        lm.chat_template("tool_use")
    begun = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The key is "}]
    text = lm.apply_chat_template(begun, add_generation_prompt=False)
    assert text.startswith("<|begin_of_text|>")
    assert text.endswith("<|end_header_id|>\n\nThe key is")
    assert lm.tok_encode(text) == chat_model.vocabulary.encode(text)[1:].tolist()
    with pytest.raises(DataError, match=r"--apply_chat_template: .*A conversation begins with a system"):
        lm.apply_chat_template(begun[1:])


def test_lm_eval_is_optional(monkeypatch, capsys):
    """Guards against a traceback where the extra is not installed."""
    monkeypatch.setattr(lm_harness.importlib.util, "find_spec", lambda name: None)
    assert lm_harness.main() == ConfigError.exit_code
    assert capsys.readouterr().err == "lm-eval is not installed: pip install 'famjax[lm_eval]'.\n"


def test_registration_keeps_the_harness_models():
    """Guards against "famjax" as the only model there is, and against a second registration that fails."""
    register()
    register()
    assert lm_eval.api.registry.get_model("famjax") is FamjaxLM
    assert "dummy" in lm_eval.api.registry.model_registry


def test_model_args_open_the_model(checkpoint):
    """Guards against arguments that do not reach the model; a batch size of --model_args comes before --batch_size."""
    lm = FamjaxLM.create_from_arg_string(
        f"checkpoint={checkpoint},block_size=4,num_segments=2,with_fam=False,batch_size=3,seed=5",
        {"batch_size": 1, "max_batch_size": None, "device": None},
    )
    memory = lm.model.config.memory
    assert (memory.block_size, memory.num_segments, memory.fam_length) == (4, 2, 0)
    assert (lm.model.batch_size, lm.seed) == (3, 5)


def test_the_base_of_a_finetuning_that_moved(tmp_path):
    """Guards against a base=... that is taken and not used."""
    finetuning = write_finetuning(tmp_path, "user", write_base(tmp_path), **MEMORY_ONLY).model_dir
    there = LanguageModel.open(finetuning)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="to where the base is now"):
        FamjaxLM.create_from_arg_string(f"checkpoint={finetuning}")
    here = FamjaxLM.create_from_arg_string(f"checkpoint={finetuning},base={tmp_path / 'moved'}")
    assert here.model.fingerprint == there.fingerprint


@pytest.mark.parametrize(
    ("task", "settings", "error", "message"),
    [
        ("famjax_words", {}, ConfigError, "is a group; name its tasks, one a cell: famjax_choice, famjax_last_word"),
        ("no_such_task", {}, ConfigError, "'no_such_task' is no task of lm-eval, nor in "),
        (CHOICE, {"limit": 0}, ConfigError, "limit = 0; allowed: 1 or more"),
        (CHOICE, {"include_path": "/no/such/folder"}, ConfigError, "there is no such folder"),
    ],
)
def test_tasks_that_cannot_be_run(model, tasks, task, settings, error, message):
    """Guards against the harness's tracebacks where a scan names a wrong task."""
    with pytest.raises(error, match=message):
        evaluate_harness_task(model, task, **({"include_path": tasks} | settings))


def test_data_that_is_not_there(model, tasks, tmp_path):
    """The message names the task whose data are missing."""
    text = (Path(tasks) / "choice.yaml").read_text()
    path = tmp_path / "lost.yaml"
    path.write_text(text.replace("famjax_choice", "famjax_lost").replace("questions.jsonl", "lost.jsonl"))
    with pytest.raises(DataError, match=r"data of the task 'famjax_lost' cannot be read: .*lost.jsonl"):
        evaluate_harness_task(model, "famjax_lost", include_path=str(tmp_path))


def test_limit_and_examples_shown(model, tasks, results):
    """Guards against a limit that is ignored, and few-shot examples that are not drawn from the seed."""
    limited = evaluate_harness_task(model, CHOICE, include_path=tasks, limit=2)
    assert limited.samples == results[CHOICE].samples[:2]
    shown = [evaluate_harness_task(model, CHOICE, include_path=tasks, num_fewshot=2, seed=s) for s in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2]
    assert shown[0].prompt_tokens > results[CHOICE].prompt_tokens


def test_drawn_answers(model, tasks, tmp_path):
    """Guards against repeats that say the same, and against answers that cannot be drawn again."""
    text = (Path(tasks) / "generate.yaml").read_text().replace("famjax_generate", "famjax_drawn")
    drawn = text.replace("do_sample: false", "do_sample: true\n  temperature: 1.0") + "repeats: 3\n"
    (tmp_path / "drawn.yaml").write_text(drawn)
    first, again, other = (
        evaluate_harness_task(model, "famjax_drawn", include_path=str(tmp_path), seed=seed) for seed in (1, 1, 9)
    )
    assert first.samples == again.samples
    for sample, differing in zip(first.samples, other.samples, strict=True):
        assert len(set(sample.responses)) == 3
        assert set(sample.responses).isdisjoint(differing.responses)


def test_responses_are_cached(model, tasks, results, tmp_path, monkeypatch):
    """Guards against results that --use_cache cannot keep or find again: the second time nothing is computed."""

    def run():
        return lm_eval.simple_evaluate(
            model=FamjaxLM(model),
            tasks=list(NAMES),
            task_manager=lm_eval.tasks.TaskManager(include_path=tasks),
            use_cache=str(tmp_path / "responses"),
            bootstrap_iters=0,
        )

    first = run()
    for name in ("score_continuations", "score_documents", "generate"):
        monkeypatch.setattr(lm_harness_model, name, None)
    assert run()["results"] == first["results"]
    assert first["results"][CHOICE]["acc,none"] == results[CHOICE].metrics["acc"].value


def test_memory_changes_the_scores(model, tasks, results):
    """Guards against a memory override that is not read with, in the model that the harness asks."""
    other = model.with_memory(MemoryOverrides(num_segments=0, with_fam=False))
    without = evaluate_harness_task(other, ROLLING, include_path=tasks)
    assert without.samples != results[ROLLING].samples
