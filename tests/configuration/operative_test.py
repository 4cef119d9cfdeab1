"""famjax.configuration.operative: config.gin repeats the run."""

import pytest

from command_line import COMPLETE, invoke
from famjax.configuration import operative
from famjax.configuration.loading import load
from famjax.training.config import TrainJob

FILES = ("runs/finetune.gin", "models/tiny.gin", "memory/fam.gin")
FLAGS = (
    ("MODEL_DIR", "'/tmp/it\\'s a run'"),
    ("INITIAL_CHECKPOINT_PATH", "'/tmp/before'"),
    ("MIXTURE_OR_TASK_NAME", "'mine'"),
    ("TASK_FEATURE_LENGTHS", "{'targets': 256}"),
    ("TRAIN_STEPS", "10"),
    ("train/DataConfig.seed", "5"),
    ("eval/DataConfig.tasks", "{'mine': @x/PassKey()}"),
    ("x/PassKey.digits", "7"),
    ("Adafactor.freeze", "('layers/.*', 'embedding/.*')"),
)


@pytest.fixture
def written(tmp_path):
    """The file that a run with these settings leaves."""
    configuration = load(TrainJob, FILES, FLAGS)
    operative.remember(configuration)
    operative.write(tmp_path / "run")
    yield configuration, tmp_path / "run" / "config.gin"
    operative._current.clear()


def test_the_file_gives_the_same_job(written):
    """Whatever the file leaves out, scopes or quotes or nested references, the repeated run lacks."""
    configuration, path = written
    assert load(TrainJob, [str(path)], []).job == configuration.job
    assert configuration.job.data.seed == 5
    assert configuration.job.eval_data.seed == 0
    assert configuration.job.eval_data.tasks["mine"].digits == 7


def test_the_file_holds_defaults_and_survives_their_change(written):
    """A default that changes in a later version must not change a run that is repeated."""
    _, path = written
    assert "\nAdafactor.clipping_threshold = 1.0\n" in path.read_text()
    assert "\nTransformerConfig.rope_base = 10000.0\n" in path.read_text()


def test_macros_of_the_file_are_overridden_by_flags(written):
    """A run is prolonged as it was started: with --gin.TRAIN_STEPS."""
    configuration, path = written
    job = load(TrainJob, [str(path)], [("TRAIN_STEPS", "20"), ("TransformerConfig.num_layers", "4")]).job
    assert job.total_steps == 20 != configuration.job.total_steps
    assert job.model.num_layers == 4 != configuration.job.model.num_layers


def test_what_another_start_changes_is_known(written, tmp_path):
    """Guards against a run that goes on with another rate or batch, and says nothing."""
    assert operative.changes(tmp_path / "run") == []
    operative.remember(load(TrainJob, FILES, [*FLAGS, ("TRAIN_STEPS", "20"), ("Adafactor.beta1", "0.5")]))
    assert operative.changes(tmp_path / "run") == ["Adafactor.beta1: 0.9, now 0.5", "TRAIN_STEPS: 10, now 20"]
    assert operative.changes(tmp_path / "elsewhere") == []


def test_a_job_made_in_python_leaves_no_file(tmp_path):
    """Library use has no gin configuration, and must not write that of an earlier job."""
    operative._current.clear()
    operative.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_dry_run_leaves_nothing_to_write(capsys):
    """A dry run must not become the configuration of a job that follows it in the same process."""
    operative._current.clear()
    assert invoke(capsys, [*COMPLETE, "--dry_run"]).code == 0
    assert not operative._current
