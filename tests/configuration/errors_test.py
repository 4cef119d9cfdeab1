"""Every mistake in a configuration: the message that a user reads, and exit code 2."""

import pytest

from command_line import COMPLETE, FILES, REQUIRED_FLAGS, invoke

# (the flags, what the message must say)
NAMES = {
    "macro_of_another_file": (
        ["--gin.LORA_RANK=8"],
        ["--gin.LORA_RANK", "It is used in --gin_file=finetuning/lora.gin."],
    ),
    "macro_on_the_command_line": (["--gin.TRIAN_STEPS=3"], ["--gin.TRIAN_STEPS", "Did you mean TRAIN_STEPS?"]),
    "parameter_without_its_class": (["--gin.beta2=0.5"], ["--gin.beta2", "AdamW.beta2"]),
    "parameter": (["--gin.AdamW.beta_1=0.5"], ["--gin.AdamW.beta_1", "no parameter 'beta_1'", "Did you mean beta1?"]),
    "scoped_parameter": (["--gin.train/DataConfig.sed=1"], ["--gin.train/DataConfig.sed", "Did you mean seed?"]),
    "configurable": (["--gin.AdmW.beta1=0.5"], ["--gin.AdmW.beta1", "'AdmW'", "Did you mean AdamW?"]),
    "reference": (["--gin.OPTIMIZER=@Adafcator()"], ["--gin.OPTIMIZER", "'Adafcator'", "Did you mean Adafactor?"]),
    "macro_in_a_value": (["--gin.EVAL_PERIOD=%TRAIN_STEP"], ["--gin.EVAL_PERIOD", "Did you mean TRAIN_STEPS?"]),
    "flag": (["--gin_flie=a.gin"], ["gin_flie", "gin_file"]),
    "run_mode": (["--run_mode=trian"], ["trian", "train|eval"]),
    "no_flag": (["train"], ["'train' is not a flag"]),
}
TYPES = {
    "float_for_int": (
        ["--gin.TRAIN_STEPS=1.5"],
        ["--gin.TRAIN_STEPS", "TrainJob.total_steps", "1.5 (float)", "an int"],
    ),
    "string_for_float": (["--gin.DROPOUT_RATE='a'"], ["--gin.DROPOUT_RATE", "'a' (str)", "expected a float"]),
    "bool_for_int": (["--gin.RANDOM_SEED=True"], ["--gin.RANDOM_SEED", "True (bool)", "expected an int"]),
    "int_for_bool": (["--gin.USE_CACHED_TASKS=1"], ["--gin.USE_CACHED_TASKS", "1 (int)", "True or False"]),
    "none_for_int": (["--gin.TRAIN_STEPS=None"], ["--gin.TRAIN_STEPS", "is None", "expected an int"]),
    "not_a_choice": (["--gin.Schedule.decay='cos'"], ["--gin.Schedule.decay", "'cos'", "'cosine'"]),
    "string_for_tuple": (
        ["--gin.AdamW.freeze='.*'"],
        ["--gin.AdamW.freeze", "'.*' (str)", "a tuple of a string", """--gin.AdamW.freeze="['.*']\""""],
    ),
    "inside_a_dict": (
        ["--gin.TASK_FEATURE_LENGTHS={'targets': 'a'}"],
        ["--gin.TASK_FEATURE_LENGTHS", "['targets']", "'a' (str)", "expected an int"],
    ),
    "inside_a_tuple": (
        ["--gin.MeshConfig.rules=[('batch', 'data'), ('vocab', 3)]"],
        ["--gin.MeshConfig.rules", "[1][1]", "3 (int)"],
    ),
    "another_class": (["--gin.MODEL=@AdamW()"], ["--gin.MODEL", "@AdamW()", "expected @TransformerConfig()"]),
    "class_not_called": (["--gin.OPTIMIZER=@AdamW"], ["--gin.OPTIMIZER", "write @AdamW()"]),
    "number_for_string": (["--gin.MODEL_DIR=7"], ["--gin.MODEL_DIR", "7 (int)", """--gin.MODEL_DIR="'7'\""""]),
}
SYNTAX = {
    "unquoted_path": (["--gin.MODEL_DIR=/tmp/x"], ["--gin.MODEL_DIR=/tmp/x", """--gin.MODEL_DIR="'/tmp/x'\""""]),
    "unquoted_class": (["--gin.OPTIMIZER=Adafactor"], ["--gin.OPTIMIZER=Adafactor", "--gin.OPTIMIZER=@Adafactor()"]),
    "unquoted_word": (["--gin.MODEL_DIR=runs"], ["--gin.MODEL_DIR=runs", """--gin.MODEL_DIR="'runs'\""""]),
    "unquoted_words": (["--gin.MODEL_DIR=my runs"], ["""--gin.MODEL_DIR="'my runs'\""""]),
    "unquoted_number_and_word": (["--gin.MODEL_DIR=2024-run"], ["""--gin.MODEL_DIR="'2024-run'\""""]),
    "no_value": (["--gin.MODEL_DIR="], ["--gin.MODEL_DIR= has no value"]),
    "no_equals_sign": (["--gin.MODEL_DIR", "'x'"], ["--gin.NAME=value"]),
    "open_bracket": (
        ["--gin.TASK_FEATURE_LENGTHS={'targets': 3"],
        ["--gin.TASK_FEATURE_LENGTHS", "is not a gin value"],
    ),
}
VALUES = {
    "refused_by_the_dataclass": (
        ["--gin.TransformerConfig.num_kv_heads=3"],
        ["does not divide num_heads", "num_kv_heads is set at --gin.Transformer", "num_heads is set at", "tiny.gin:"],
    ),
    "epsilon_of_the_wrong_sign": (
        ["--gin.TransformerConfig.norm_epsilon=-1e-6"],
        ["TransformerConfig.norm_epsilon = -1e-06", "above 0"],
    ),
    "flag_without_effect": (["--gin.Adafactor.beta1=0.9"], ["--gin.Adafactor.beta1 has no effect", "TrainJob"]),
    "macro_in_a_circle": (
        ["--gin.TRAIN_STEPS=%EVAL_PERIOD", "--gin.EVAL_PERIOD=%TRAIN_STEPS"],
        ["refers to itself"],
    ),
}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(*case, id=f"{kind}_{name}")
        for kind, cases in {"name": NAMES, "type": TYPES, "syntax": SYNTAX, "value": VALUES}.items()
        for name, case in cases.items()
    ],
)
def test_mistake_is_told(capsys, flags, said):
    """A mistake that gin lets pass, or tells in gin's terms, would cost a run on a slice."""
    outcome = invoke(capsys, [*COMPLETE, *flags])

    assert outcome.code == 2
    assert not outcome.stdout
    assert "Traceback" not in outcome.stderr
    for words in said:
        assert words in outcome.stderr


def test_without_a_mistake_nothing_is_told(capsys):
    """Otherwise the tests above would pass whatever the flags are."""
    outcome = invoke(capsys, [*COMPLETE, "--dry_run"])
    assert outcome.code == 0
    assert not outcome.stderr


def test_all_names_are_told_at_once(capsys):
    """One run, one mistake told: five mistakes would cost five runs."""
    stderr = invoke(capsys, [*COMPLETE, "--gin.TRIAN_STEPS=3", "--gin.AdmW.beta1=1.0", "--gin.MODEL_DIR=/x"]).stderr
    assert all(words in stderr for words in ("TRIAN_STEPS", "AdmW", "--gin.MODEL_DIR=/x"))


def test_all_types_are_told_at_once(capsys):
    """The same for values; a macro that several parameters use is told once, for the parameter nearest to the job."""
    stderr = invoke(capsys, [*COMPLETE, "--gin.TRAIN_STEPS='a'", "--gin.RANDOM_SEED='b'"]).stderr
    assert len(stderr.splitlines()) == 2
    assert "TrainJob.total_steps" in stderr
    assert "TrainJob.random_seed" in stderr


def test_all_missing_settings_are_told_at_once(capsys):
    """Each missing setting with the flag that sets it, what it means, and the gin files that bring it."""
    outcome = invoke(capsys, ["--gin_file=runs/pretrain.gin"])
    assert outcome.code == 2
    for name in ("MODEL_DIR", "MODEL", "MEMORY", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS", "TRAIN_STEPS"):
        assert f"--gin.{name}=" in outcome.stderr
    assert "lacks 6 required settings" in outcome.stderr
    assert "steps of the whole run" in outcome.stderr
    assert "models/tiny.gin" in outcome.stderr
    assert "memory/fam.gin" in outcome.stderr


def test_forgotten_model_file_is_what_is_missing(capsys):
    """MEMORY is used by the model's file: without that, its macro looks as if nothing had a use for it."""
    outcome = invoke(capsys, ["--gin_file=runs/pretrain.gin", "--gin_file=memory/fam.gin", *REQUIRED_FLAGS])
    assert outcome.code == 2
    assert "--gin.MODEL=" in outcome.stderr
    assert "MEMORY" not in outcome.stderr


def test_missing_field_without_a_macro(capsys, tmp_path):
    """A required field that no gin file mentions is missing too, under its own name."""
    file = tmp_path / "bare.gin"
    file.write_text("TrainJob.data = @DataConfig()\n")
    stderr = invoke(capsys, [f"--gin_file={file}"]).stderr
    assert "--gin.TrainJob.model_dir=" in stderr
    assert "--gin.DataConfig.batch_size=" in stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nTRIAN_STEPS = 3\n", ["mine.gin:2", "Did you mean TRAIN_STEPS?"]),
        ("AdamW.beta_1 = 0.5\n", ["mine.gin:1", "Did you mean beta1?"]),
        ("AdamW:\n    beta1 = 0.5\n    beta_2 = 0.5\n", ["mine.gin:3", "Did you mean beta2?"]),
        ("AdmW:\n    beta1 = 0.5\n", ["mine.gin:1", "Did you mean AdamW?"]),
        ("OPTIMIZER = @Adafcator()\n", ["mine.gin:1", "Did you mean Adafactor?"]),
        ("TRAIN_STEPS = %TRAIN_STEP\n", ["mine.gin:1", "TRAIN_STEP"]),
        ("# one\nTRAIN_STEPS = 'ten'\n", ["mine.gin:2", "'ten' (str)", "an int"]),
        ("# one\n\nMODEL_DIR = /tmp/x\n", ["mine.gin:3", "MODEL_DIR = '/tmp/x'"]),
        ("TASK_FEATURE_LENGTHS = {'targets': 3\n", ["mine.gin:", "is not gin"]),
        ("include 'models/tinny.gin'\n", ["mine.gin:1", "Did you mean models/tiny.gin"]),
        ("import no_such_module\n", ["mine.gin:1", "no_such_module"]),
    ],
)
def test_mistake_in_a_file_is_told_with_its_line(capsys, tmp_path, text, said):
    """A long gin file with a mistake somewhere; the file is read last, so that no flag hides it."""
    file = tmp_path / "mine.gin"
    file.write_text(text)
    outcome = invoke(capsys, [*COMPLETE[: len(FILES)], f"--gin_file={file}"])
    assert outcome.code == 2
    for words in said:
        assert words in outcome.stderr


def test_missing_file_names_the_folders_and_the_nearest_files(capsys, tmp_path):
    """A wrong folder and a misspelled file look alike without them."""
    (tmp_path / "recipe.gin").write_text("")
    outcome = invoke(capsys, [f"--gin_search_paths={tmp_path}", "--gin_file=recipee.gin", *REQUIRED_FLAGS])
    assert outcome.code == 2
    assert "--gin_file=recipee.gin" in outcome.stderr
    assert "Did you mean recipe.gin" in outcome.stderr
    assert str(tmp_path) in outcome.stderr


def test_unreadable_file_is_told(capsys, tmp_path):
    """A file that is no text would end in a UnicodeDecodeError's traceback."""
    file = tmp_path / "binary.gin"
    file.write_bytes(b"\xff\xfe\x00")
    outcome = invoke(capsys, [f"--gin_file={file}"])
    assert outcome.code == 2
    assert "cannot be read" in outcome.stderr


def test_verbosity_brings_the_traceback(capsys):
    """Whoever debugs famjax itself needs it."""
    outcome = invoke(capsys, [*COMPLETE, "--gin.TRAIN_STEPS=1.5", "--verbosity=1"])
    assert outcome.code == 2
    assert "Traceback" in outcome.stderr
    assert "expected an int" in outcome.stderr


def test_a_misspelled_file_is_told_alone(capsys):
    """The macros that the file would have used are no mistakes of their own."""
    outcome = invoke(capsys, ["--gin_file=runs/pretran.gin", "--gin.MODEL_DIR='a'", "--gin.TRAIN_STEPS=3"])
    assert outcome.code == 2
    assert "there is no gin file 'runs/pretran.gin'" in outcome.stderr
    assert "nothing in the gin files uses" not in outcome.stderr
