"""Folders of safetensors that are no model, or more than one: told by name."""

import json
import shutil

import pytest
from imported import copy_of
from safetensors.numpy import save_file

from famjax.errors import CheckpointError
from famjax.interop.tensor_files import INDEX_FILE, SINGLE_FILE, list_tensors

NORM = "model.norm.weight"


def edit_index(file):
    """A damage that names another file for a tensor."""

    def edit(folder):
        index = json.loads((folder / INDEX_FILE).read_text())
        index["weight_map"][NORM] = file
        (folder / INDEX_FILE).write_text(json.dumps(index))

    return edit


FOLDERS = {
    "both": (
        lambda folder: shutil.copy(folder / "model-00001-of-00003.safetensors", folder / SINGLE_FILE),
        r"has model.safetensors and model.safetensors.index.json, .* takes the single file. Delete the one",
    ),
    "no_index": (
        lambda folder: (folder / INDEX_FILE).unlink(),
        r"has model-00001-of-00003.safetensors, and model.safetensors.index.json is missing; download or copy it too",
    ),
    "empty_index": (lambda folder: (folder / INDEX_FILE).write_text('{"weight_map": {}}'), "has no weight_map"),
    "number": (edit_index(3), rf"the file of {NORM} is 3; it must be a file's name"),
    "null": (edit_index(None), rf"the file of {NORM} is None; it must be"),
    "list": (edit_index(["a"]), rf"the file of {NORM} is \['a'\]; it must be"),
    "subfolder": (edit_index("sub/a.safetensors"), r"is 'sub/a.safetensors'; only files beside the index are read"),
}


@pytest.mark.parametrize(("damage", "message"), FOLDERS.values(), ids=FOLDERS)
def test_folders_that_are_refused(damage, message, tmp_path):
    """Guards against the weights of an older model, which transformers would not load, and against tracebacks."""
    folder = copy_of("llama", tmp_path)
    assert NORM in list_tensors(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        list_tensors(folder)


def test_one_shard_with_an_index(tmp_path):
    """Guards against a model that is refused for having an index that it would not need."""
    folder = copy_of("llama", tmp_path)
    tensors = {name: info.read() for name, info in list_tensors(folder).items()}
    only = "model-00001-of-00001.safetensors"
    save_file(tensors, folder / only)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, only)}))
    assert {info.file.name for info in list_tensors(folder).values()} == {only}
