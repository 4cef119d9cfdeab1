"""`famjax launch submit`: what is checked before, which command is run, and what is said when it fails."""

import shlex

import pytest

from command_line import invoke
from famjax.launch import submitting
from launching import NEEDED, RUN, SCAN, Clients, flags

CLIENTS = {"gke": "kubectl", "xpk": "xpk", "tpu_vm": "gcloud", "slurm": "sbatch"}
SLICES = {"gke": "v5e-16", "xpk": "v5e-16", "tpu_vm": "v5e-16", "slurm": "h100-8"}


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Stand-ins for every client, which succeed."""
    clients = Clients(tmp_path / "bin")
    for name in {"gcloud", *CLIENTS.values()}:
        clients.add(name)
    monkeypatch.setenv("PATH", clients.path)
    monkeypatch.chdir(tmp_path)
    return clients


def submit(capsys, platform, *more, run=RUN):
    """Submits a launch."""
    return invoke(capsys, ["launch", "submit", *flags(platform, SLICES[platform]), *more, *run])


@pytest.fixture
def unchecked(monkeypatch):
    """Leaves out the run's check, which takes seconds."""
    monkeypatch.setattr(submitting, "describe_run", lambda configuration: "")


@pytest.mark.parametrize("platform", NEEDED)
@pytest.mark.usefixtures("unchecked")
def test_the_client_is_called_as_printed(capsys, clients, tmp_path, platform):
    """A command is shown and another one is run, or none."""
    outcome = submit(capsys, platform)
    assert outcome.code == 0, outcome.stderr
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("$ ")]
    client, *arguments = shlex.split(line[2:])
    assert client == CLIENTS[platform]
    calls = clients.calls(client)
    assert [call for call in calls if call[:2] != ["storage", "buckets"]] == [arguments]
    written = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "launched").rglob("*.*"))
    assert [f"wrote {path}" for path in written] == sorted(
        text for text in outcome.stdout.splitlines() if text.startswith("wrote ")
    )
    assert platform == "xpk" or any(path in line for path in written)


def test_a_wrong_run_is_not_submitted(capsys, clients):
    """What --dry_run refuses is found out on the slice, after hours in a queue."""
    outcome = submit(capsys, "gke", "--gin.AdamW.freeze=('nothing/.*',)")
    assert outcome.code == 2
    assert "nothing/.*" in outcome.stderr
    assert clients.calls("kubectl") == []


def test_a_file_in_a_mounted_bucket_is_not_looked_for_here(capsys, clients):
    """A run whose vocabulary lies in a bucket can be submitted only from a machine that has it mounted."""
    vocabulary = [
        "--gin.VOCABULARY=@SentencePieceVocabulary()",
        "--gin.SentencePieceVocabulary.path='/gcs/my-runs/a.model'",
    ]
    outcome = submit(capsys, "gke", *vocabulary)
    assert outcome.code == 0, outcome.stderr
    assert "checking the run ... as far as this machine can see: " in outcome.stdout
    assert "/gcs/my-runs/a.model" in outcome.stdout
    outcome = submit(capsys, "gke", run=[*SCAN, "--gin.CHECKPOINTS={'books': '/gcs/my-runs/tiny'}"])
    assert outcome.code == 0, outcome.stderr
    assert "as far as this machine can see: /gcs/my-runs/tiny" in outcome.stdout


@pytest.mark.usefixtures("unchecked")
def test_a_plan_before_the_submission(capsys, clients):
    """A training that cannot fit waits for its slice, and then fails."""
    small = "--gin.TransformerConfig.vocab_size=260"
    outcome = submit(capsys, "slurm", "--plan", small)
    assert outcome.code == 0, outcome.stderr
    assert "Plan for h100-8: 8 chips, 1 host" in outcome.stdout
    assert outcome.stdout.index("Plan for") < outcome.stdout.index("$ sbatch")
    outcome = submit(capsys, "slurm", "--plan", small, "--gin.BATCH_SIZE=8000000")
    assert outcome.code == 2
    assert "GiB of each of the 8 chips" in outcome.stderr
    assert len(clients.calls("sbatch")) == 1
    outcome = submit(capsys, "slurm", "--plan", run=SCAN)
    assert (outcome.code, outcome.stderr) == (
        2,
        "--plan is for a training, and this is --run_mode=scan; leave it out.\n",
    )


MISSING = "ERROR: (gcloud.storage.buckets.describe) gs://my-runs not found: 404.\n"
FORBIDDEN = (
    "Your active configuration is: [mine]\n"
    "ERROR: (gcloud.storage.buckets.describe) HTTPError 403: me@project does not have storage.buckets.get access to "
    "the Google Cloud Storage bucket.\nMore.\n"
)
EMPTY = "ERROR: (gcloud.storage.ls) One or more URLs matched no objects.\n"
DESCRIBE = ["storage", "buckets", "describe", "gs://my-runs", "--format=value(name)"]


@pytest.mark.parametrize(
    ("answers", "others"),
    [
        ([(1, MISSING), (0, "my-rums\nother\n")], " Did you mean my-rums? The project has 2 buckets: my-rums, other."),
        ([(1, MISSING), (1, FORBIDDEN)], ""),
        ([(1, FORBIDDEN), (1, MISSING), (0, "other\n")], " The project has 1 bucket: other."),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_bucket_that_does_not_exist(capsys, clients, answers, others):
    """A misspelled bucket is found out by the run, when it first saves."""
    clients.add("gcloud", *answers)
    outcome = submit(capsys, "gke")
    assert outcome.code == 2
    assert outcome.stderr == f"--bucket=gs://my-runs does not exist.{others}\n"
    assert clients.calls("gcloud")[0] == DESCRIBE
    assert clients.calls("kubectl") == []


@pytest.mark.parametrize(
    ("listing", "note"),
    [
        ((0, "gs://my-runs/tiny/a\n"), "gs://my-runs is there, by its objects; you may not look at the bucket itself"),
        ((1, EMPTY), "gs://my-runs is there, by its objects; you may not look at the bucket itself"),
        ((1, FORBIDDEN), "gs://my-runs cannot be looked at from here (HTTPError 403: me@project does not have storage"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_bucket_that_one_may_not_look_at(capsys, clients, listing, note):
    """Whoever has rights to the objects alone cannot submit, though the run itself needs no more."""
    clients.add("gcloud", (1, FORBIDDEN), listing)
    outcome = submit(capsys, "gke", "--gin.Documents.paths=['/gcs/my-runs/books/*.txt']")
    assert outcome.code == 0, outcome.stderr
    assert f"checking the buckets ... {note}" in outcome.stdout
    asked = clients.calls("gcloud")
    assert asked[0] == DESCRIBE
    assert asked[1][:2] == ["storage", "ls"]
    assert asked[1][2] in ("gs://my-runs/tiny/", "gs://my-runs/books/")
    assert len(clients.calls("kubectl")) == 1


@pytest.mark.usefixtures("unchecked")
def test_a_client_that_fails_or_is_missing(capsys, clients, monkeypatch):
    """A launch that failed looks like one that did not."""
    clients.add("kubectl", (3, ""))
    outcome = submit(capsys, "gke")
    told = "kubectl ended with exit code 3; what it has made, and what not, stands above.\n"
    assert (outcome.code, outcome.stderr) == (2, told)  # of two objects in a file it may have made one
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = submit(capsys, "gke")
    assert outcome.code == 2
    assert "checking the buckets ... skipped: gcloud is not installed here" in outcome.stdout
    assert outcome.stderr.startswith("kubectl is not installed here")


def test_render_calls_nothing(capsys, clients, tmp_path):
    """Whoever wants to see the files has not asked for machines."""
    outcome = invoke(capsys, ["launch", "render", *flags("gke", "v5e-16"), *RUN])
    assert outcome.code == 0
    assert not list(clients.folder.glob("*.calls"))
    note, *lines = outcome.stdout.splitlines()
    assert note == "note: no Documents.paths: the task 'documents' reads the sources of Python's standard library"
    assert lines[:3] == [
        "wrote launched/tiny/jobset.yaml",
        "submit with:",
        "  kubectl create --filename=launched/tiny/jobset.yaml",
    ]
    assert outcome.stderr == ""
    again = invoke(capsys, ["launch", "render", *flags("gke", "v5e-16"), *RUN]).stdout.splitlines()
    assert again[1] == "overwrote launched/tiny/jobset.yaml"  # of another run, perhaps
