"""What a TPU VM runs, and what requests it again: the scripts themselves, under programs that stand in for Google's."""

import pytest

from launching import RUN, Clients, rendered, run_script

# curl, as Google's metadata server answers: the first host of the first slice.
CURL = """#!/bin/bash
case "${@: -1}" in
    */agent-worker-number) echo "${WORKER:-0}" ;;
    */tpu-env) printf "ACCELERATOR_TYPE: 'v5litepod-16'\\nMEGASCALE_SLICE_ID: '%s'\\n" "${SLICE:-0}" ;;
esac
"""
RELEASE = [
    "compute",
    "tpus",
    "queued-resources",
    "delete",
    "tiny",
    "--project=my-project",
    "--zone=my-zone-b",
    "--force",
]


@pytest.fixture
def clients(tmp_path):
    """Stand-ins; waiting takes no time."""
    clients = Clients(tmp_path / "bin")
    clients.add("gcloud")
    clients.add("sleep")
    clients.add_script("curl", CURL)
    return clients


def run(clients, script, **variables):
    """Runs a script to its end."""
    return run_script(script, PATH=clients.path, **variables)


def containers(clients, codes):
    """Lets docker end its runs with these exit codes, in order; pulls succeed."""
    clients.add("docker-run", *((code, "") for code in codes))
    clients.add_script("docker", '#!/bin/bash\nif [[ $1 == run ]]; then exec docker-run "${@:2}"; fi\n')


@pytest.mark.parametrize(
    ("codes", "starts", "last"),
    [
        ((0,), 1, 0),
        ((2,), 1, 2),
        ((5,), 1, 5),
        ((143, 143, 143, 143, 0), 5, 0),
        ((1, 143, 1, 0), 4, 0),
        ((1, 137, 1), 3, 1),
    ],
)
def test_startup_starts_again(clients, codes, starts, last):
    """A run that is not started again after a preemption, or is for ever; machines that nobody hands back."""
    containers(clients, codes)
    process = run(clients, rendered("tpu_vm", "v5e-16", retries=2, env=("A=b c",)).files["startup.sh"])
    assert process.returncode == last, process.stderr
    calls = clients.calls("docker-run")
    assert len(calls) == starts
    image = calls[0].index("registry/famjax:1")
    assert calls[0][image + 1 :] == ["famjax", "--run_mode=train", *RUN]
    assert {"--env=A=b c", "--network=host", "--privileged", "--stop-timeout=300"} <= set(calls[0][:image])
    assert [call for call in clients.calls("gcloud") if "delete" in call] == [[*RELEASE, "--quiet", "--async"]]


@pytest.mark.parametrize("place", [{"WORKER": "1"}, {"SLICE": "1"}])
def test_only_the_first_host_hands_the_machines_back(clients, place):
    """The first host to end takes the machines away from those that still save."""
    containers(clients, (0,))
    assert run(clients, rendered("tpu_vm", "v5e-16", num_slices=2).files["startup.sh"], **place).returncode == 0
    assert not [call for call in clients.calls("gcloud") if "delete" in call]


def test_an_image_that_is_not_there(clients):
    """A log that says famjax failed, where it never ran: the mistake is looked for in the run."""
    clients.add_script("docker", "#!/bin/bash\n[[ $1 != pull ]]\n")
    process = run(clients, rendered("tpu_vm", "v5e-16").files["startup.sh"])
    assert process.returncode == 1
    assert "the image registry/famjax:1 could not be pulled; famjax was not started." in process.stdout
    assert "famjax exited" not in process.stdout
    assert [call for call in clients.calls("gcloud") if "delete" in call]


def test_startup_brings_gin_files_and_buckets(tmp_path, clients):
    """A run without the user's gin files, or without its data."""
    (tmp_path / "mine.gin").write_text("BATCH_SIZE = 4  # $HOME `date`\n")
    extra = [f"--gin_file={tmp_path / 'mine.gin'}", "--gin.Documents.paths=['/gcs/my-runs/books/*.txt']"]
    script = rendered("tpu_vm", "v5e-16", [*RUN, *extra]).files["startup.sh"]
    containers(clients, (0,))
    for name in ("gcsfuse", "mountpoint"):
        clients.add(name, (int(name == "mountpoint"), ""))
    here = script.replace("/etc/famjax", str(tmp_path / "etc")).replace("/gcs/my-runs", str(tmp_path / "gcs"), 3)
    assert run(clients, here).returncode == 0
    assert (tmp_path / "etc" / "gin" / "mine.gin").read_text() == (tmp_path / "mine.gin").read_text()
    assert clients.calls("gcsfuse") == [["--implicit-dirs", "-o", "allow_other", "my-runs", str(tmp_path / "gcs")]]
    (call,) = clients.calls("docker-run")
    assert "--volume=/gcs:/gcs" in call
    assert f"--volume={tmp_path / 'etc'}/gin:{tmp_path / 'etc'}/gin:ro" in call
    assert f"--gin_search_paths={tmp_path / 'etc'}/gin" in call
    assert "--gin_file=mine.gin" in call


@pytest.mark.parametrize(
    ("states", "actions", "code"),
    [
        (["", "WAITING_FOR_RESOURCES", "ACTIVE", ""], ["create"], 0),
        (["ACTIVE", ""], [], 0),
        (["", "ACTIVE", "SUSPENDED", "ACTIVE", "SUSPENDED", ""], ["create", *(["delete", "create"] * 2)], 0),
        (["", "FAILED", "FAILED", "FAILED", ""], ["create", "delete", "create", "delete", "create"], 1),
        (["", None, "ACTIVE", None, ""], ["create"], 0),
    ],
)
def test_request_asks_again(clients, states, actions, code):
    """A preempted request that stays as it is, a finished run that is begun again, a network fault that ends it."""
    clients.add("list", *((1, "") if state is None else (0, state) for state in states))
    clients.add("others")
    clients.add_script("gcloud", '#!/bin/bash\nif [[ $4 == list ]]; then exec list "$@"; else exec others "$@"; fi\n')
    launch = rendered("tpu_vm", "v5p-128", capacity="spot", retries=2)
    process = run(clients, launch.files["request.sh"])
    assert process.returncode == code, process.stderr
    calls = clients.calls("others")
    assert [call[3] for call in calls] == actions
    assert all(call == list(launch.command[1:]) for call in calls if call[3] == "create")
    assert len(clients.calls("list")) == len(states) - (code == 1)


def test_a_network_fault_is_no_end(clients):
    """A preempted run whose next request fails once, and is told to have ended; a first one that is wrong, for ever."""
    clients.add("list", *((0, state) for state in ("", "SUSPENDED", "SUSPENDED", "", "", "ACTIVE", "")))
    clients.add("others", *((code, "") for code in (0, 1, 0, 1, 1, 0)))
    clients.add_script("gcloud", '#!/bin/bash\nif [[ $4 == list ]]; then exec list "$@"; else exec others "$@"; fi\n')
    script = rendered("tpu_vm", "v5p-128", capacity="spot").files["request.sh"]
    assert run(clients, script).returncode == 0
    assert [call[3] for call in clients.calls("others")] == ["create", "delete", "delete", "create", "create", "create"]
    assert len(clients.calls("list")) == 7
    clients.add("list", (0, ""))
    clients.add("others", (1, ""))
    assert run(clients, script).returncode == 1
