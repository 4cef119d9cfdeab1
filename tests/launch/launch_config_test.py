"""The description of a launch: what it refuses, and how it says so."""

import shlex

import pytest

from command_line import invoke
from famjax.errors import ConfigError
from famjax.launch.config import LaunchConfig
from launching import NEEDED, RUN, SCAN, flags, rendered


@pytest.mark.parametrize(
    ("platform", "slice_name", "settings", "message"),
    [
        ("gke", "v5e-250", {}, "'v5e-250' is no TPU slice. Nearest: v5e-64, v5e-128, v5e-256."),
        ("gke", "v5e-16x15", {}, "v5e has no topology 16x15. Nearest: v5e-16x16,"),
        ("xpk", "v5p-8x4x4", {}, "v5p has no topology 8x4x4. Nearest: v5p-4x4x8,"),
        ("xpk", "v5e-4", {}, "xpk's smallest is v5e-8"),
        ("tpu_vm", "v5-256", {}, "Nearest: v5p-256, v5e-256"),
        ("slurm", "h100-12", {}, "Nearest: h100-8, h100-16."),
        ("slurm", "h10-8", {}, "Nearest: h100-8"),
        ("slurm", "v5e-16", {}, "--platform=slurm has GPUs, as h100-16; TPU slices are for --platform=gke, xpk, tpu"),
        ("gke", "h100-16", {}, "--platform=gke has TPU slices, as v5e-256; GPUs are for --platform=slurm."),
        ("gke", "v5e-4", {"bucket": ("gs://my-runs/folder",)}, "--bucket=gs://my-runs/folder is no name of a bucket"),
        ("gke", "v5e-4", {"name": "Tiny_1"}, "--name=Tiny_1: allowed are small letters"),
        ("gke", "v5e-4", {"name": "a" * 41}, "at most 40 characters"),
        ("gke", "v5e-4", {"partition": "gpu"}, "--partition has no effect with --platform=gke, only with slurm."),
        ("slurm", "h100-8", {"bucket": ("my-runs",)}, "--bucket has no effect with --platform=slurm, only with gke,"),
        ("slurm", "h100-8", {"time_limit": "1 day"}, "--time_limit=1 day: expected as 24:00:00"),
        ("slurm", "h100-8", {"memory_per_gpu": 0}, "LaunchConfig.memory_per_gpu = 0; allowed: 1 or more."),
        ("gke", "v5e-4", {"cpus_per_gpu": 4}, "--cpus_per_gpu has no effect with --platform=gke, only with slurm."),
        ("gke", "v5e-4", {"capacity": "reserved"}, "--capacity=reserved needs --reservation=NAME."),
        ("gke", "v5e-4", {"reservation": "mine"}, "--reservation=mine needs --capacity=reserved."),
        ("gke", "v5e-4", {"num_slices": 0}, "LaunchConfig.num_slices = 0; allowed: 1 or more."),
        ("gke", "v5e-4", {"env": ("NAME",)}, "--env=NAME: expected NAME=VALUE."),
        ("gke", "v5e-4", {"shards": 2}, "--shards=2: only a scan has parts; --run_mode=train has none."),
    ],
)
def test_mistakes_are_refused(platform, slice_name, settings, message):
    """A wrong description is rendered, or refused without the nearest that is right."""
    with pytest.raises(ConfigError) as caught:
        rendered(platform, slice_name, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("platform", NEEDED)
def test_what_is_missing_is_told_at_once(platform):
    """The one who forgets three settings learns of them in three tries."""
    with pytest.raises(ConfigError) as caught:
        LaunchConfig(platform=platform)
    assert f"--platform={platform} needs more settings, such as --name=" in str(caught.value)  # not that very value
    for name in ("name", "slice", *NEEDED[platform]):
        assert f" --{name}=" in str(caught.value)


def test_missing_buckets_are_refused():
    """A run writes to a bucket that nobody named: misspelled, it is found out after the slice was waited for."""
    with pytest.raises(ConfigError) as caught:
        rendered("gke", "v5e-4", [*RUN, "--gin.MODEL_DIR='gs://my-rnus/tiny'"])
    assert str(caught.value) == (
        "gs://my-rnus/tiny lies in the bucket my-rnus, which --bucket does not name (gs://my-runs). "
        "Did you mean my-runs?"
    )
    with pytest.raises(ConfigError, match=r"/gcs/texts/\*\.txt lies in the bucket texts"):
        rendered("gke", "v5e-4", [*RUN, "--gin.Documents.paths=['/gcs/texts/*.txt']"])


@pytest.mark.parametrize("platform", ["gke", "xpk", "tpu_vm"])
def test_results_on_a_machine_that_goes_are_refused(platform):
    """Checkpoints on a pod's own disk are lost with the first preemption."""
    with pytest.raises(ConfigError) as caught:
        rendered(platform, "v5e-8", [*RUN, "--gin.MODEL_DIR='runs/tiny'"])
    assert "TrainJob.model_dir = 'runs/tiny' is on the machine's own disk" in str(caught.value)
    assert "'gs://my-runs/...'" in str(caught.value)


INFER = ("--run_mode=infer", "--gin_file=runs/infer.gin", "--gin.CHECKPOINT_PATH='gs://my-runs/a'")
TOKENIZER = ("--gin.VOCABULARY=@SentencePieceVocabulary()", "--gin.SentencePieceVocabulary.path='a.model'")


@pytest.mark.parametrize(
    ("run", "setting", "copy", "value"),
    [
        ([*RUN, "--gin.Documents.paths=['text/**']"], "Documents.paths", "text gs://my-runs/", "text/**"),
        (
            [*RUN, "--gin.MIXTURE_OR_TASK_NAME='instructions'", "--gin.Instructions.paths=['/home/me/flan/*.gz']"],
            "Instructions.paths",
            "/home/me/flan gs://my-runs/",
            "flan/*.gz",
        ),
        ([*INFER, "--gin.PROMPTS='a.jsonl'"], "InferJob.prompts", "a.jsonl gs://my-runs/", "a.jsonl"),
        ([*RUN, *TOKENIZER], "SentencePieceVocabulary.path", "a.model gs://my-runs/", "a.model"),
        ([*SCAN, "--gin.CHECKPOINTS={'a': 'runs/a'}"], "ScanJob.checkpoints", "runs/a gs://my-runs/", "a"),
    ],
)
def test_data_that_stay_behind_are_refused(tmp_path, capsys, run, setting, copy, value):
    """Sixteen chips that find no file: it lies on the disk of the one who gave the command."""
    outcome = invoke(capsys, ["launch", "render", *flags("gke", "v5e-1", output_dir=str(tmp_path)), *run])
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"{setting} = ")
    assert "is on a disk of this machine, which the run's machines do not see." in outcome.stderr
    assert f"gcloud storage cp --recursive {copy}\n" in outcome.stderr
    root = "gs:/" if setting == "ScanJob.checkpoints" else "/gcs"
    assert f"set it to '{root}/my-runs/{value}'" in outcome.stderr
    # The nodes of a Slurm cluster share their files, and a pod reads what is mounted.
    outcome = invoke(capsys, ["launch", "render", *flags("slurm", "h100-1", output_dir=str(tmp_path)), *run])
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize("platform", ["gke", "slurm"])
def test_files_are_not_read_from_gs(tmp_path, capsys, platform):
    """A glob in a bucket that matches nothing, after the wait for a slice; without any, a corpus nobody asked for."""
    line = ["launch", "render", *flags(platform, {"gke": "v5e-8", "slurm": "h100-8"}[platform]), *RUN]
    line = [*line, f"--output_dir={tmp_path}"]
    outcome = invoke(capsys, [*line, "--gin.Documents.paths=['gs://my-runs/text/*.txt']"])
    assert outcome.code == 2
    assert "Documents.paths = 'gs://my-runs/text/*.txt': files are never read from gs://; " in outcome.stderr
    assert ("/gcs/my-runs/text/*.txt" in outcome.stderr) == (platform == "gke")
    note = "note: no Documents.paths: the task 'documents' reads the sources of Python's standard library"
    assert note in invoke(capsys, line).stdout.splitlines()
    outcome = invoke(capsys, [*line, "--gin.Documents.paths=['/gcs/my-runs/text/*.txt']"])
    assert outcome.code == 0, outcome.stderr
    assert "note:" not in outcome.stdout


@pytest.mark.parametrize(("platform", "slice_name"), [("gke", "v5e-16"), ("xpk", "v6e-8"), ("slurm", "h100-16")])
def test_modes_of_one_process(platform, slice_name):
    """Sixteen processes that answer the same prompts, into one file."""
    run = ["--run_mode=infer", "--gin_file=runs/infer.gin", "--gin.CHECKPOINT_PATH='gs://my-runs/tiny'"]
    with pytest.raises(ConfigError, match=rf"--run_mode=infer runs in one process, and --slice={slice_name} has"):
        rendered(platform, slice_name, run)
    assert rendered("gke", "v6e-8", run).files  # One machine there, and two of xpk's.
    script = rendered("slurm", "h100-4", run).files["job.sh"]
    assert "#SBATCH --ntasks-per-node=1\n" in script
    assert "#SBATCH --gpus-per-node=4\n" in script


def test_a_scan_appends_to_its_files():
    """A scan that is refused by the first pod, after the slice was waited for: a bucket that is not mounted."""
    with pytest.raises(ConfigError) as caught:
        rendered("gke", "v5e-4", [*SCAN, "--gin.SCAN_OUTPUT_DIR='gs://my-runs/scan'"])
    assert "ScanJob.output_dir = 'gs://my-runs/scan': a scan appends to its files" in str(caught.value)
    assert "set it to '/gcs/my-runs/scan'." in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "slice_name", "settings", "message"),
    [
        ("gke", "v5e-16", {}, "--slice=v5e-16 has 4. Slices of one host: v5e-1, v5e-4, v5e-8."),
        ("gke", "v5e-4", {"num_slices": 2}, "each part has one slice"),
        ("slurm", "h100-16", {}, "--slice=h100-16 is 2. Largest of one host: h100-8."),
    ],
)
def test_a_part_of_a_scan_runs_on_one_host(platform, slice_name, settings, message):
    """Hosts of one slice take different parts of a scan, and each waits for ever for the others."""
    with pytest.raises(ConfigError) as caught:
        rendered(platform, slice_name, SCAN, shards=4, **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("platform", ["gke", "tpu_vm", "xpk"])
def test_the_run_knows_its_slices(platform):
    """Hosts of two slices start, and the run refuses its devices since it was set up for one slice."""
    told = "--gin.MeshConfig.num_slices=2"
    several = rendered(platform, "v5e-16", num_slices=2)
    assert told in "".join([*several.files.values(), *several.command])
    assert told not in "".join(rendered(platform, "v5e-16").files.values())
    same = rendered(platform, "v5e-16", (*RUN, "--gin.NUM_SLICES=2"), num_slices=2)
    assert told not in "".join(same.files.values())


@pytest.mark.parametrize("platform", ["gke", "slurm"])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--gin.BATCH_SIZE=16", "does not divide over 64 data-parallel devices; it must be a multiple of 64."),
        ("--gin.FSDP_PARALLELISM=None", "does not divide over the 64 devices of mesh axis 'fsdp'"),
        ("--gin.MODEL_PARALLELISM=3", "MeshConfig.model_parallelism = 3 does not divide the 64 devices"),
        ("--gin.MeshConfig.num_devices=8", "MeshConfig.num_devices = 8, .own_process = False in a job of"),
    ],
)
def test_a_run_that_its_devices_cannot_hold(tmp_path, capsys, platform, more, message):
    """A batch, a mesh or a model that does not divide over the slice: refused by the run, after hours in a queue."""
    slice_name = {"gke": "v5e-64", "slurm": "h100-64"}[platform]
    run = [*RUN, "--gin.BATCH_SIZE=64", "--gin.TransformerConfig.vocab_size=260", "--gin.TransformerConfig.emb_dim=72"]
    outcome = invoke(capsys, ["launch", "render", *flags(platform, slice_name, output_dir=str(tmp_path)), *run, more])
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"On {slice_name}, 64 chips: " in outcome.stderr
    assert message in outcome.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--slice=v5e-250", "'v5e-250' is no TPU slice."),
        ("--num_slice=2", "Did you mean: num_slices"),
        ("--num_slice=2", "(famjax launch --help lists the flags)"),
        ("--retries=lots", "flag --retries=lots; expected: a whole number. (famjax launch --help"),
        ("--num_slices=two", "--num_slices"),
        ("--capacity=cheap", "should be one of <on_demand|spot|reserved>"),
        ("--dry_run", "--dry_run is for this machine"),
        ("--process_index=1", "--process_index: the processes of a launched run find each other"),
        ("--plan", "--plan is a check of `submit`"),
        ("--gin.NUM_SLICES=2", "MeshConfig.num_slices = 2, and the launch has --num_slices=1"),
        ("--run_mode=plan", "--run_mode=plan is for this machine"),
        ("--gin.BATCHSIZE=2", "Did you mean BATCH_SIZE?"),
    ],
)
def test_mistakes_on_the_command_line(capsys, more, message):
    """A mistake ends in a traceback, in a message with another flag than the one that was given, or in nothing."""
    outcome = invoke(capsys, ["launch", "render", *flags("gke", "v5e-4"), *RUN, more])
    assert (outcome.code, outcome.stdout) == (2, "")
    assert message in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert "--gin.LaunchConfig" not in outcome.stderr


def test_a_launch_file_and_flags(tmp_path, capsys):
    """A flag that the file wins over, or a mistake in the file that is told without its place."""
    file = tmp_path / "cluster.gin"
    line = ["launch", "render", f"--launch_file={file}", f"--output_dir={tmp_path}", *RUN, "--gin.BATCH_SIZE=256"]
    own = ["--name=tiny", "--bucket=gs://my-runs", "--cluster=flag"]
    file.write_text("LaunchConfig.platform = 'xpk'\nLaunchConfig.cluster = 'file'\nLaunchConfig.image = 'image'\n")
    outcome = invoke(capsys, [*line, *own, "--slice=v5e-256"])
    assert outcome.code == 0, outcome.stderr
    assert "xpk workload create --workload=tiny --cluster=flag" in outcome.stdout
    assert "--docker-image=image" in (tmp_path / "tiny" / "workload.sh").read_text()
    file.write_text("LaunchConfig.slize = 'v5e-256'\n")
    assert "LaunchConfig has no parameter 'slize'. Did you mean slice?" in invoke(capsys, line).stderr
    file.write_text("LaunchConfig.slice = 'v5e-300'\nLaunchConfig.image = 'image'\n")
    assert f"slice is set at {file}:1" in invoke(capsys, [*line, *own]).stderr


def test_the_help(capsys, tmp_path):
    """The help is made from the settings: one without a meaning is found by nobody, and its example is copied first."""
    outcome = invoke(capsys, ["launch", "--help"])
    assert outcome.code == 0
    for name in LaunchConfig.__dataclass_fields__:
        assert f"\n  --{name} " in outcome.stdout
    assert max(map(len, outcome.stdout.splitlines())) <= 120
    assert invoke(capsys, ["launch", "submit", "--help"]).stdout == outcome.stdout
    assert invoke(capsys, ["launch"]).stderr == outcome.stdout + "\n"
    assert "Did you mean submit?" in invoke(capsys, ["launch", "submot"]).stderr
    lines = outcome.stdout.replace("\\\n", " ").splitlines()
    (example,) = [line for line in lines if line.startswith("  famjax launch submit --platform")]
    line = ["render" if word == "submit" else word for word in shlex.split(example)[1:]]
    assert invoke(capsys, [*line, f"--output_dir={tmp_path}"]).code == 0
