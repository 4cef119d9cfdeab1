"""docs/: commands load, mistakes are answered as shown, and what is named exists."""

import dataclasses
import functools
import re
import shlex
from pathlib import Path

import jax
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from famjax import main
from famjax.configuration.arguments import parse_arguments
from famjax.configuration.bindings import find_configurable
from famjax.configuration.loading import load
from famjax.configuration.registry import configurable_names
from famjax.evaluation.scan.config import ScanJob
from famjax.interop import huggingface, peft, t5x
from famjax.models.transformer import Transformer
from famjax.training.config import TrainJob
from famjax.training.program import abstract_batch, make_program
from famjax.training.step import train_step
from famjax.training.throughput import Rates

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Command lines of their own.
TOOLS = (huggingface, peft, t5x)
# What an import writes.
IMPORTED = "runs/llama/model.gin"
# Where the pages say that the repository lies.
SHOWN_ROOT = "/home/me/famjax"
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def text_of(page):
    """A page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """The fenced blocks in a language, in order."""
    return [text for found, text in FENCE.findall(text_of(page)) if found == language]


def comparable(text):
    """A text without what is another on every machine, and without line numbers, which every edit moves."""
    return re.sub(r"\.gin:\d+", ".gin:", text.replace(str(ROOT), SHOWN_ROOT))


@by_page
def test_commands_load(page, capsys, monkeypatch, tmp_path):
    """A renamed macro or file, a setting that is gone: every command must load, and show what the page shows of it."""
    monkeypatch.chdir(ROOT)
    tokenizer = str(tmp_path / "tokenizer.json")
    Tokenizer(WordLevel({"</s>": 0, "word": 1}, unk_token="word")).save(tokenizer)
    outputs = []
    for command in blocks(page, "bash"):
        line = re.sub(r"[\w/]*tokenizer\.json", tokenizer, command.replace("\\\n", " "))
        arguments = shlex.split(line.replace(IMPORTED, "models/tiny.gin"))
        if tool := next((tool for tool in TOOLS if arguments[:3] == ["python", "-m", tool.__name__]), None):
            tool.make_parser().parse_args(arguments[3:])
            continue
        assert arguments[0] == "famjax", command
        if arguments[1] == "launch":
            assert main.main(["launch", "render", *arguments[3:], f"--output_dir={tmp_path}"]) == 0
            capsys.readouterr()
            continue
        if "--run_mode=scan" in arguments:  # its dry run looks for the checkpoints
            parsed = parse_arguments(arguments[1:], list(main.RUN_MODES))
            load(ScanJob, parsed.gin_files, parsed.gin_bindings, parsed.gin_search_paths)
            continue
        code = main.main([*arguments[1:], *([] if "--dry_run" in arguments else ["--dry_run"])])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        outputs.append(comparable(captured.out))
    for line in "".join(blocks(page, "text")).splitlines():
        assert any(comparable(line) in output for output in outputs), line


@by_page
def test_mistakes_are_answered_as_shown(page, capsys, monkeypatch):
    """The pages promise messages that help; these are they."""
    monkeypatch.chdir(ROOT)
    for text in blocks(page, "console"):
        command, _, answer = text.removeprefix("$ famjax ").partition("\n")
        assert main.main(shlex.split(command)) == 2
        assert comparable(capsys.readouterr().err) == comparable(answer)


@by_page
def test_named_settings_exist(page):
    """A setting that was renamed."""
    for selector, name in re.findall(r"`(?:\w+/)?([A-Z]\w+)\.(\w+)(?: = [^`]*)?`", text_of(page)):
        if selector not in configurable_names():
            continue  # A class that is no setting, as Transformer.
        cls = find_configurable(selector)
        assert cls is not None
        assert name in {field.name for field in dataclasses.fields(cls)}, f"{selector}.{name}"


@by_page
def test_named_files_exist(page):
    """A module or a page that was moved."""
    text = text_of(page)
    paths = re.findall(r"`(?:python )?((?:famjax|gin|benchmarks)/[\w/.]*)`", text)
    paths += [
        f"gin/{path}" for path in re.findall(r"`((?:runs|models|memory|finetuning|sharding|recipes)/\w+\.gin)`", text)
    ]
    paths += [f"docs/{target}" for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)]
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_table_of_metrics_is_complete():
    """A figure in the log that nobody explains."""
    job = load(TrainJob, ["recipes/demo_fam.gin"], [("MODEL_DIR", "'not-written'")]).job
    program = make_program(job)
    step = functools.partial(train_step, job=job, model=Transformer(job.model), optimizer=program.optimizer)
    batch = abstract_batch(job.data.batch_size, job.data.length, program.mesh)
    _, metrics = jax.eval_shape(step, program.abstract_state, batch)
    logged = {*metrics} - {"tokens", "stage_after"} | {field.name for field in dataclasses.fields(Rates)}
    assert "loss" in logged
    page = text_of(ROOT / "docs" / "training.md")
    assert not {name for name in logged if f"`{name}`" not in page}


def test_the_table_of_macros_is_complete():
    """A macro that no page names is found by nobody."""
    page = text_of(ROOT / "docs" / "configuration.md")
    files = [
        path for folder in ("runs", "memory", "models", "finetuning") for path in (ROOT / "gin" / folder).glob("*.gin")
    ]
    macros = {name for path in files for name in re.findall(r"^([A-Z][A-Z_]+) =", path.read_text(), re.MULTILINE)}
    assert len(macros) > 20
    assert not {name for name in macros if f"`{name}`" not in page}
