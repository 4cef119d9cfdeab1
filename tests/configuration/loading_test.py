"""famjax.configuration.loading: what a configuration means, against gin itself."""

import itertools
from pathlib import Path

import gin
import pytest

from famjax.configuration.files import gin_root
from famjax.configuration.loading import load
from famjax.configuration.registry import register_all
from famjax.training.config import Adafactor, TrainJob

FILES = ("runs/pretrain.gin", "models/tiny.gin", "memory/fam.gin")
FLAGS = (
    ("MODEL_DIR", "'/tmp/run'"),
    ("MIXTURE_OR_TASK_NAME", "'documents'"),
    ("TASK_FEATURE_LENGTHS", "{'targets': 256}"),
    ("TRAIN_STEPS", "10"),
)
SCOPES = """
train/DataConfig.seed = 1
DataConfig.seed = 2
train/DataConfig.vocabulary = @a/SentencePieceVocabulary()
a/SentencePieceVocabulary.path = 'a.model'
SentencePieceVocabulary.path = 'b.model'
eval/DataConfig.vocabulary = %SPM
SPM = @SentencePieceVocabulary()
SPM/SentencePieceVocabulary.path = 'macro.model'
train/Schedule.peak = 5.0
eval/DataConfig.tasks = {'x': @AssociativeRecall(), 'y': @y/AssociativeRecall()}
y/AssociativeRecall.key_letters = 5
eval/AssociativeRecall.value_digits = 4
"""


@pytest.fixture
def clean_gin(monkeypatch):
    """gin's own configuration is one for the process; its includes are relative to the working directory."""
    register_all()
    gin.clear_config()
    monkeypatch.chdir(gin_root())
    yield
    gin.clear_config()


@pytest.mark.usefixtures("clean_gin")
def test_scopes_macros_and_references_mean_what_they_mean_to_gin(tmp_path):
    """The resolver follows gin's rules by itself; a difference would configure another run than gin's manual says."""
    file = tmp_path / "scopes.gin"
    file.write_text(SCOPES)
    names = [*FILES, str(file)]

    ours = load(TrainJob, names, FLAGS).job
    gin.parse_config_files_and_bindings(names, [f"{name} = {value}" for name, value in FLAGS])
    gins = gin.get_configurable("TrainJob")()

    assert ours == gins
    assert (ours.data.seed, ours.eval_data.seed) == (1, 2)
    assert (ours.data.vocabulary.path, ours.eval_data.vocabulary.path) == ("a.model", "macro.model")
    assert ours.eval_data.tasks["x"].value_digits == 4
    assert ours.eval_data.tasks["y"].key_letters == 5


def test_files_may_come_in_any_order():
    """A required macro of a file that is read late must not undo a value that was read early."""
    jobs = [load(TrainJob, order, FLAGS).job for order in itertools.permutations(FILES)]
    assert len(jobs) == 6
    assert all(job == jobs[0] for job in jobs)
    assert jobs[0].model.num_layers == 3
    assert jobs[0].model.memory.fam_length == 64


def test_a_file_is_read_once(tmp_path):
    """Two files that include the same third: the second reading would undo what was set in between."""
    file = tmp_path / "mine.gin"
    file.write_text("include 'models/tiny.gin'\nDROPOUT_RATE = 0.1\ninclude 'models/base.gin'\n")
    job = load(TrainJob, ["runs/pretrain.gin", "memory/fam.gin", str(file)], FLAGS).job
    assert job.model.dropout_rate == 0.1


def test_flags_come_after_files_and_later_flags_after_earlier_ones():
    """The command line has the last word."""
    job = load(TrainJob, FILES, [*FLAGS, ("TRAIN_STEPS", "20"), ("FAM_LENGTH", "8"), ("LEARNING_RATE", "1")]).job
    assert job.total_steps == 20
    assert job.model.memory.fam_length == 8
    assert job.optimizer.schedule.peak == 1.0
    assert isinstance(job.optimizer.schedule.peak, float)


def test_every_value_knows_its_place(tmp_path):
    """`--dry_run` and the error messages point there."""
    file = tmp_path / "mine.gin"
    file.write_text("# a comment\nOPTIMIZER = @Adafactor()\n")
    configuration = load(TrainJob, [*FILES, str(file)], FLAGS)
    settings = configuration.root.settings
    assert settings["total_steps"].source == "--gin.TRAIN_STEPS"
    assert settings["optimizer"].source == f"{file}:2 (OPTIMIZER)"
    assert settings["random_position_offset"].source == "default"
    assert isinstance(configuration.job.optimizer, Adafactor)


def test_search_paths_come_before_famjaxs_own_files(tmp_path):
    """A user's models/tiny.gin stands in for famjax's."""
    (tmp_path / "models").mkdir()
    text = (gin_root() / "models/tiny.gin").read_text().replace("num_layers = 3", "num_layers = 7")
    (tmp_path / "models/tiny.gin").write_text(text)
    assert load(TrainJob, FILES, FLAGS, [tmp_path]).job.model.num_layers == 7


def test_files_are_found_from_any_working_directory(tmp_path, monkeypatch):
    """famjax's own gin files belong to the package, not to a checkout's folder."""
    monkeypatch.chdir(tmp_path)
    assert load(TrainJob, FILES, FLAGS).job.model.num_layers == 3
    assert not (Path.cwd() / "models").exists()
