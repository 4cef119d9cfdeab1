"""Manifests of Google Kubernetes Engine: their schemas, their numbers, what they do when a run ends."""

import math
import re
import shlex

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models

from famjax.configuration.arguments import parse_arguments
from famjax.configuration.files import gin_root
from famjax.configuration.loading import load
from famjax.main import RUN_MODES
from famjax.pods.slices import parse_slice
from famjax.training.config import TrainJob
from launching import RUN, SCAN, TPU_SLICES, read_run, rendered

KUBERNETES = "1.33"
# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
LABELS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
# What the Job controller and JobSet add to objects that leave it out.
DEFAULTED = {"protocol"}


def documents(text):
    """The objects of a manifest by kind."""
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def jobset(slice_name, run=RUN, **settings):
    """The JobSet of a run."""
    return documents(rendered("gke", slice_name, run, **settings).files["jobset.yaml"])["JobSet"]


def check_job(spec, name):
    """Checks a JobSpec against the published schema of Kubernetes, in which unknown fields are errors."""
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    kubernetes_validate.validate(job, KUBERNETES, strict=True)


def lost(given, kept, place=""):
    """The fields that a schema does not know, or has otherwise."""
    if isinstance(given, dict):
        return [
            found
            for key, value in given.items()
            for found in (lost(value, kept[key], f"{place}.{key}") if key in kept else [f"{place}.{key}"])
        ]
    if isinstance(given, list):
        pairs = zip(given, kept, strict=True)
        return [found for number, pair in enumerate(pairs) for found in lost(*pair, f"{place}[{number}]")]
    return [] if given == kept else [place]


def check_jobset(manifest):
    """Checks a JobSet against the types of its published OpenAPI, then its Job against that of Kubernetes."""
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    kept = models.JobsetV1alpha2JobSet.from_dict(manifest).to_dict()
    assert not lost(manifest, kept)
    assert not [field for field in lost(kept, manifest) if field.split(".")[-1] not in DEFAULTED]
    for replicated in manifest["spec"]["replicatedJobs"]:
        check_job(replicated["template"]["spec"], manifest["metadata"]["name"])


@pytest.mark.parametrize("num_slices", [1, 2])
@pytest.mark.parametrize("name", TPU_SLICES)
def test_jobset(name, num_slices):
    """A field that the cluster does not know, a selector that no node has, pods without chips or chips without pods."""
    manifest = jobset(name, num_slices=num_slices, queue="tpu", capacity="spot")
    check_jobset(manifest)
    one = parse_slice(name)
    text = rendered("gke", name, num_slices=num_slices).files["jobset.yaml"]
    assert f"= {one.chips} chips, {one.chips_per_host} on each node ({one.gke_machine_type})." in text
    (replicated,) = manifest["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    selector = pod["nodeSelector"]
    sides = [int(side) for side in selector["cloud.google.com/gke-tpu-topology"].split("x")]
    chips = int(container["resources"]["limits"]["google.com/tpu"])
    assert job["completions"] == job["parallelism"]
    assert job["completions"] * chips == math.prod(sides) == parse_slice(name).chips
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == LABELS[name.split("-")[0]]
    assert selector["cloud.google.com/gke-spot"] == "true"
    assert replicated["replicas"] == num_slices
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpu"}
    assert pod.get("hostNetwork", False) is (num_slices > 1)
    # JobSet makes names of these, and refuses those with more than 63 characters.
    longest = f"{'a' * 40}-{replicated['name']}-{num_slices - 1}-{job['completions'] - 1}-abcde"
    assert len(longest) <= 63
    assert container["command"] == ["famjax"]
    told = [f"--gin.MeshConfig.num_slices={num_slices}"] if num_slices > 1 else []
    assert container["args"] == ["--run_mode=train", *RUN, *told]


def expanded(text, variables):
    """What Kubernetes makes of an argument or a variable (third_party/forked/golang/expansion/expand.go)."""
    return re.sub(
        r"\$(\$|\((.*?)\))", lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]), text
    )


def test_capacity_buckets_and_environment():
    """A reservation that is not asked for, data that are not mounted, a variable that the shell or YAML changes."""
    manifest = jobset(
        "v5p-4x4x8",
        run=[*RUN, "--gin.Documents.paths=['/gcs/my-runs/books/*.txt']"],
        capacity="reserved",
        reservation="on",
        env=("NUMBER=1", "TEXT=a: $(HOME) 'b'", "NO=$$(HOME)$$a$"),
        service_account="trainer",
        namespace="research",
    )
    check_jobset(manifest)
    assert manifest["metadata"]["namespace"] == "research"
    template = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["spec"]["nodeSelector"]["cloud.google.com/reservation-name"] == "on"
    assert template["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4x8"
    assert template["spec"]["serviceAccountName"] == "trainer"
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    (container,) = template["spec"]["containers"]
    variables = {variable["name"]: expanded(variable["value"], {"HOME": "/root"}) for variable in container["env"]}
    assert variables == {"NUMBER": "1", "TEXT": "a: $(HOME) 'b'", "NO": "$$(HOME)$$a$"}
    (mount,) = container["volumeMounts"]
    (volume,) = template["spec"]["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/gcs/my-runs"}
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "my-runs"


def pod_failure(rules, code, disrupted):
    """What the Job controller does with a failed pod: the action, and the message of the Job's failure.

    Its messages: https://github.com/kubernetes/kubernetes/blob/master/pkg/controller/job/pod_failure_policy.go
    """
    for index, rule in enumerate(rules):
        matching = f"matching {rule['action']} rule at index {index}"
        if "onExitCodes" in rule and code in rule["onExitCodes"]["values"]:
            name = rule["onExitCodes"]["containerName"]
            return rule["action"], f"Container {name} for pod default/tiny failed with exit code {code} {matching}"
        if "onPodConditions" in rule and disrupted:
            return rule["action"], f"Pod default/tiny has condition DisruptionTarget {matching}"
    return "Count", ""


def jobset_action(manifest, code, disrupted):
    """What JobSet does when a pod ends so: the first rule by reason and message, or a start that is counted."""
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    action, message = pod_failure(job["podFailurePolicy"]["rules"], code, disrupted)
    assert action in ("FailJob", "Count")
    assert job["backoffLimit"] == 0  # a pod that is counted ends the Job
    reason = "PodFailurePolicy" if action == "FailJob" else "BackoffLimitExceeded"
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule["onJobFailureMessagePatterns"]
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("code", "disrupted", "action"),
    [
        (2, False, "FailJobSet"),
        (5, False, "FailJobSet"),
        (2, True, "FailJobSet"),
        (143, False, "RestartJobSetAndIgnoreMaxRestarts"),
        (143, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, False, "RestartJobSet"),
        (1, False, "RestartJobSet"),
        (3, False, "RestartJobSet"),
    ],
)
def test_what_follows_the_end_of_a_run(code, disrupted, action):
    """A preempted run that is not started again, or a wrong configuration that is, for ever."""
    manifest = jobset("v5e-256", retries=7)
    assert jobset_action(manifest, code, disrupted) == action
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    allowed = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
    assert {rule["action"] for rule in policy["rules"]} <= allowed
    assert policy["restartStrategy"] in ("Recreate", "BlockingRecreate")


@pytest.mark.parametrize("name", ["v4-8", "v5e-1", "v5e-8", "v5p-8", "v6e-1", "v6e-8"])
def test_scan_in_parts(name):
    """Parts that are asked twice or by nobody, and a part that is not tried again after a preemption."""
    text = rendered("gke", name, SCAN, shards=4, retries=2).files["job.yaml"]
    job = documents(text)["Job"]
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert (spec["backoffLimitPerIndex"], spec["podReplacementPolicy"]) == (2, "Failed")
    (container,) = spec["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "SCAN_SHARD_COUNT", "value": "4"}]
    assert int(container["resources"]["limits"]["google.com/tpu"]) == parse_slice(name).chips
    rules = spec["podFailurePolicy"]["rules"]
    actions = {code: pod_failure(rules, code, disrupted=False)[0] for code in (1, 2, 5, 6, 143)}
    assert actions == {1: "Count", 2: "FailJob", 5: "FailJob", 6: "Count", 143: "Ignore"}
    assert pod_failure(rules, 137, disrupted=True)[0] == "Ignore"


def test_a_scan_on_a_slice_of_many_hosts_is_one_part():
    """JobSet numbers hosts as an Indexed Job numbers parts: each host would take a part, of an unknown number."""
    manifest = jobset("v5e-16", SCAN)
    check_jobset(manifest)
    (container,) = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "SCAN_SHARD", "value": "0/1"}]


def test_the_commands_that_follow_go_to_the_same_cluster():
    """A job that is looked for, or ended, in the cluster that kubectl was used for last."""
    launch = rendered("gke", "v5e-16", cluster="west", namespace="research")
    commands = [shlex.split(command) for command in (shlex.join(launch.command), *dict(launch.next_steps).values())]
    assert [command[:3] for command in commands] == [
        ["kubectl", "--context=west", verb] for verb in ("create", "get", "logs", "delete")
    ]


@pytest.mark.parametrize(
    ("run", "settings", "label", "pods"),
    [
        (RUN, {"num_slices": 2}, "jobset.sigs.k8s.io/jobset-name", 8),
        (SCAN, {"slice_name": "v5e-4", "shards": 3}, "batch.kubernetes.io/job-name", 3),
    ],
)
def test_the_logs_of_all_pods(run, settings, label, pods):
    """Lines that nobody finds who has not learnt how JobSet names pods; kubectl follows 5 pods unless told more."""
    values = {"slice_name": "v5e-16", **settings}
    (command,) = [step for purpose, step in rendered("gke", run=run, **values).next_steps if purpose == "logs"]
    assert shlex.split(command) == [
        *("kubectl", "logs", f"--selector={label}=tiny", "--namespace=default"),
        *("--prefix", "--follow", f"--max-log-requests={pods}"),
    ]


def test_gin_files_of_ones_own_go_along(tmp_path, monkeypatch):
    """A run on another machine has other settings, or no gin files: those of the user and what they include."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "mine.gin").write_text("include 'models/tiny.gin'\n\nBATCH_SIZE = 24\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "outer.gin").write_text("include 'sizes/mine.gin'\nTRAIN_STEPS = 11\n")
    outer = f"--gin_file={tmp_path / 'elsewhere' / 'outer.gin'}"
    run = [*(flag for flag in RUN if "tiny.gin" not in flag and "TRAIN_STEPS" not in flag), outer]
    manifest = documents(rendered("gke", "v5e-256", run).files["jobset.yaml"])
    check_jobset(manifest["JobSet"])
    kubernetes_validate.validate(manifest["ConfigMap"], KUBERNETES, strict=True)
    pod = manifest["JobSet"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]

    # As Kubernetes would mount it, on a machine that has nothing else.
    (volume,) = pod["volumes"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    there = tmp_path / "there"
    for item in volume["configMap"]["items"]:
        path = there / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest["ConfigMap"]["data"][item["key"]])
    assert volume["configMap"]["name"] == manifest["ConfigMap"]["metadata"]["name"]
    for name in ("sizes/mine.gin", "elsewhere/outer.gin"):
        (tmp_path / name).unlink()
    line = [argument.replace(mount["mountPath"], str(there)) for argument in container["args"]]
    parsed = parse_arguments(line, list(RUN_MODES))
    job = load(TrainJob, parsed.gin_files, parsed.gin_bindings, parsed.gin_search_paths).job
    assert (job.data.batch_size, job.total_steps) == (24, 11)


def test_other_gin_files_are_another_config_map(tmp_path, monkeypatch):
    """A second launch of a name reads the gin files that the first one, which was refused, has left in the cluster."""
    monkeypatch.chdir(tmp_path)
    names = []
    for text in ("BATCH_SIZE = 24\n", "  # indented\nBATCH_SIZE = 32\n", "BATCH_SIZE = 24\n"):
        (tmp_path / "mine.gin").write_text(text)
        read_run.cache_clear()
        manifest = documents(rendered("gke", "v5e-4", [*RUN, "--gin_file=mine.gin"]).files["jobset.yaml"])
        names.append(manifest["ConfigMap"]["metadata"]["name"])
        assert manifest["ConfigMap"]["data"]["file-0"] == text
    assert names[0] == names[2] != names[1]


def test_famjax_own_files_keep_their_names():
    """In a checkout `gin/models/tiny.gin` is a file too; in the image it is models/tiny.gin."""
    run = [flag.replace("models/", f"{gin_root()}/models/") for flag in RUN]
    assert run != list(RUN)
    job = jobset("v5e-4", run)["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["template"]["spec"]["containers"][0]["args"] == ["--run_mode=train", *RUN]
