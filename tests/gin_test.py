"""Every file in gin/ loads, in every job that it serves, and its model initialises (abstractly)."""

import math
import re

import pytest
from gin.config_parser import ConfigParser, IncludeStatement, ParserDelegate

from famjax.configuration.bindings import read_bindings
from famjax.configuration.files import gin_root
from famjax.configuration.loading import load
from famjax.configuration.statements import REQUIRED
from famjax.errors import ConfigError
from famjax.evaluation.config import EvalJob
from famjax.evaluation.scan.config import ScanJob
from famjax.inference.attention_config import AttentionJob
from famjax.inference.job_config import InferJob
from famjax.models.transformer import parameter_axes, parameter_shapes
from famjax.pods.config import DEFAULT_RULES
from famjax.pods.mesh import make_mesh
from famjax.training.config import TrainJob
from famjax.training.merge_config import MergeJob

GIN_FILES = sorted(str(path.relative_to(gin_root())) for path in gin_root().rglob("*.gin"))
# For t5x's main: famjax's reader refuses them, and tests/interop/t5x_main_test.py runs them.
T5X_FILES = [file for file in GIN_FILES if file.startswith("t5x/")]
ALL_FILES = [file for file in GIN_FILES if file not in T5X_FILES]
# Parts that others include and that are nothing by themselves.
FRAGMENTS = {"models/base.gin", "models/paper.gin", "recipes/demo.gin", "runs/train.gin", "tasks.gin"}
# What a file of each folder needs besides itself.
COMPANIONS = {
    "models": ["runs/pretrain.gin", "memory/fam.gin"],
    "memory": ["runs/pretrain.gin", "models/tiny.gin"],
    "finetuning": ["runs/finetune.gin", "models/tiny.gin", "memory/fam.gin"],
    "sharding": ["runs/pretrain.gin", "models/tiny.gin", "memory/fam.gin"],
    "recipes": [],
}
RUN_COMPANIONS = {
    "runs/pretrain.gin": ["models/tiny.gin", "memory/fam.gin"],
    "runs/finetune.gin": ["models/tiny.gin", "memory/fam.gin"],
    "runs/eval.gin": [],
    "runs/infer.gin": [],
    "runs/scan.gin": [],
    "runs/attention.gin": [],
    "runs/merge.gin": [],
}
RECIPE_COMPANIONS = {
    "recipes/imported.gin": ["recipes/demo_fam.gin"],
    "recipes/instructions.gin": ["models/tiny.gin"],
    "recipes/long_documents.gin": ["models/tiny.gin"],
    "recipes/memory_only.gin": ["models/tiny.gin"],
    "recipes/passkey.gin": ["models/tiny.gin"],
}
# Macros that a file needs unless something else is set in their place.
NEEDED = {"runs/scan.gin": ["SCAN_TASKS", "SCAN_LENGTHS"]}
JOBS = {TrainJob, EvalJob, InferJob, ScanJob, AttentionJob, MergeJob}
# A value for each macro that a file may require.
REQUIRED_VALUES = {
    "MODEL_DIR": "'/tmp/run'",
    "INITIAL_CHECKPOINT_PATH": "'/tmp/before'",
    "INSTRUCTION_FILES": "['/tmp/*.jsonl']",
    "DOCUMENT_FILES": "['/tmp/*.txt']",
    "CHECKPOINT_PATH": "'/tmp/run'",
    "EVAL_OUTPUT_DIR": "'/tmp/run/eval'",
    "TEXT_FILE": "'/tmp/text.txt'",
    "OUTPUT_DIR": "'/tmp/pictures'",
    "CHECKPOINTS": "['/tmp/run']",
    "SCAN_OUTPUT_DIR": "'/tmp/run/scan'",
    "SCAN_TASKS": "['passkey']",
    "SCAN_LENGTHS": "[2048]",
    "MIXTURE_OR_TASK_NAME": "'documents'",
    "TASK_FEATURE_LENGTHS": "{'targets': 2048}",
    "TRAIN_STEPS": "10",
}


@pytest.mark.parametrize("file", GIN_FILES)
def test_files_that_comments_name_exist(file):
    """Guards against a header that sends its reader to a file that was renamed."""
    named = re.findall(r"\b[a-z_0-9]+/[a-z_0-9]+\.gin\b", (gin_root() / file).read_text())
    assert [name for name in named if name not in GIN_FILES] == []


def complete(file, folder):
    """Returns a file with its companions and a file that sets what they require."""
    companions = RUN_COMPANIONS | RECIPE_COMPANIONS
    files = [file, *companions.get(file, COMPANIONS.get(file.split("/")[0], []))]
    macros = read_bindings(files, []).macros
    required = [name for name, binding in macros.items() if binding.value == REQUIRED] + NEEDED.get(file, [])
    values = folder / "values.gin"
    values.write_text("".join(f"{name} = {REQUIRED_VALUES[name]}\n" for name in required))
    return [*files, str(values)]


@pytest.mark.parametrize(
    ("table", "shape"),
    [
        ("data_parallel", (8, 1, 1)),
        ("fully_sharded", (1, 8, 1)),
        ("tensor_parallel", (2, 1, 4)),
        ("fully_sharded_tensor_parallel", (1, 2, 4)),
    ],
)
def test_ready_tables(table, shape, tmp_path):
    """A table behind a run's file sets the mesh, and has a rule for every axis of the model; flags change it."""
    files = complete(f"sharding/{table}.gin", tmp_path)
    # Tables stand behind what they change.
    files = [*files[1:], files[0]]
    job = load(TrainJob, files, []).job
    assert make_mesh(job.mesh).devices.shape == shape
    names = {axis for axes in parameter_axes(job.model).values() for axis in axes}
    assert names | {"batch", "length", "activation_embed"} <= set(job.mesh.first_rules)
    assert {axis for axis, _ in job.mesh.rules} == {axis for axis, _ in DEFAULT_RULES}
    flags = [("FSDP_PARALLELISM", "2"), ("MODEL_PARALLELISM", "2"), ("NUM_SLICES", "2")]
    assert make_mesh(load(TrainJob, files, flags).job.mesh).devices.shape == (2, 2, 2)


@pytest.mark.parametrize("file", [file for file in ALL_FILES if file not in FRAGMENTS])
def test_file_loads_and_its_model_initialises(file, tmp_path):
    """A file that binds a field that no longer exists, or a model whose sizes do not fit, is noticed by nobody else."""
    files = complete(file, tmp_path)
    jobs = {key.cls for key in read_bindings(files, []).parameters} & JOBS
    assert jobs
    for job_class in jobs:
        job = load(job_class, files, []).job
        assert isinstance(job, job_class)
        if job_class is TrainJob:
            assert parameter_shapes(job.model)


def test_fragments_are_included_by_others():
    """A fragment that nobody includes is loaded by no test."""
    texts = [gin_root().joinpath(file).read_text() for file in ALL_FILES]
    included = {name for text in texts for name in re.findall(r"include '(.*)'", text)}
    assert included >= FRAGMENTS
    assert included <= set(ALL_FILES)


@pytest.mark.parametrize("file", [file for file in ALL_FILES if file.startswith("runs/") and file not in FRAGMENTS])
def test_header_names_what_is_required(file):
    """A run file's header is its manual: it lists every required macro, and no macro that does not exist."""
    bindings = read_bindings([file], [])
    header = gin_root().joinpath(file).read_text().split("\n\n")[0]
    _, _, listed = header.partition("# Required:")
    required = {name for name, binding in bindings.macros.items() if binding.value == REQUIRED}
    named = set(re.findall(r"\b[A-Z][A-Z_]+\b", listed)) - {"MODEL_DIR"}
    assert required
    assert required <= named | {"MODEL_DIR"}
    assert named <= set(bindings.macros) | {"MEMORY"}


@pytest.mark.parametrize("file", T5X_FILES)
def test_files_for_t5x_parse(file):
    """A line that is not gin, and a file that famjax is given in the place of its own, are told of before t5x runs."""
    text = gin_root().joinpath(file).read_text()
    statements = list(ConfigParser(text, Unresolved()))
    assert statements[0].module == "__gin__.dynamic_registration"
    assert text.startswith("# ")
    assert "# Required: MODEL (a file of models/) and its MEMORY (a file of memory/)" in text
    included = {statement.filename for statement in statements if isinstance(statement, IncludeStatement)}
    ours = {name for name in included if not name.startswith("t5x/configs/")}
    assert ours == (set() if file == "t5x/model.gin" else {"t5x/model.gin"})
    with pytest.raises(ConfigError, match=rf"{file}:\d+: this file is for t5x"):
        read_bindings([file], [])


class Unresolved(ParserDelegate):
    """Leaves names as they are."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return f"@{scoped_configurable_name}"

    def macro(self, macro_name):
        return f"%{macro_name}"


@pytest.mark.parametrize("file", ["models/1b.gin", "models/8b.gin", "models/24b.gin"])
def test_paper_sizes(file, tmp_path):
    """Parameters without the embedding table (the paper's 1B, 8B, 24B); FAM adds its prompt alone."""
    expected = {"models/1b.gin": 1.2e9, "models/8b.gin": 8.6e9, "models/24b.gin": 24.5e9}[file]
    files = complete(file, tmp_path)
    model = load(TrainJob, files, []).job.model
    window_only = load(TrainJob, files, [("FAM_LENGTH", "0")]).job.model
    count, window_only_count = (
        sum(math.prod(array.shape) for path, array in parameter_shapes(config).items() if "embedding" not in path)
        for config in (model, window_only)
    )
    assert count == pytest.approx(expected, rel=0.02)
    assert count - window_only_count == 64 * model.emb_dim
