"""Which files a corpus has, and which split each belongs to."""

import dataclasses
import glob
import hashlib
import os
import sysconfig
from pathlib import Path

from famjax.data.task_config import Documents
from famjax.errors import ConfigError, DataError
from famjax.plurals import counted

SPLITS = ("train", "validation")
# Not a corpus: installed packages, and tests, some of which are badly encoded on purpose.
_STANDARD_LIBRARY_EXCLUDED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclasses.dataclass(frozen=True, order=True)
class CorpusFile:
    """A file of a corpus.

    Attributes:
      name: its path below the root of its glob, with "/" between folders: what the split's hash is taken of.
      path: where it is.
    """

    name: str
    path: str


def corpus_files(config: Documents, split: str) -> list[CorpusFile]:
    """The files of one split, sorted by name.

    Args:
      config: the globs, and how they are split.
      split: one of SPLITS.

    Raises:
      ConfigError: a glob that is none.
      DataError: a glob without files, or a split without files.
    """
    if config.validation_paths:
        return _matches(config.paths if split == "train" else config.validation_paths)
    files = _matches(config.paths)
    validation = _validation_files(files, config.validation_fraction)
    chosen = [file for file in files if (file in validation) == (split == "validation")]
    if not chosen:
        raise DataError(
            f"The {split} split of the documents has none of the {counted(len(files), 'file')} "
            f"(Documents.validation_fraction is {config.validation_fraction}). Set "
            "--gin.Documents.validation_paths=\"['...']\", or train without evaluation: "
            "--gin.TrainJob.eval_data=None."
        )
    return chosen


def _validation_files(files: list[CorpusFile], fraction: float) -> set[CorpusFile]:
    """The files for validation: each by a hash of its name alone, so that other files do not change it.

    Where that would leave a split empty, and there are two files, the file nearest to the limit changes sides.
    """
    ranked = sorted(files, key=_rank)
    count = sum(_rank(file) < fraction for file in files)
    if 0 < fraction < 1 and len(files) > 1:
        count = min(max(count, 1), len(files) - 1)
    return set(ranked[:count])


def _rank(file: CorpusFile) -> float:
    """A number in [0, 1) that the file's name gives."""
    digest = hashlib.sha256(os.fsencode(file.name)).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _matches(patterns: tuple[str, ...]) -> list[CorpusFile]:
    """The files of all globs, each once, sorted."""
    if not patterns:
        return _standard_library()
    found: dict[Path, CorpusFile] = {}
    for pattern in patterns:
        try:
            root, below = _split_pattern(pattern)
            names = [path.relative_to(root) for path in root.glob(below) if path.is_file()]
        except (ValueError, NotImplementedError, RuntimeError) as error:  # pathlib's, of "", "/", "a**", "~nobody/a"
            raise ConfigError(
                f"{pattern!r} is no glob of files (Documents.paths, Documents.validation_paths): {error}"
            ) from error
        # As in a shell, a wildcard does not stand for a hidden name.
        names = [name for name in names if "/." in f"/{below}" or not any(part.startswith(".") for part in name.parts)]
        if not names:
            folder = Path(pattern).expanduser()
            hint = f" It is a folder: write '{pattern}/**/*'." if folder.is_dir() else where_looked(pattern)
            raise DataError(f"No file matches {pattern!r} (Documents.paths, Documents.validation_paths).{hint}")
        for name in names:
            found.setdefault((root / name).resolve(), CorpusFile(name.as_posix(), str(root / name)))
    return sorted(found.values())


def where_looked(pattern: str) -> str:
    """What a message says behind a glob that matches nothing."""
    if pattern.startswith("gs://"):
        return (
            f" Files are never read from gs://: write {pattern.replace('gs://', '/gcs/', 1)!r}, where a launched run "
            "has its bucket mounted."
        )
    return f" (looked for in {Path.cwd()})"


def _split_pattern(pattern: str) -> tuple[Path, str]:
    """The folder above a glob's first wildcard (a plain path's own folder), and what stands below it."""
    parts = Path(pattern).expanduser().parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed]), "/".join(parts[fixed:])


def _standard_library() -> list[CorpusFile]:
    """The running interpreter's own .py sources."""
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _STANDARD_LIBRARY_EXCLUDED]
        paths = [Path(folder, name) for name in names if name.endswith(".py")]
        files += [CorpusFile(path.relative_to(root).as_posix(), str(path)) for path in paths]
    if not files:
        raise DataError(f"This Python has no sources of its standard library in {root}; set Documents.paths.")
    return sorted(files)
