"""One base on the devices, and what finetunings of it trained put on it one after the other."""

import dataclasses
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from famjax.errors import CheckpointError, ConfigError
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.inference.infer import infer
from famjax.inference.interactive import converse
from famjax.inference.job_config import InferJob
from famjax.inference.language_model import LanguageModel
from famjax.pods.config import MeshConfig
from famjax.training import checkpoint_arrays
from famjax.training.finetuning_config import Finetuning
from finetuned import ADAPTED, MEMORY_ONLY, PREFIX_ONLY, write_base, write_finetuning

ONE_DEVICE = MeshConfig(num_devices=1)
TEXT = "A text of some blocks, each of them eight tokens long."
ROUNDED = {"finetuning": Finetuning(memory_only=True, base_dtype="bfloat16")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base and its finetunings: LoRA, two prompts, one over a rounded base, a prefix; another base with a memory."""
    folder = tmp_path_factory.mktemp("adapters")
    base = write_base(folder)
    write_finetuning(folder, "lora", base, **ADAPTED)
    for seed, name in enumerate(("first", "second"), start=2):
        write_finetuning(folder, name, base, seed, **MEMORY_ONLY)
    write_finetuning(folder, "rounded", base, 4, **ROUNDED)
    write_finetuning(folder, "prefix", base, 6, **PREFIX_ONLY)
    write_finetuning(folder, "elsewhere", write_base(folder, "other", seed=5), **MEMORY_ONLY)
    return folder


def opened(folder, name, **settings):
    """A checkpoint of the folder."""
    return LanguageModel.open(folder / name, mesh=ONE_DEVICE, chunk_blocks=2, **settings)


@pytest.fixture(scope="module")
def base(folder):
    """The base, opened."""
    return opened(folder, "base")


def scores(model):
    """Log-probabilities of a text's tokens."""
    return model.session().score(TEXT).logprobs


def assert_same_params(left, right):
    """The same tree, bit by bit."""
    first, second = flatten_dict(left, sep="/"), flatten_dict(right, sep="/")
    assert list(first) == list(second)
    for path, leaf in first.items():
        assert leaf.dtype == second[path].dtype
        np.testing.assert_array_equal(leaf, second[path], err_msg=path)


@pytest.mark.parametrize("name", ["lora", "first", "rounded", "prefix"])
def test_putting_on_equals_opening(folder, base, name, monkeypatch):
    """Guards against a base that differs after the swap, that is read again, or an adapter of another checkpoint."""
    anew = opened(folder, name)
    read = []
    original = checkpoint_arrays.read_arrays
    monkeypatch.setattr(
        checkpoint_arrays, "read_arrays", lambda place, part: read.append(part) or original(place, part)
    )
    swapped = base.with_adapter(folder / name)
    assert_same_params(swapped.params, anew.params)
    assert (swapped.config, swapped.trained, swapped.checkpoint) == (anew.config, anew.trained, anew.checkpoint)
    np.testing.assert_array_equal(scores(swapped), scores(anew))
    assert np.abs(scores(swapped) - scores(base)).max() > 1e-3
    paths = {path for part in read for path in flatten_dict(part["params"], sep="/")}
    memory = "layers/fam_prefix" if name == "prefix" else "fam_prompt"
    assert memory in paths
    assert not [path for path in paths if "lora" not in path and path != memory]
    if name != "rounded":
        assert swapped.params["embedding"]["table"] is base.params["embedding"]["table"]


def test_one_after_the_other(folder, base):
    """Guards against something of the adapter before that stays, and against a base that is worn down."""
    there = base.with_adapter(folder / "lora").with_adapter(folder / "second")
    assert_same_params(there.params, opened(folder, "second").params)
    assert_same_params(there.with_adapter(folder / "lora").params, opened(folder, "lora").params)
    short = base.with_adapter(folder / "first", memory=MemoryOverrides(num_segments=0))
    assert short.config.memory.num_segments == 0


def test_what_is_no_adapter_of_this_base(folder, base):
    """Guards against an adapter on a base that it was not trained on."""
    with pytest.raises(CheckpointError, match=r"elsewhere/checkpoint_3 .*finetuning of .*other/checkpoint_7; .*base"):
        base.with_adapter(folder / "elsewhere")
    with pytest.raises(CheckpointError, match=r"base/checkpoint_7 .* holds all its parameters"):
        base.with_adapter(folder / "base")
    rounded = base.with_adapter(folder / "rounded")
    with pytest.raises(CheckpointError, match=r"is not \(or not in float32\) the same base"):
        rounded.with_adapter(folder / "first")
    with pytest.raises(CheckpointError, match="does not exist"):
        base.with_adapter(folder / "nowhere")

    class OtherBytes(type(base.vocabulary)):
        fingerprint = "other"

    with pytest.raises(ConfigError, match="another vocabulary"):
        dataclasses.replace(base, vocabulary=OtherBytes()).with_adapter(folder / "first")


def test_a_base_that_moved(folder, tmp_path):
    """Guards against an adapter that can be opened only where it was trained."""
    moved = tmp_path / "moved"
    (folder / "base").rename(moved)
    try:
        with pytest.raises(CheckpointError, match=r"Set --gin.BASE_CHECKPOINT_PATH to where the base is now"):
            opened(folder, "first")
        here = opened(folder, "first", base=moved)
    finally:
        moved.rename(folder / "base")
    assert_same_params(here.params, opened(folder, "first").params)


def test_prompts_name_their_adapters(folder, tmp_path):
    """Guards against answers of another user's memory, and against results out of order."""
    names = ["", "second", "first", "lora", "first", ""]
    records = [
        {"prompt": TEXT[: 9 + i], **({"adapter": str(folder / name)} if name else {})} for i, name in enumerate(names)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    job = InferJob(
        str(folder / "base"),
        prompts=str(tmp_path / "prompts.jsonl"),
        output=str(tmp_path / "results.jsonl"),
        sampling=SamplingConfig(max_new_tokens=3, logprobs=True, stop_at_eos=False),
        batch_size=4,
        chunk_blocks=2,
        mesh=ONE_DEVICE,
    )
    infer(job)
    results = [json.loads(line) for line in Path(job.output).read_text().splitlines()]
    assert [result["index"] for result in results] == list(range(6))
    for name, record, result in zip(names, records, results, strict=True):
        answer = opened(folder, name or "base").session().ask(record["prompt"], job.sampling)
        np.testing.assert_allclose(result["completions"][0]["logprobs"], answer.logprobs, rtol=1e-4, atol=1e-5)
    missing = json.dumps({"prompt": "a", "adapter": str(tmp_path / "nowhere")})
    (tmp_path / "prompts.jsonl").write_text(missing)
    with pytest.raises(CheckpointError, match=r'nowhere \("adapter"\) does not exist'):
        infer(dataclasses.replace(job, output=str(tmp_path / "none.jsonl")))


def test_an_adapter_in_a_terminal_session(folder, base, tmp_path, monkeypatch, capsys):
    """Guards against "/adapter" that changes nothing, that keeps what another memory has read, or ends the session."""
    sampling = SamplingConfig(max_new_tokens=32, temperature=1.0, stop_at_eos=False)
    memory = MemoryOverrides(num_segments=0)
    (tmp_path / "book.txt").write_text(TEXT)
    lines = [f"/read {tmp_path / 'book.txt'}", "who?", f"/adapter {folder / 'first'}", "who?"]
    mistakes = ["/adapter", f"/adapter {folder / 'elsewhere'}", f"/adapter {folder / 'base'}", "who?"]
    typed = "".join(f"{line}\n" for line in (*lines, *mistakes))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
    here = base.with_memory(memory)
    converse(here, InferJob(str(folder / "base"), interactive=True, sampling=sampling, memory=memory))
    before = here.session()
    before.read(TEXT)
    adapted = opened(folder, "first", memory=memory).session().ask("who?", sampling).text
    session = capsys.readouterr()
    assert session.out == "".join(f"{text}\n" for text in (before.ask("who?", sampling).text, adapted, adapted))
    assert adapted != here.session().ask("who?", sampling).text
    missing, other, whole = session.err.splitlines()
    assert missing == "/adapter PATH: the checkpoint is missing."
    assert "is a finetuning of" in other
    assert "holds all its parameters" in whole
