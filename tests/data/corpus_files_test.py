"""Tests of famjax.data.corpus_files."""

import shutil

import pytest

from famjax.data.corpus_files import corpus_files
from famjax.data.task_config import Documents
from famjax.errors import ConfigError, DataError


def names(config, split):
    """The names of a split's files."""
    return [file.name for file in corpus_files(config, split)]


def test_splits_part_the_files(corpus_dir):
    """Guards against text in training that is validated on, and against lost files."""
    config = Documents(paths=(f"{corpus_dir}/**/*.txt",), validation_fraction=0.3)
    train, validation = names(config, "train"), names(config, "validation")
    assert train
    assert validation
    assert not set(train) & set(validation)
    assert len(train) + len(validation) == 12
    assert train == sorted(train)


def test_split_depends_on_the_name_below_the_root_alone(corpus_dir, tmp_path):
    """Guards against a split that moves when the corpus moves, or when files are added."""
    config = Documents(paths=(f"{corpus_dir}/**/*.txt",), validation_fraction=0.3)
    moved = shutil.copytree(corpus_dir, tmp_path / "elsewhere" / "copy")
    (moved / "part0" / "another.txt").write_text("new")
    there = Documents(paths=(f"{moved}/**/*.txt",), validation_fraction=0.3)
    for split in ("train", "validation"):
        assert [name for name in names(there, split) if "another" not in name] == names(config, split)


def test_validation_paths_replace_the_hash(corpus_dir):
    """Guards against files that are held out although the user named the validation files."""
    config = Documents(
        paths=(f"{corpus_dir}/part0/*", f"{corpus_dir}/part1/*"), validation_paths=(f"{corpus_dir}/part2/*",)
    )
    assert len(names(config, "train")) == 8
    assert len(names(config, "validation")) == 4


def test_each_file_comes_once(corpus_dir):
    """Guards against files that two globs share being read twice."""
    config = Documents(
        paths=(f"{corpus_dir}/part0/*.txt", f"{corpus_dir}/*/*.txt", f"{corpus_dir}/part1/document01.txt"),
        validation_fraction=0.0,
    )
    assert len(names(config, "train")) == 12


def test_hidden_files_are_left_out(corpus_dir):
    """Guards against editor and version-control files as documents."""
    (corpus_dir / ".git").mkdir()
    (corpus_dir / ".git" / "config.txt").write_text("secret")
    config = Documents(paths=(f"{corpus_dir}/**/*.txt",), validation_fraction=0.0)
    assert len(names(config, "train")) == 12


def test_empty_glob_is_an_error(corpus_dir):
    """Guards against a mistyped glob that passes silently beside one that matches."""
    with pytest.raises(DataError, match=r"nothing\*\.txt.*Documents\.paths"):
        corpus_files(Documents(paths=(f"{corpus_dir}/part0/*", f"{corpus_dir}/nothing*.txt")), "train")
    with pytest.raises(DataError, match=r"never read from gs://: write '/gcs/my-runs/\*\.txt'"):
        corpus_files(Documents(paths=("gs://my-runs/*.txt",)), "train")


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_two_files_are_enough(tmp_path, fraction):
    """Guards against a small corpus that chance leaves without validation, or without training."""
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("text")
        config = Documents(paths=(f"{tmp_path}/*.txt",), validation_fraction=fraction)
        if number:
            assert len(names(config, "train")) + len(names(config, "validation")) == number + 1


def test_one_file_has_one_split(tmp_path):
    """The message says how to train on it without evaluation."""
    (tmp_path / "0.txt").write_text("text")
    config = Documents(paths=(f"{tmp_path}/0.txt",), validation_fraction=1e-9)
    assert names(config, "train") == ["0.txt"]
    with pytest.raises(DataError, match=r"none of the 1 file \(.*--gin\.TrainJob\.eval_data=None"):
        corpus_files(config, "validation")


def test_a_folder_for_a_glob_is_explained(tmp_path):
    """Whoever names a folder means all files in it."""
    with pytest.raises(DataError, match=r"It is a folder: write '.*/\*\*/\*'"):
        corpus_files(Documents(paths=(str(tmp_path),)), "train")


def test_empty_split_is_an_error(corpus_dir):
    """Guards against an evaluation over nothing."""
    with pytest.raises(DataError, match=r"validation split.*Documents\.validation_paths"):
        corpus_files(Documents(paths=(f"{corpus_dir}/part0/*",), validation_fraction=0.0), "validation")


def test_default_is_the_standard_library():
    """Guards against a default corpus that holds installed packages or tests, or is not there."""
    train, validation = names(Documents(), "train"), names(Documents(), "validation")
    assert len(train) > 300
    assert len(validation) > 20
    assert "argparse.py" in train + validation
    folders = {part for name in train + validation for part in name.split("/")[:-1]}
    assert not folders & {"site-packages", "test", "tests"}


@pytest.mark.parametrize("pattern", ["", ".", "/", "a**/b", "~nobody-here/*.txt"])
def test_what_is_no_glob_is_named(pattern):
    """Guards against pathlib's traceback for a path that was left empty, or names a folder."""
    with pytest.raises(ConfigError, match=r"is no glob of files \(Documents\.paths") as error:
        corpus_files(Documents(paths=(pattern,)), "train")
    assert repr(pattern) in str(error.value)
