import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from famjax.training import writers
from famjax.training.writers import LOG_NAME, MetricWriters


def fail(message):
    """A warning that a test does not expect."""
    raise AssertionError(message)


def open_writers(folder, resumed_from=None, process_index=0, tensorboard=False):
    """Without TensorBoard unless asked for: tensorflow takes seconds to import."""
    return MetricWriters(
        str(folder), resumed_from=resumed_from, process_index=process_index, tensorboard=tensorboard, warn=fail
    )


def read(folder):
    """The log's lines without their times."""
    lines = [json.loads(line, parse_constant=fail) for line in (folder / LOG_NAME).read_text().splitlines()]
    for line in lines:
        assert line.pop("time") > 1.7e9
    return lines


def write_steps(metric_writers, steps):
    """Training's line of each step, and an evaluation's at every third."""
    for step in steps:
        metric_writers.write(step, {"loss": 1.0 / step})
        if step % 3 == 0:
            metric_writers.write(step, {"validation/loss": 2.0 / step})


def test_lines_hold_step_time_and_metrics(tmp_path):
    """Guards against lost metrics, float32 printed with digits it does not have, and lines kept in memory."""
    with open_writers(tmp_path / "new" / "run") as metric_writers:
        metrics = {
            "loss": jnp.float32(0.1),
            "accuracy": 0.5,
            "tokens": np.int64(2**40),
            "fam_norm": np.float32([0.1, 3]),
        }
        metric_writers.write(7, metrics)
        assert read(tmp_path / "new" / "run") == [
            {"step": 7, "loss": 0.1, "accuracy": 0.5, "tokens": 2**40, "fam_norm": [0.1, 3.0]}
        ]


def test_numbers_that_are_not_finite_are_strings(tmp_path):
    """Guards against lines that are not JSON in the very run that somebody has to look into."""
    with open_writers(tmp_path) as metric_writers:
        metric_writers.write(1, {"loss": float("nan"), "norms": np.float32([np.inf, -np.inf, 1])})
    (line,) = read(tmp_path)
    assert line == {"step": 1, "loss": "NaN", "norms": ["Infinity", "-Infinity", 1.0]}
    assert [float(entry) for entry in line["norms"]] == [np.inf, -np.inf, 1]


@pytest.mark.parametrize("resumed_from", [1, 3, 6, 8])
def test_a_resumed_log_equals_an_uninterrupted_one(tmp_path, resumed_from):
    """Guards against steps that appear twice, or not at all, after a process was killed beyond its last checkpoint."""
    with open_writers(tmp_path / "whole") as metric_writers:
        write_steps(metric_writers, range(1, 13))
    with open_writers(tmp_path / "killed") as metric_writers:
        write_steps(metric_writers, range(1, 9))
    with (tmp_path / "killed" / LOG_NAME).open("a") as log:
        log.write('{"step": 9, "time": 17000')
    with open_writers(tmp_path / "killed", resumed_from=resumed_from) as metric_writers:
        write_steps(metric_writers, range(resumed_from + 1, 13))
    assert read(tmp_path / "killed") == read(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [LOG_NAME]


@pytest.mark.parametrize("broken", ['{"step": 2, "ti', '{"step": 2, "time": 1.8e9}', "\0\0\n", '{"loss": 1}\n', "3\n"])
def test_a_broken_line_goes(tmp_path, broken):
    """Guards against a log that cannot be read again because a process was killed within a line."""
    (tmp_path / LOG_NAME).write_text('{"step": 1, "time": 1800000000.0, "loss": 1.0}\n' + broken)
    with open_writers(tmp_path, resumed_from=5) as metric_writers:
        metric_writers.write(6, {"loss": 0.5})
    assert read(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 6, "loss": 0.5}]


def test_a_run_from_its_beginning_starts_an_empty_log(tmp_path):
    """Guards against lines of a process that was killed before its first checkpoint, step 0 included."""
    with open_writers(tmp_path) as metric_writers:
        metric_writers.write(0, {"validation/loss": 9.0})
        metric_writers.write(1, {"loss": 8.0})
    with open_writers(tmp_path) as metric_writers:
        metric_writers.write(0, {"validation/loss": 9.0})
    assert read(tmp_path) == [{"step": 0, "validation/loss": 9.0}]


def test_only_process_0_writes(tmp_path):
    """Guards against processes of a pod that write over one another's file."""
    with open_writers(tmp_path / "run", process_index=1, tensorboard=True) as metric_writers:
        metric_writers.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_reserved_names_are_refused(tmp_path):
    """Guards against a metric that replaces the step or the time of its line."""
    with open_writers(tmp_path) as metric_writers, pytest.raises(ValueError, match="'time'"):
        metric_writers.write(1, {"time": 1.0})


@pytest.mark.parametrize("missing", ["tensorflow", "tensorboard"])
def test_without_tensorflow_one_warning_and_the_log_alone(tmp_path, monkeypatch, missing):
    """Guards against a crash, or silence, on a machine without tensorflow or tensorboard."""
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None if name == missing else name)
    warnings = []
    with MetricWriters(str(tmp_path), resumed_from=None, warn=warnings.append) as metric_writers:
        write_steps(metric_writers, range(1, 3))
    assert len(warnings) == 1
    assert f"{missing} is not installed" in warnings[0]
    assert [line["step"] for line in read(tmp_path)] == [1, 2]


def test_tensorboard_gets_every_scalar(tmp_path):
    """Guards against event files that miss steps, or a metric of every layer that TensorBoard cannot show."""
    script = (
        "import sys, numpy as np\n"
        "from famjax.training.writers import MetricWriters\n"
        "assert 'tensorflow' not in sys.modules\n"
        "with MetricWriters(sys.argv[1], resumed_from=None, warn=print) as writers:\n"
        "    for step in (10, 20):\n"
        "        writers.write(step, {'loss': 1.0 / step, 'fam_norm': np.arange(11.0)})\n"
        "from tensorflow.core.util import event_pb2\n"
        "import tensorflow as tf, glob\n"
        "for file in glob.glob(sys.argv[1] + '/events*'):\n"
        "    for record in tf.data.TFRecordDataset(file):\n"
        "        event = event_pb2.Event.FromString(record.numpy())\n"
        "        for value in event.summary.value:\n"
        "            print(event.step, value.tag, tf.make_ndarray(value.tensor).item())\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    written = {(int(step), tag): float(value) for step, tag, value in map(str.split, result.stdout.splitlines())}
    assert len(written) == 24
    assert written[20, "loss"] == pytest.approx(0.05)
    assert written[10, "fam_norm/00"] == 0.0
    assert written[10, "fam_norm/10"] == 10.0
