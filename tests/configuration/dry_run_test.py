"""famjax.configuration.dry_run."""

import pytest

from command_line import COMPLETE, invoke


@pytest.fixture
def printed(capsys):
    """What a dry run of a tiny model prints."""
    outcome = invoke(capsys, [*COMPLETE, "--gin.FAM_LENGTH=8", "--gin.NUM_MICROBATCHES=4", "--dry_run"])
    assert outcome.code == 0
    return outcome.stdout


def row(printed: str, name: str) -> list[str]:
    """Returns the words of the first row of that name."""
    return next(line.split() for line in printed.splitlines() if line.split()[:1] == [name])


def test_every_value_stands_with_its_source(printed):
    """A value whose source is not shown cannot be corrected."""
    assert row(printed, "total_steps") == ["total_steps", "10", "--gin.TRAIN_STEPS"]
    assert row(printed, "fam_length") == ["fam_length", "8", "--gin.FAM_LENGTH"]
    assert row(printed, "num_layers")[1] == "3"
    assert "tiny.gin:" in row(printed, "num_layers")[2]
    assert row(printed, "rope_base") == ["rope_base", "10000.0", "default"]


def test_scoped_settings_are_shown_under_the_name_that_sets_them(printed):
    """train/DataConfig and eval/DataConfig are two."""
    assert "\ndata = train/DataConfig\n" in printed
    assert "\neval_data = eval/DataConfig\n" in printed


def test_tasks_that_are_not_read_are_left_out(printed):
    """Twenty tasks' settings stand before those that matter; and one that a mixture names is read too."""
    assert printed.count("data.tasks['documents'] = Documents") >= 1
    assert "Babilong" not in printed


def test_a_mixture_shows_its_tasks(capsys):
    """A task whose settings the run reads and nobody sees."""
    flags = ["--gin.MIXTURE_OR_TASK_NAME='documents_and_passkeys'", "--dry_run"]
    printed = invoke(capsys, [*COMPLETE, *flags]).stdout
    for task in ("documents_and_passkeys", "passkey_documents", "documents"):
        assert f"data.tasks['{task}'] = " in printed


def test_parameters_are_counted_by_formula(printed):
    """The count decides whether a model fits."""
    embedding = 264 * 128
    layer = 2 * 128 + 4 * 128 * 128 + 3 * 128 * 384
    rest = 3 * layer + 128 + 8 * 128
    assert f"Parameters: {embedding + rest:,} = {embedding:,} of the embedding + {rest:,} of the rest" in printed


def test_what_is_trained_is_counted(capsys):
    """Whether a finetuning freezes what it should shows before it runs."""
    files = ["runs/finetune.gin", "finetuning/lora.gin", "models/tiny.gin", "memory/fam.gin"]
    flags = ["--gin.INITIAL_CHECKPOINT_PATH='/tmp/a'", "--gin.MODEL_DIR='/tmp/b'", "--gin.TRAIN_STEPS=1"]
    flags += ["--gin.MIXTURE_OR_TASK_NAME='passkey'", "--gin.TASK_FEATURE_LENGTHS={'targets': 256}"]
    flags += ["--gin.FAM_LENGTH=8", "--gin.LORA_RANK=2", "--gin.LORA_PATTERNS=['layers/mlp/.*']"]
    outcome = invoke(capsys, [*(f"--gin_file={file}" for file in files), *flags, "--dry_run"])
    assert outcome.code == 0
    assert f"trained: {3 * 3 * 2 * (128 + 384) + 8 * 128:,}; the rest is frozen" in outcome.stdout


def test_batch_shapes_are_shown(printed):
    """With the parts that gradients are accumulated over."""
    assert "tokens int32[16, T]" in printed
    assert "T = 256; in 4 microbatches" in printed


def test_curriculum_shows_the_length_of_each_stage(capsys):
    """Each stage is a compiled shape."""
    stages = "--gin.Curriculum.stages=[{'max_length': 64, 'steps': 5}, {'max_length': 96}]"
    assert "T = 64, then 96" in invoke(capsys, [*COMPLETE, stages, "--dry_run"]).stdout


def test_evaluation_shows_its_lengths(capsys):
    """The model of an evaluation is that of the checkpoint, which a dry run does not open."""
    flags = ["--gin.CHECKPOINT_PATH='/tmp/a'", "--gin.EVAL_OUTPUT_DIR='/tmp/b'", "--gin.MIXTURE_OR_TASK_NAME='passkey'"]
    flags += ["--gin.TASK_FEATURE_LENGTHS={'targets': 256}", "--gin.EvalJob.lengths=[64, 128]"]
    outcome = invoke(capsys, ["--run_mode=eval", "--gin_file=runs/eval.gin", *flags, "--dry_run"])
    assert outcome.code == 0
    assert "those of the checkpoint" in outcome.stdout
    assert "T = 64, 128" in outcome.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gin.MIXTURE_OR_TASK_NAME='pasky'"], "pasky"),
        (["--gin.TASK_FEATURE_LENGTHS={'inputs': 8, 'targets': 8}"], "has the feature 'targets' only"),
        (["--gin.TransformerConfig.vocab_size=100"], "smaller than the task's vocabulary of 259"),
        (["--gin.AdamW.freeze=('layers/atention/.*',)"], "matches no parameter"),
        (["--gin.EVAL_STEPS=None", "--gin.eval/DataConfig.split='train'"], "set --gin.EVAL_STEPS"),
    ],
    ids=["task", "features", "vocabulary", "pattern", "endless"],
)
def test_what_a_run_would_refuse_is_refused(capsys, flags, said):
    """A dry run that passes and a run that then fails at its start: what was it for?"""
    outcome = invoke(capsys, [*COMPLETE, *flags, "--dry_run"])
    assert outcome.code == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
