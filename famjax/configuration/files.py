"""Finds gin files: from any working directory, in a checkout and in an installed wheel."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import famjax
from famjax.configuration.origin import suggestion
from famjax.errors import ConfigError


def gin_root() -> Path:
    """Returns the folder that holds famjax's own gin files.

    A wheel carries them as famjax/gin_files; in a checkout they lie in gin/, beside the package.
    """
    package = Path(famjax.__file__).parent
    installed = package / "gin_files"
    return installed if installed.is_dir() else package.parent / "gin"


def find_file(name: str, search_paths: Sequence[Path], asked_by: str) -> Path:
    """Returns the first file of that name: as given, then below each search path.

    Args:
      name: a path, absolute or relative.
      search_paths: folders, in order.
      asked_by: the flag or the file:line that names the file, for the message.

    Raises:
      ConfigError: no such file, or it cannot be read; names the folders searched and the nearest file names.
    """
    folders = [Path()] if Path(name).is_absolute() else [Path(), *search_paths]
    for folder in folders:
        path = folder / name
        if path.is_file():
            _require_readable(path, asked_by)
            return path
    searched = ", ".join(str(folder.resolve()) for folder in folders)
    raise ConfigError(
        f"{asked_by}: there is no gin file {name!r}.{_nearest_files(name, folders)}\n  searched: {searched}"
    )


def own_files_with(pattern: str) -> list[str]:
    """famjax's own gin files, as `--gin_file` takes them, with a line in which the regular expression is found."""
    expression = re.compile(pattern, re.MULTILINE)
    return [str(path) for path in _own_files() if expression.search((gin_root() / path).read_text("utf-8"))]


def _own_files() -> list[Path]:
    """famjax's gin files but for those for t5x's main."""
    own = (path.relative_to(gin_root()) for path in sorted(gin_root().rglob("*.gin")))
    return [path for path in own if path.parts[0] != "t5x"]


def _require_readable(path: Path, asked_by: str) -> None:
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{asked_by}: the gin file {str(path)!r} cannot be read: {error}") from error


def _nearest_files(name: str, folders: Sequence[Path]) -> str:
    """Looks in the folder that the name points to and, for famjax's own files, in every folder of them."""
    files = {path.name: str(Path(name).parent / path.name) for folder in folders for path in _listing(folder, name)}
    files |= {path.name: str(path) for path in _own_files()}
    return suggestion(files[match] for match in difflib.get_close_matches(Path(name).name, files, n=2, cutoff=0.75))


def _listing(folder: Path, name: str) -> list[Path]:
    parent = (folder / name).parent
    return sorted(parent.glob("*.gin")) if parent.is_dir() else []
