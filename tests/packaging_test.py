"""setup.cfg, the wheel and the lock file."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def setup():
    """Returns setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_packages_are_listed():
    """A package that setup.cfg does not list is missing from the wheel, and from nothing else."""
    listed = set(setup()["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "famjax").rglob("__init__.py")}
    assert listed == found | {"famjax.gin_files"}


def test_gin_folder_is_no_package():
    """With an __init__.py it would hide gin-config wherever the checkout is on the path."""
    assert list((ROOT / "gin").rglob("*.gin"))
    assert not list((ROOT / "gin").rglob("*.py"))


def test_every_requirement_is_locked():
    """`make test` installs the lock file alone."""
    options = setup()
    requirements = options["options"]["install_requires"].split() + options["options.extras_require"]["dev"].split()
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    names = {re.split(r"[\[>]", requirement)[0] for requirement in requirements}
    assert len(names) > 15
    assert names <= locked


def test_wheel_holds_gin_files_and_finds_them(tmp_path):
    """From an installed wheel, with no checkout about, the gin files are those of the package."""
    source = tmp_path / "source"
    for folder in ("famjax", "gin"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / file, source)
    (source / "README.md").write_text("famjax")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")

    names = [str(path.relative_to(ROOT / "gin")) for path in (ROOT / "gin").rglob("*.gin")]
    assert all((tmp_path / "site/famjax/gin_files" / name).is_file() for name in names)
    assert (tmp_path / "site/famjax/py.typed").is_file()
    assert (tmp_path / "site/famjax/interop/decoder_only.json").is_file()
    templates = [path.name for path in (ROOT / "famjax/launch/templates").iterdir()]
    assert all((tmp_path / "site/famjax/launch/templates" / name).is_file() for name in templates)
    assert not (tmp_path / "site/gin").exists()
    flags = ["--gin_file=runs/pretrain.gin", "--gin_file=models/tiny.gin"]
    process = subprocess.run(
        [sys.executable, "-m", "famjax.main", *flags],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert str(tmp_path / "site/famjax/gin_files") in process.stderr or "site/famjax/gin_files/runs" in process.stderr
    assert "--gin_file= one of memory/bswa.gin, memory/fam.gin" in process.stderr
