"""The Dockerfiles in launch/: what they copy and install exists."""

import configparser
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", ["tpu", "cuda"])
def test_image(name):
    """A file that was moved, an extra that was renamed, packages that are not those of the lock file."""
    text = (ROOT / "launch" / f"Dockerfile.{name}").read_text().replace("\\\n", " ")
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [source for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for source in line.split()[:-1]]
    assert {"famjax", "gin", "requirements.lock", "setup.cfg", "pyproject.toml"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    (install,) = re.findall(r"^RUN (pip install .*)$", text, re.MULTILINE)
    assert "--constraint /tmp/famjax/requirements.lock" in install
    (extra,) = re.findall(r'"/tmp/famjax\[(\w+)\]"', install)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert extra == name
    assert f"jax[{name}" in setup["options.extras_require"][extra]
    # A constraint may have no extras, and pins one version.
    locked = (ROOT / "requirements.lock").read_text().splitlines()
    assert all("[" not in line and "==" in line for line in locked)
