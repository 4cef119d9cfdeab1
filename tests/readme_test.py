"""README.md: its commands run as they stand, in order, in one folder; its Python runs; its links lead somewhere."""

import gzip
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from famjax.planning.topology import find_libtpu

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# CI runs these (.ci/run, and the demo by hand before a release).
RUN_BY_CI = {"make install", "make demo", "make test"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# (\w+\.\w+)\n")
CONSOLE_SCRIPT = """#!{python}
import sys
sys.path.insert(0, {root!r})
from famjax.main import run
run()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reader's working folder, with the files that the text says they have, and the command `famjax`."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "books").mkdir()
    for number in range(20):
        (folder / "books" / f"{number}.txt").write_text(f"This is book {number}, of many words. " * 60)
    records = "".join(f'{{"title": "{number}", "body": "{"It was a dark night. " * 60}"}}\n' for number in range(50))
    (folder / "records.jsonl.gz").write_bytes(gzip.compress(records.encode()))
    script = folder / "bin" / "famjax"
    script.parent.mkdir()
    script.write_text(CONSOLE_SCRIPT.format(python=sys.executable, root=str(ROOT)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def blocks(language):
    """The fenced blocks in a language, in order."""
    return [text for found, text in FENCE.findall(README) if found == language]


def run(command, folder):
    """Runs a command as a reader's shell does: one device, no matter what the other tests have."""
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XLA_FLAGS": flags, "JAX_NUMPY_RANK_PROMOTION": "allow"}
    return subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_commands_run_as_they_stand(folder):
    """A newcomer copies them one after the other; each must do what the text around it says."""
    for language in ("gin", "python"):
        for text in blocks(language):
            if name := FILE_NAME.match(text):
                (folder / name[1]).write_text(text)
    outputs = []
    for command in blocks("bash"):
        process = run(command, folder)
        if "--run_mode=plan" in command and find_libtpu() is None:
            assert 'pip install "famjax[plan]"' in process.stderr
            continue
        assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
        assert "Traceback" not in process.stderr
        outputs.append(process.stdout)
    dry_run, training, evaluation, finetuning, _, scan, *plan = outputs
    assert re.search(r"^Parameters: [\d,]+ = ", dry_run, re.MULTILINE)
    assert "step 20/20" in training
    assert re.findall(r"^length (\d+): loss", evaluation, re.MULTILINE) == ["256", "1024"]
    assert "Parameters from" in finetuning
    assert "initialised (0): none" in finetuning
    assert "step 10/10" in finetuning
    (answer,) = map(json.loads, (folder / "answers.jsonl").read_text().splitlines())
    assert len(answer["completions"][0]["text"]) > 0
    assert re.search(r"^report: .*runs/scan/report/report\.html$", scan, re.MULTILINE)
    assert (folder / "runs/scan/report/report.html").is_file()
    for page in plan:
        assert page.startswith("Plan for v5e-8: 2x4, 8 chips")
        assert "fits (" in page


def test_mistakes_are_answered_as_shown(folder):
    """The text promises a clear message; this is it."""
    for text in blocks("console"):
        command, _, answer = text.removeprefix("$ ").partition("\n")
        process = run(command, folder)
        assert process.returncode == 2
        assert process.stderr == answer


def test_python_runs(capsys):
    """The interface of the model, as shown."""
    snippets = [text for text in blocks("python") if not FILE_NAME.match(text)]
    assert snippets
    for text in snippets:
        expected = "".join(f"{value}\n" for value in re.findall(r"print\(.*\)  # (.*)", text))
        exec(compile(text, "README.md", "exec"), {})  # noqa: S102 # the page is the test
        assert capsys.readouterr().out == expected != ""


def test_every_block_is_tested():
    """A block in another language, or an indented command, would be run by nobody."""
    assert {language for language, _ in FENCE.findall(README)} <= {"bash", "gin", "python", "console"}
    indented = set(re.findall(r"^    (.*)$", FENCE.sub("", README), re.MULTILINE))
    assert indented == RUN_BY_CI


def test_links_lead_somewhere():
    """A moved page; docs/demo.png, too, has to be committed."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README):
        assert (ROOT / target).exists(), target
